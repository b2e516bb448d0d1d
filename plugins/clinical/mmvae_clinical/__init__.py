"""The clinical record: numbers and categories with missing fields, a likelihood of its own for each."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from jaxtyping import Bool, Float, Num
from pyro.distributions import Categorical, StudentT
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from mmvae.batch import Observation
from mmvae.case import View
from mmvae.errors import InputError
from mmvae.latent.gaussian import Gaussian
from mmvae.modality import Modality, TrainingViews

SKEWED = 1.5  # sample skewness above which a positive number is modelled in log


class Fields(TorchDistribution):
    """A distribution over fields (B, F), each a StudentT (a number) or a Categorical (index of a category), independent.

    Args:
        sizes: Number of categories of each field; 0: a number.
        numbers: Over the N numbers, in their order; batch shape (B, N).
        categories: Over the C categories, in their order; batch shape (B, C), logits −∞ beyond a field's own.
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own class attribute
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
        # An index that is no category has no mass; clamp first, since gather may not leave the table.
        known = (x >= 0) & (x < self.count) & (x == x.round())
        index = x.clamp(min=0).minimum(self.count - 1).round().long()
        chosen = torch.where(known, self.categories.log_prob(index), -torch.inf)
        return self._joined(self.numbers.log_prob(value[..., self.number_at]), chosen)

    def sample(self, sample_shape=torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        return self._joined(self.numbers.sample(sample_shape), self.categories.sample(sample_shape))

    @property
    def mean(self) -> Float[Tensor, "*batch F"]:
        """Mean of a number, most probable index of a category."""
        return self._joined(self.numbers.loc, self.categories.logits.argmax(-1))


class _Columns(nn.Module):
    """Where fields of given sizes lie in a table whose rows have a column a number and a column a category's value."""

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
        # Five degrees of freedom: one mistyped age may not dominate a step.
        numbers = StudentT(
            torch.full_like(loc, 5.0),
            loc,
            self.log_scale.clamp(-5, 5).exp().expand_as(loc),
            validate_args=False,
        )
        return Fields(at.sizes, numbers, Categorical(logits=logits, validate_args=False))


@dataclass(frozen=True)
class Clinical(Modality):
    """Record fields (F,): numbers as (x − centre) / spread, in log where skewed; categories as their index.

    Args:
        fields: Field names in the record, or patterns as of a shell (`*_T1_*`); None takes all that a training case has,
            answers left out. Fitting replaces patterns by the names they match in the training cases.
        centre: Median of each number (of its logarithm where `log`); 0 for a category. None until fitted.
        spread: Interquartile range / 1.349 of the same. None until fitted.
        log: Whether the field is modelled in log. None until fitted.
        categories: Values of each category, () for a number. None until fitted.
    """

    fields: tuple[str, ...] | None = None
    centre: tuple[float, ...] | None = None
    spread: tuple[float, ...] | None = None
    log: tuple[bool, ...] | None = None
    categories: tuple[tuple[str, ...], ...] | None = None

    def fitted(self, training: TrainingViews) -> "Clinical":
        seen = [view.record for view in training.views]
        known = sorted({name for record in seen for name in record})
        names = tuple(known) if self.fields is None else tuple(
            name for given in self.fields for name in (_matching(given, known) if "*" in given else [given])
        )  # fmt: skip
        names = tuple(dict.fromkeys(names))
        if not names:
            raise InputError(
                "Clinical found no record field in the training cases; give the scan `--records`, or drop the role"
            )
        rows = []
        for name in names:
            values = [record[name] for record in seen if name in record]
            declared = training.card.fields.get(name)
            if not values and declared is None:
                raise InputError(
                    f"Clinical.fields names {name!r}, which no training case has; it has {sorted({n for r in seen for n in r})}"
                )
            category = declared is not None and declared.type == "category"
            if category or any(isinstance(v, str) for v in values):
                known = {*(declared.values if declared else ()), *map(str, values)}
                rows.append((0.0, 1.0, False, tuple(sorted(known))))
                continue
            x = torch.tensor([float(v) for v in values], dtype=torch.float64)
            log = len(x) > 7 and bool((x > 0).all()) and _skewness(x) > SKEWED
            x = x.log() if log else x
            low, middle, high = (
                torch.quantile(x, torch.tensor([0.25, 0.5, 0.75], dtype=x.dtype)).tolist()
                if len(x)
                else (0, 0, 0)
            )
            # A field whose middle half is one value has no interquartile range; its deviation, else 1, stands in.
            spread = (high - low) / 1.349 or (float(x.std()) if len(x) > 1 else 0.0) or 1.0
            rows.append((round(middle, 6), round(spread, 6) or 1.0, log, ()))
        centre, spread, log, categories = zip(*rows)
        return replace(
            self, fields=tuple(names), centre=centre, spread=spread, log=log, categories=categories
        )

    @property
    def _sizes(self) -> tuple[int, ...]:
        if self.categories is None:
            raise InputError("Clinical is not fitted yet; call fitted(...) with the training views first")
        return tuple(map(len, self.categories))

    def present(self, view: View) -> bool:
        if self.fields is None:
            return bool(view.record)
        return any(_matching(given, view.record) for given in self.fields)

    def read(self, view: View) -> Observation:
        value, mask = [0.0] * len(self._sizes), [False] * len(self._sizes)
        for n, (name, values) in enumerate(zip(self.fields, self.categories)):
            raw = view.record.get(name)
            if raw is None:
                continue
            if values:
                if str(raw) in values:  # a category that training never saw is missing
                    value[n], mask[n] = float(values.index(str(raw))), True
                continue
            try:
                number = float(raw)
            except ValueError as error:
                raise InputError(f"record field {name!r} is {raw!r}, expected a number") from error
            if not math.isfinite(number):
                raise InputError(f"record field {name!r} is {raw!r}; a missing value is absent or null")
            if self.log[n] and number <= 0:
                continue  # outside what the field can be in log
            number = math.log(number) if self.log[n] else number
            value[n], mask[n] = (number - self.centre[n]) / self.spread[n], True
        return Observation(torch.tensor(value), torch.tensor(mask))

    def misfits(self, view: View) -> Sequence[str]:
        found = []
        for name, values in zip(self.fields or (), self.categories or ()):
            raw = view.record.get(name)
            if raw is not None and values and str(raw) not in values:
                found.append(f"the category {str(raw)!r} of {name!r} was never seen in training")
        return found

    def blank(self) -> Observation:
        return Observation(torch.zeros(len(self._sizes)), torch.zeros(len(self._sizes), dtype=torch.bool))

    def encoder(self, latent_dim: int) -> nn.Module:
        return _Encoder(self._sizes, latent_dim)

    def decoder(self, latent_dim: int) -> nn.Module:
        return _Decoder(self._sizes, latent_dim)

    def render(self, view: View) -> str:
        names = self.fields if self.fields is not None else sorted(view.record)
        shown = lambda value: value if isinstance(value, str) else f"{value:.6g}"  # noqa: E731
        said = [f"{_words(name)} {shown(view.record[name])}" for name in names if name in view.record]
        return "; ".join(said) or "no record"

    def describe(self, seen: Observation) -> str:
        said = []
        for n, (name, values) in enumerate(zip(self.fields, self.categories)):
            if not seen.mask[n]:
                continue
            x = float(seen.value[n])
            if values:
                said.append(f"{_words(name)} {values[int(x)]}")
            else:
                natural = x * self.spread[n] + self.centre[n]
                said.append(f"{_words(name)} {math.exp(min(natural, 50)) if self.log[n] else natural:.3g}")
        return "; ".join(said) or "no record"


def _skewness(x: Tensor) -> float:
    centred = x - x.mean()
    return float(centred.pow(3).mean() / centred.square().mean().clamp_min(1e-12).pow(1.5))


def _matching(given: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name == given or ("*" in given and fnmatchcase(name, given))]


def _words(name: str) -> str:
    return name.replace("_", " ")
