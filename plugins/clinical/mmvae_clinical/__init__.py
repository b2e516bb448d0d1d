"""The clinical modality: numbers and categories of the record, any of them missing, each with its own likelihood."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import starmap
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Num
from pyro.distributions import Categorical
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import StudentT

from mmvae.batch import Observation
from mmvae.case import Field, View
from mmvae.errors import InputError
from mmvae.latent.gaussian import Gaussian
from mmvae.modality import Modality, TrainingViews

SKEWED = 1.5  # sample skewness above which a positive number is modelled by its logarithm


class Fields(TorchDistribution):
    """A distribution over independent fields (B, F), each a StudentT (a number) or a Categorical (index of a category).

    Args:
        sizes: Number of categories of each field; 0 for a number.
        numbers: Distribution of the N numbers, in their order; batch shape (B, N).
        categories: Distribution of the C categories, in their order; batch shape (B, C), logits −∞ beyond a field's own.
    """

    # torch's own classes set this attribute where its base class has a property.
    arg_constraints = {}  # noqa: RUF012  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    has_rsample = False

    def __init__(self, sizes: Sequence[int], numbers: StudentT, categories: Categorical):
        self.numbers, self.categories = numbers, categories
        is_number = torch.tensor([n == 0 for n in sizes])
        self.number_at, self.category_at = is_number.nonzero()[:, 0], (~is_number).nonzero()[:, 0]
        self.count = torch.tensor([n for n in sizes if n], device=categories.logits.device)
        batch = numbers.batch_shape[:-1]
        super().__init__(torch.Size([*batch, len(sizes)]), validate_args=False)

    def _joined(
        self, numbers: Float[Tensor, "*batch N"], categories: Num[Tensor, "*batch C"]
    ) -> Float[Tensor, "*batch F"]:
        order = torch.cat([self.number_at, self.category_at]).argsort().to(numbers.device)
        return torch.cat([numbers, categories.to(numbers.dtype)], -1)[..., order]

    def log_prob(self, value: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch F"]:
        x = value[..., self.category_at]
        # An index that is not a category has no mass; it is clamped first, since gather needs a valid index.
        known = (x >= 0) & (x < self.count) & (x == x.round())
        index = x.clamp(min=0).minimum(self.count - 1).round().long()
        log_prob = torch.where(known, self.categories.log_prob(index), -torch.inf)
        return self._joined(self.numbers.log_prob(value[..., self.number_at]), log_prob)

    def sample(self, sample_shape=torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        return self._joined(self.numbers.sample(sample_shape), self.categories.sample(sample_shape))

    @property
    def mean(self) -> Float[Tensor, "*batch F"]:
        """The mean of each number, and the most probable index of each category."""
        return self._joined(self.numbers.loc, self.categories.logits.argmax(-1))


class _Columns(nn.Module):
    """Positions of fields in a table that has one column per number and one per value of a category."""

    number_at: Tensor
    category_at: Tensor
    own: Tensor

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        most = max(*sizes, 1)
        own = torch.tensor([[k < n for k in range(most)] for n in sizes if n], dtype=torch.bool)
        self.register_buffer("number_at", torch.tensor([f for f, n in enumerate(sizes) if not n]).long())
        self.register_buffer("category_at", torch.tensor([f for f, n in enumerate(sizes) if n]).long())
        self.register_buffer("own", own.reshape(-1, most))  # (C, K): whether a category has a k-th value
        self.sizes, self.width = tuple(sizes), sum(max(n, 1) for n in sizes)


class _Encoder(nn.Module):
    def __init__(self, sizes: Sequence[int], latent_dim: int):
        super().__init__()
        self.columns = _Columns(sizes)
        self.body = nn.Sequential(
            nn.Linear(self.columns.width + len(sizes), 64),
            nn.LayerNorm(64),
            nn.SiLU(),
            nn.Linear(64, 2 * latent_dim),
        )

    def forward(self, value: Float[Tensor, "B F"], mask: Bool[Tensor, "B F"]) -> Gaussian:
        at = self.columns
        shown = torch.where(mask, value, 0)
        index = shown[:, at.category_at].long().clamp(0, at.own.shape[1] - 1)
        one_hot = nn.functional.one_hot(index, at.own.shape[1]) * mask[:, at.category_at, None]
        table = torch.cat(
            [shown[:, at.number_at].clamp(-8, 8), one_hot.to(value.dtype)[:, at.own], mask.to(value.dtype)], 1
        )
        mean, logvar = self.body(table).chunk(2, -1)
        return Gaussian(mean, logvar.clamp(-10, 6))


class _Decoder(nn.Module):
    def __init__(self, sizes: Sequence[int], latent_dim: int):
        super().__init__()
        self.columns = _Columns(sizes)
        self.head = nn.Linear(latent_dim, self.columns.width)  # numbers, then each category's values
        self.log_scale = nn.Parameter(torch.zeros(len(self.columns.number_at)))

    def forward(self, z: Float[Tensor, "B D"]) -> Fields:
        at = self.columns
        loc, values = self.head(z).float().tensor_split([len(at.number_at)], -1)
        logits = values.new_full((len(z), *at.own.shape), -torch.inf)
        logits[:, at.own] = values
        # Five degrees of freedom, so that a mistyped age does not dominate a step.
        numbers = StudentT(
            torch.full_like(loc, 5.0),
            loc,
            self.log_scale.clamp(-5, 5).exp().expand_as(loc),
            validate_args=False,
        )
        return Fields(at.sizes, numbers, Categorical(logits=logits, validate_args=False))


@dataclass(frozen=True)
class Clinical(Modality):
    """Record fields (F,): numbers as (x − centre) / spread, after a logarithm if skewed; categories as their index.

    Args:
        fields: Field names in the record, or shell patterns (`*_T1_*`); None takes every field that a training case has,
            except answers. Fitting replaces patterns by the names that they match in the training cases.
        centre: Median of each number (or of its logarithm); 0 for a category. None until fitted.
        spread: Interquartile range / 1.349 of each number (or of its logarithm). None until fitted.
        log: Whether the field is modelled by its logarithm. None until fitted.
        categories: Values of each category, () for a number. None until fitted.
    """

    fields: tuple[str, ...] | None = None
    centre: tuple[float, ...] | None = None
    spread: tuple[float, ...] | None = None
    log: tuple[bool, ...] | None = None
    categories: tuple[tuple[str, ...], ...] | None = None

    def fitted(self, training: TrainingViews) -> "Clinical":
        records = [view.record for view in training.views]
        known = sorted({name for record in records for name in record})
        patterns = ("*",) if self.fields is None else self.fields
        names = [name for p in patterns for name in (_matching(p, known) if "*" in p else [p])]
        if not names:
            raise InputError(
                "Clinical found no record field in the training cases; give the scan a table of records, or drop the role"
            )
        columns = []
        for name in dict.fromkeys(names):
            values, declared = [r[name] for r in records if name in r], training.card.fields.get(name)
            if not values and declared is None:
                raise InputError(
                    f"Clinical.fields names {name!r}, which no training case has; they have {known}"
                )
            columns.append(_column(name, values, declared))
        return replace(
            self,
            fields=tuple(c.name for c in columns),
            centre=tuple(c.centre for c in columns),
            spread=tuple(c.spread for c in columns),
            log=tuple(c.log for c in columns),
            categories=tuple(c.values for c in columns),
        )

    def _columns(self) -> tuple["_Column", ...]:
        """The fitted columns, one per field."""
        fitted = self.fields, self.centre, self.spread, self.log, self.categories
        if any(part is None for part in fitted):
            raise InputError("Clinical is not fitted yet; call fitted(...) with the training views first")
        return tuple(starmap(_Column, zip(*cast(tuple[tuple[Any, ...], ...], fitted))))

    def _sizes(self) -> tuple[int, ...]:
        """Number of categories of each field; 0 for a number."""
        return tuple(len(column.values) for column in self._columns())

    def present(self, view: View) -> bool:
        if self.fields is None:
            return bool(view.record)
        return any(_matching(pattern, view.record) for pattern in self.fields)

    def read(self, view: View) -> Observation:
        values = [column.read(view.record.get(column.name)) for column in self._columns()]
        return Observation(
            torch.tensor([0.0 if value is None else value for value in values]),
            torch.tensor([value is not None for value in values]),
        )

    def misfits(self, view: View) -> Sequence[str]:
        sentences = []
        for name, values in zip(self.fields or (), self.categories or ()):
            raw = view.record.get(name)
            if raw is not None and values and str(raw) not in values:
                sentences.append(f"the category {str(raw)!r} of {name!r} was never seen in training")
        return sentences

    def blank(self) -> Observation:
        count = len(self._sizes())
        return Observation(torch.zeros(count), torch.zeros(count, dtype=torch.bool))

    def encoder(self, latent_dim: int) -> nn.Module:
        return _Encoder(self._sizes(), latent_dim)

    def decoder(self, latent_dim: int) -> nn.Module:
        return _Decoder(self._sizes(), latent_dim)

    def render(self, view: View) -> str:
        names = self.fields if self.fields is not None else sorted(view.record)
        shown = lambda value: value if isinstance(value, str) else f"{value:.6g}"  # noqa: E731
        phrases = [f"{_words(name)} {shown(view.record[name])}" for name in names if name in view.record]
        return "; ".join(phrases) or "no record"

    def describe(self, observation: Observation) -> str:
        phrases = [
            f"{_words(column.name)} {column.word(float(value))}"
            for column, value, measured in zip(self._columns(), observation.value, observation.mask)
            if measured
        ]
        return "; ".join(phrases) or "no record"


@dataclass(frozen=True)
class _Column:
    """One fitted field: how its values in the record become numbers, and back."""

    name: str
    centre: float
    spread: float
    log: bool
    values: tuple[str, ...]

    def read(self, raw: object) -> float | None:
        """The number that the model sees; None if it is missing.

        Raises:
            InputError: if a number is expected and the value is not one.
        """
        if raw is None:
            return None
        if self.values:  # a category that training never saw is missing
            return float(self.values.index(str(raw))) if str(raw) in self.values else None
        try:
            number = float(cast(Any, raw))
        except (TypeError, ValueError) as error:
            raise InputError(f"record field {self.name!r} is {raw!r}, expected a number") from error
        if not math.isfinite(number):
            raise InputError(f"record field {self.name!r} is {raw!r}; a missing value is absent or null")
        if self.log and number <= 0:
            return None  # it has no logarithm
        return ((math.log(number) if self.log else number) - self.centre) / self.spread

    def word(self, x: float) -> str:
        """The value that a number of the model represents, in words."""
        if self.values:
            return self.values[int(x)]
        natural = x * self.spread + self.centre
        return f"{math.exp(min(natural, 50)) if self.log else natural:.3g}"


def _column(name: str, values: Sequence[Any], declared: Field | None) -> _Column:
    """A field's statistics over the training cases: median and interquartile range, after a logarithm if skewed; or its categories."""
    category = declared is not None and declared.type == "category"
    if category or any(isinstance(value, str) for value in values):
        known = {*(declared.values if declared else ()), *map(str, values)}
        return _Column(name, 0.0, 1.0, False, tuple(sorted(known)))
    x = torch.tensor([float(value) for value in values], dtype=torch.float64)
    log = len(x) > 7 and bool((x > 0).all()) and _skewness(x) > SKEWED
    x = x.log() if log else x
    low, middle, high = (
        torch.quantile(x, torch.tensor([0.25, 0.5, 0.75], dtype=x.dtype)).tolist()
        if len(x)
        else (0.0, 0.0, 0.0)
    )
    # If the middle half of a field is a single value, its interquartile range is 0; the standard deviation, else 1, is used instead.
    spread = (high - low) / 1.349 or (float(x.std()) if len(x) > 1 else 0.0) or 1.0
    return _Column(name, round(middle, 6), round(spread, 6) or 1.0, log, ())


def _skewness(x: Tensor) -> float:
    centred = x - x.mean()
    return float(centred.pow(3).mean() / centred.square().mean().clamp_min(1e-12).pow(1.5))


def _matching(pattern: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name == pattern or ("*" in pattern and fnmatchcase(name, pattern))]


def _words(name: str) -> str:
    return name.replace("_", " ")
