"""The retrieval space: how experts become a point, and how far two points are apart.

A point is the posterior mean of the present roles, or that mean after a readout: an affine map to the expected values of
the answer decoders, each coordinate raised to a power. Readout and distance are chosen on the validation cases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmvae.latent.fusion import Fusion, PoE
from mmvae.latent.gaussian import DISTANCES, Gaussian, Posterior

EXPONENTS = (1.0, 1.5, 2.0)  # candidates for a readout
Distance = Literal["cosine", "euclidean"]


@dataclass(frozen=True)
class Readout:
    """u = A z + c, then sign(u) |u|^p.

    With p > 1 the cosine is dominated by the few coordinates in which both cases are unusual, as a radiologist's comparison
    is; with p = 1 many small agreements count as much as one striking agreement.

    Args:
        matrix: A, (U, D) row by row.
        offset: c, (U,).
        exponent: p, above 0.
    """

    matrix: tuple[tuple[float, ...], ...]
    offset: tuple[float, ...]
    exponent: float = 1.0

    def __call__(self, z: Float[Tensor, "N D"]) -> Float[Tensor, "N U"]:
        """The points of these posterior means."""
        u = z @ torch.tensor(self.matrix, device=z.device).T + torch.tensor(self.offset, device=z.device)
        return u if self.exponent == 1 else u.sign() * u.abs() ** self.exponent


@dataclass(frozen=True)
class RetrievalSpace:
    """Forms points from experts and compares them; it is all that an index needs of a model.

    >>> space = RetrievalSpace(PoE(), distance="euclidean")
    >>> experts = Gaussian(torch.ones(1, 2, 3), torch.zeros(1, 2, 3))  # two unit Gaussians about 1, and the prior
    >>> space.points(experts, torch.tensor([[True, True]])).tolist()
    [[0.6666666865348816, 0.6666666865348816, 0.6666666865348816]]

    Args:
        rule: Fuses the experts.
        power: The rule's exponent for each role, if it learns them; None means 1.
        readout: Map from posterior mean to point; None means the identity.
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
        """The point of each case; U is D unless there is a readout. If no role is present, it is the prior's point.

        Args:
            experts: Gaussians (N, M, D), every role in the model's order.
            present: The roles that form the point.
        """
        z = self.posterior(experts, present).mean
        return z if self.readout is None else self.readout(z)

    def distances(self, a: Float[Tensor, "Q U"], b: Float[Tensor, "N U"]) -> Float[Tensor, "Q N"]:
        """The distance of every pair of points."""
        return DISTANCES[self.distance](a, b)


@torch.no_grad()
def readouts(decoders: Sequence[nn.Module], means: Float[Tensor, "N D"]) -> list[Readout]:
    """Candidate readouts: the expected values of each decoder, and of all decoders together, with each of `EXPONENTS`.

    Each expected value is standardised over these posterior means, and decoders count equally, whatever their number of
    values. Decoders are linearised at z = 0; those of terms and reports are linear. A decoder whose distribution has no
    differentiable mean is left out.
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
    joint = [torch.cat(matrices)] if len(matrices) > 1 else []
    return [
        Readout(tuple(map(tuple, matrix.tolist())), tuple((-matrix @ means.mean(0)).tolist()), exponent)
        for matrix in (*matrices, *joint)
        for exponent in EXPONENTS
    ]


def plain_of_release_0_1(fusion: Mapping[str, Any], distance: str) -> dict[str, Any]:
    """Plain values of the space that release 0.1 stored as nested fusions (Sharpened, Projected, Powered)."""
    wrapper = lambda: str(fusion.get("class_path", "")).rsplit(".", 1)[-1]  # noqa: E731
    exponent, power, readout = 1.0, None, None
    if wrapper() == "Sharpened":
        exponent, fusion = fusion["init_args"]["exponent"], fusion["init_args"]["rule"]
    if wrapper() == "Projected":
        projection = fusion["init_args"]
        arguments = {"matrix": projection["matrix"], "offset": projection["offset"], "exponent": exponent}
        readout, fusion = {"class_path": f"{__name__}.Readout", "init_args": arguments}, projection["rule"]
    if wrapper() == "Powered":
        power, fusion = fusion["init_args"]["power"], fusion["init_args"]["rule"]
    arguments = {"rule": dict(fusion), "power": power, "readout": readout, "distance": distance}
    return {"class_path": f"{__name__}.RetrievalSpace", "init_args": arguments}
