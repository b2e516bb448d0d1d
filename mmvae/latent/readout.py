"""How a posterior mean is compared: through an affine map to what the decoders of the answers expect, each coordinate raised."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmvae.latent.fusion import Fusion, Projected, Sharpened

EXPONENTS = (1.0, 1.5, 2.0)  # that are tried


@dataclass(frozen=True)
class Readout:
    """u = A z + c, then sign(u) |u|^p.

    Args:
        matrix: A, (U, D) row by row.
        offset: c, (U,).
        exponent: p, above 0.
    """

    matrix: tuple[tuple[float, ...], ...]
    offset: tuple[float, ...]
    exponent: float = 1.0

    def over(self, rule: Fusion) -> Fusion:
        """The rule whose posterior is seen so."""
        seen = Projected(rule, self.matrix, self.offset)
        return seen if self.exponent == 1 else Sharpened(seen, self.exponent)

    def __call__(self, z: Float[Tensor, "N D"]) -> Float[Tensor, "N U"]:
        """Where these means lie."""
        u = z @ torch.tensor(self.matrix).T + torch.tensor(self.offset)
        return u.sign() * u.abs() ** self.exponent


@torch.no_grad()
def readouts(decoders: Sequence[nn.Module], means: Float[Tensor, "N D"]) -> list[Readout]:
    """What each decoder expects, and what all do, with each of `EXPONENTS`.

    Each expected value is standardised over these posterior means, and decoders count equally, whatever their number of
    values. They are taken as linear about z = 0, which those of terms and reports are; one whose distribution has no
    differentiable mean gives none.
    """
    matrices = []
    for decoder in decoders:
        origin = torch.zeros(means.shape[1], device=means.device)
        with torch.enable_grad():
            if not decoder(origin[None].requires_grad_()).mean.requires_grad:
                continue
            slope = torch.autograd.functional.jacobian(
                lambda z, d=decoder: d(z[None]).mean.flatten().float(), origin
            )
        spread = (means @ slope.T).std(0)
        varies = spread > 1e-6 * spread.max()
        if len(means) > 1 and torch.isfinite(spread).all() and varies.any():
            matrices.append(slope[varies] / spread[varies, None] / varies.sum().sqrt())
    every = [torch.cat(matrices)] if len(matrices) > 1 else []
    return [
        Readout(tuple(map(tuple, matrix.tolist())), tuple((-matrix @ means.mean(0)).tolist()), exponent)
        for matrix in (*matrices, *every)
        for exponent in EXPONENTS
    ]
