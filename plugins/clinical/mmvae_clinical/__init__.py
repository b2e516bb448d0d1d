"""The clinical record: numbers and categories with missing fields, a likelihood of its own for each."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from jaxtyping import Bool, Float
from pyro.distributions import Categorical, StudentT
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from mmvae.batch import Observation
from mmvae.case import InputError, View
from mmvae.latent.gaussian import Gaussian
from mmvae.modality import Modality, TrainingViews

SKEWED = 1.5  # sample skewness above which a positive number is modelled in log


class Fields(TorchDistribution):
    """A distribution over fields (B, F), each StudentT (numbers) or Categorical (index of a category), independent."""

    arg_constraints = {}  # noqa: RUF012 - torch's own class attribute
    has_rsample = False

    def __init__(self, parts: Sequence[StudentT | Categorical]):
        self.parts = tuple(parts)
        batch = self.parts[0].batch_shape
        super().__init__(torch.Size([*batch, len(self.parts)]), validate_args=False)

    def log_prob(self, value: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch F"]:
        scores = []
        for part, x in zip(self.parts, value.unbind(-1)):
            if isinstance(part, Categorical):
                count = part.logits.shape[-1]
                known = (x >= 0) & (x < count) & (x == x.round())
                # An index that is no category has no mass; clamp first, since gather may not leave the table.
                scores.append(
                    torch.where(known, part.log_prob(x.clamp(0, count - 1).round().long()), -torch.inf)
                )
            else:
                scores.append(part.log_prob(x))
        return torch.stack(scores, -1)

    def sample(self, sample_shape=torch.Size()) -> Tensor:  # noqa: B008 - torch's own signature
        return torch.stack([part.sample(sample_shape).float() for part in self.parts], -1)

    @property
    def mean(self) -> Float[Tensor, "*batch F"]:
        """Mean of a number, most probable index of a category."""
        return torch.stack(
            [p.logits.argmax(-1).float() if isinstance(p, Categorical) else p.loc for p in self.parts], -1
        )


class _Encoder(nn.Module):
    def __init__(self, sizes: Sequence[int], latent_dim: int):
        super().__init__()
        self.sizes = tuple(sizes)  # 0: a number
        width = sum(max(n, 1) + 1 for n in sizes)
        self.body = nn.Sequential(
            nn.Linear(width, 64), nn.LayerNorm(64), nn.SiLU(), nn.Linear(64, 2 * latent_dim)
        )

    def forward(self, value: Float[Tensor, "B F"], mask: Bool[Tensor, "B F"]) -> Gaussian:
        columns = []
        for size, x, known in zip(self.sizes, value.unbind(1), mask.unbind(1)):
            shown = (
                x[:, None].clamp(-8, 8)
                if size == 0
                else nn.functional.one_hot(x.long().clamp(0, size - 1), size).to(value.dtype)
            )
            columns += [torch.where(known[:, None], shown, 0), known[:, None].to(value.dtype)]
        mean, logvar = self.body(torch.cat(columns, 1)).chunk(2, -1)
        return Gaussian(mean, logvar.clamp(-10, 6))


class _Decoder(nn.Module):
    def __init__(self, sizes: Sequence[int], latent_dim: int):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(latent_dim, n or 1) for n in sizes)
        self.log_scale = nn.Parameter(torch.zeros(sum(n == 0 for n in sizes)))
        self.sizes = tuple(sizes)

    def forward(self, z: Float[Tensor, "B D"]) -> Fields:
        parts, scales = [], iter(self.log_scale.clamp(-5, 5).exp())
        for size, head in zip(self.sizes, self.heads):
            if size:
                parts.append(Categorical(logits=head(z).float(), validate_args=False))
            else:
                loc = head(z)[:, 0].float()
                # Five degrees of freedom: one mistyped age may not dominate a step.
                parts.append(
                    StudentT(torch.full_like(loc, 5.0), loc, next(scales).expand_as(loc), validate_args=False)
                )
        return Fields(parts)


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
            declared = training.card.fields.get(name, {})
            if not values and not declared:
                raise InputError(
                    f"Clinical.fields names {name!r}, which no training case has; it has {sorted({n for r in seen for n in r})}"
                )
            if declared.get("type") == "category" or any(isinstance(v, str) for v in values):
                known = {*map(str, declared.get("values", ())), *map(str, values)}
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
        value, mask = torch.zeros(len(self._sizes)), torch.zeros(len(self._sizes), dtype=torch.bool)
        for n, (name, values) in enumerate(zip(self.fields, self.categories)):
            raw = view.record.get(name)
            if raw is None:
                continue
            if values:
                if str(raw) in values:  # a category that training never saw is missing
                    value[n], mask[n] = values.index(str(raw)), True
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
        return Observation(value, mask)

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
