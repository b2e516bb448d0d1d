"""Observations (the values of one role of a case, with a mask), batches of them, and the motion shared by a case's images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Observation:
    """A value (mask shape + event) and a mask of where it was measured, of one case or of a batch of cases.

    >>> observation = Observation(torch.tensor([1.5, float("nan")]), torch.tensor([True, False]))
    >>> observation.clean().value.tolist()  # what was not measured reaches no network
    [1.5, 0.0]
    """

    value: Float[Tensor, "..."]
    mask: Bool[Tensor, "..."]

    def clean(self) -> "Observation":
        """The observation with 0 wherever nothing was measured, as it is passed to an encoder."""
        event = self.value.dim() - self.mask.dim()
        # The mask goes first: NaN * 0 is NaN, so multiplying would let an unmeasured value through.
        return Observation(torch.where(self.mask[(...,) + (None,) * event], self.value, 0), self.mask)

    def rows(self, index: Tensor) -> "Observation":
        """The rows of a batch with these indices or this mask."""
        return Observation(self.value[index], self.mask[index])


@dataclass(frozen=True)
class Motion:
    """A rigid motion with scale and flip about the case's frame, in patient LPS mm.

    Args:
        rotation_deg: Angles about the left–right, posterior and superior axes, applied in this order.
        translation_mm: Shift after the rotation.
        scale: Factor on lengths.
        flip: Whether left–right is mirrored.
    """

    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    translation_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0
    flip: bool = False

    def matrix(self) -> Float[Tensor, "4 4"]:
        """The homogeneous matrix that takes a point at rest (mm from the frame) to where the motion carries it."""
        whole = torch.eye(4)
        for axis, degrees in enumerate(self.rotation_deg):
            c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            turn, (a, b) = torch.eye(4), [i for i in range(3) if i != axis]
            turn[a, a] = turn[b, b] = c
            turn[a, b], turn[b, a] = -s, s
            whole = turn @ whole
        size = torch.diag(
            torch.tensor([-self.scale if self.flip else self.scale, self.scale, self.scale, 1.0])
        )
        whole = whole @ size
        whole[:3, 3] = torch.tensor(self.translation_mm)
        return whole


@dataclass(frozen=True)
class MotionRange:
    """The range from which a `Motion` is drawn uniformly, once per case and epoch; all 0 is no motion.

    >>> motion = MotionRange(rotation_deg=10.0).draw(torch.Generator().manual_seed(0))
    >>> max(map(abs, motion.rotation_deg)) <= 10, motion.scale
    (True, 1.0)
    >>> MotionRange().draw(torch.Generator().manual_seed(0)) == Motion()
    True

    Args:
        rotation_deg: Largest angle about each axis.
        translation_mm: Largest shift along each axis.
        scale: Largest relative change of size.
        flip: Whether left and right may be exchanged; leave it off where laterality is a target.
    """

    rotation_deg: float = 0.0
    translation_mm: float = 0.0
    scale: float = 0.0
    flip: bool = False

    def draw(self, generator: torch.Generator) -> Motion:
        """A random motion; the same state of the generator gives the same motion."""
        u = (torch.rand(8, generator=generator) * 2 - 1).tolist()
        angle, shift = self.rotation_deg, self.translation_mm
        return Motion(
            (u[0] * angle, u[1] * angle, u[2] * angle),
            (u[3] * shift, u[4] * shift, u[5] * shift),
            1 + u[6] * self.scale,
            self.flip and u[7] > 0,
        )


@dataclass(frozen=True)
class Batch:
    """Observations by role, which of them are present (B, M; M in the order of the roles), and the ids of the cases."""

    observations: Mapping[str, Observation]
    present: Bool[Tensor, "B M"]
    case_ids: Sequence[str]

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """The same batch on another device (Lightning's transfer calls this)."""
        move = lambda x: x.to(device, non_blocking=non_blocking)  # noqa: E731
        moved = {role: Observation(move(o.value), move(o.mask)) for role, o in self.observations.items()}
        return Batch(moved, move(self.present), self.case_ids)


def collate(items: Sequence[tuple[str, Mapping[str, Observation], Sequence[bool]]]) -> Batch:
    """Stacks cases given as (case id, observations by role, present by role)."""
    ids, observations, present = zip(*items)
    stacked = {
        role: Observation(
            torch.stack([case[role].value for case in observations]),
            torch.stack([case[role].mask for case in observations]),
        )
        for role in observations[0]
    }
    return Batch(stacked, torch.tensor(present, dtype=torch.bool), ids)
