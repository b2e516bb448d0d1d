"""The retrieval space: how experts become a point, and how far two points are apart.

A point is the posterior mean of the roles that are there, or that mean seen through a readout: an affine map to what the
decoders of the answers expect, each coordinate raised to a power. Which readout and which distance is chosen on validation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmvae.latent.fusion import Fusion, PoE
from mmvae.latent.gaussian import DISTANCES, Gaussian, Posterior

EXPONENTS = (1.0, 1.5, 2.0)  # that are tried
Distance = Literal["cosine", "euclidean"]


@dataclass(frozen=True)
class Readout:
    """u = A z + c, then sign(u) |u|^p.

    A cosine of raised coordinates rests on the few in which both cases are far from the usual, as a radiologist's
    comparison does; a plain sum counts many small agreements as much as one striking one.

    Args:
        matrix: A, (U, D) row by row.
        offset: c, (U,).
        exponent: p, above 0.
    """

    matrix: tuple[tuple[float, ...], ...]
    offset: tuple[float, ...]
    exponent: float = 1.0

    def __call__(self, z: Float[Tensor, "N D"]) -> Float[Tensor, "N U"]:
        """Where these posterior means lie."""
        u = z @ torch.tensor(self.matrix, device=z.device).T + torch.tensor(self.offset, device=z.device)
        return u if self.exponent == 1 else u.sign() * u.abs() ** self.exponent


@dataclass(frozen=True)
class RetrievalSpace:
    """What an index needs of a model: it forms points from experts and compares them.

    >>> space = RetrievalSpace(PoE(), distance="euclidean")
    >>> experts = Gaussian(torch.ones(1, 2, 3), torch.zeros(1, 2, 3))  # two unit Gaussians about 1, and the prior
    >>> space.points(experts, torch.tensor([[True, True]])).tolist()
    [[0.6666666865348816, 0.6666666865348816, 0.6666666865348816]]

    Args:
        rule: Fuses the experts.
        power: The rule's exponent for each role, where it learns them; None is 1.
        readout: What a posterior mean is seen through; None shows it as it is.
        distance: A key of `DISTANCES`.
    """

    rule: Fusion = PoE()  # noqa: RUF009 - frozen
    power: tuple[float, ...] | None = None
    readout: Readout | None = None
    distance: Distance = "cosine"

    def posterior(self, experts: Gaussian, present: Bool[Tensor, "N M"]) -> Posterior:
        """The joint posterior of the present experts."""
        power = None if self.power is None else torch.tensor(self.power, device=present.device)
        return self.rule(experts, present, power)

    def points(self, experts: Gaussian, present: Bool[Tensor, "N M"]) -> Float[Tensor, "N U"]:
        """Where each case lies; U is D unless a readout maps elsewhere. Where nothing is present it is the prior's point.

        Args:
            experts: (N, M, D), every role in the model's order.
            present: Which of them form the point.
        """
        z = self.posterior(experts, present).mean
        return z if self.readout is None else self.readout(z)

    def distances(self, a: Float[Tensor, "Q U"], b: Float[Tensor, "N U"]) -> Float[Tensor, "Q N"]:
        """The distance of every pair of points."""
        return DISTANCES[self.distance](a, b)


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
            expected = lambda z, d=decoder: d(z[None]).mean.flatten().float()  # noqa: E731
            slope = torch.autograd.functional.jacobian(expected, origin)
        std = (means @ slope.T).std(0)
        varies = std > 1e-6 * std.max()
        if len(means) > 1 and torch.isfinite(std).all() and varies.any():
            matrices.append(slope[varies] / std[varies, None] / varies.sum().sqrt())
    every = [torch.cat(matrices)] if len(matrices) > 1 else []
    return [
        Readout(tuple(map(tuple, matrix.tolist())), tuple((-matrix @ means.mean(0)).tolist()), exponent)
        for matrix in (*matrices, *every)
        for exponent in EXPONENTS
    ]


def plain_of_release_0_1(fusion: Mapping[str, Any], distance: str) -> dict[str, Any]:
    """What release 0.1 kept as a fusion that wraps another (Sharpened, Projected, Powered) as a space's plain values."""
    wrapper = lambda: str(fusion.get("class_path", "")).rsplit(".", 1)[-1]  # noqa: E731
    exponent, power, readout = 1.0, None, None
    if wrapper() == "Sharpened":
        exponent, fusion = fusion["init_args"]["exponent"], fusion["init_args"]["rule"]
    if wrapper() == "Projected":
        held = fusion["init_args"]
        arguments = {"matrix": held["matrix"], "offset": held["offset"], "exponent": exponent}
        readout, fusion = {"class_path": f"{__name__}.Readout", "init_args": arguments}, held["rule"]
    if wrapper() == "Powered":
        power, fusion = fusion["init_args"]["power"], fusion["init_args"]["rule"]
    arguments = {"rule": dict(fusion), "power": power, "readout": readout, "distance": distance}
    return {"class_path": f"{__name__}.RetrievalSpace", "init_args": arguments}
