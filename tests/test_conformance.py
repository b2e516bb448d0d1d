"""Each conformance check fails on a mutated copy of a shipped plugin, and passes on the plugin as shipped."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
import yaml
from mmvae_clinical import Clinical
from mmvae_mri.structural import T2
from mmvae_report import Report
from mmvae_terms import Terms
from torch import nn

from mmvae.batch import Motion, Observation
from mmvae.case import Asset, Card, View
from mmvae.latent.gaussian import Gaussian
from mmvae.testing import Subject, conformance

CARD = Card("c", "table", terms=({"name": "a", "parent": None}, {"name": "b", "parent": None}))
GRID = {"shape": (4, 8, 8), "spacing_mm": (6.0, 6.0, 6.0)}


def clinical_views(root):
    return [View(root, record={"age_years": 30.0 + n, "weight_kg": 60.0 + (n * 7) % 5}) for n in range(5)]


def terms_views(root):
    return [View(root, terms=t) for t in (("a",), ("b",), ("a", "b"), (), ("a",))]


def image_views(root):
    from mmvae.ingest.nifti import write_nifti

    made, rng = [], np.random.default_rng(0)
    for n in range(4):
        volume = rng.integers(50, 900, (10, 10, 6)).astype(np.int16)
        write_nifti(root / f"{n}.nii.gz", volume, np.diag([5.0, 5.0, 5.0, 1.0]))
        made.append(View(root, (Asset("volume", f"{n}.nii.gz", str(n), "t2"),), frame_mm=(22.0, 22.0, 12.0)))
    return made


def text_views(root):
    for n in range(4):
        (root / f"{n}.txt").write_text(f"Cyst number {n}. No ascites.")
    return [View(root, (Asset("text", f"{n}.txt", str(n), "report"),)) for n in range(4)]


@dataclass(frozen=True)
class NoDefault(Terms):
    names: tuple[str, ...] | None = field(default_factory=list)  # a list cannot be hashed


@dataclass(frozen=True)
class WideBlank(Clinical):
    def blank(self):
        seen = Clinical.blank(self)
        return Observation(
            torch.cat([seen.value, torch.zeros(1)]), torch.cat([seen.mask, torch.zeros(1, dtype=torch.bool)])
        )


@dataclass(frozen=True)
class Noisy(T2):
    def read(self, view):
        seen = T2.read(self, view)
        return Observation(seen.value + torch.rand(seen.value.shape), seen.mask)


@dataclass(frozen=True)
class Peeking(Report):
    dim: int = 384
    seen: int | None = None

    def fitted(self, training):
        return replace(self, seen=len(list(training.views[0].root.glob("*.txt"))))


class _Short(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, value, mask):
        expert = self.inner(value, mask)
        return Gaussian(expert.mean[:1], expert.logvar[:1])


@dataclass(frozen=True)
class OneRow(Terms):
    def encoder(self, latent_dim):
        return _Short(Terms.encoder(self, latent_dim))


class _Wrapped(nn.Module):
    def __init__(self, inner, change):
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, *inputs):
        return self.change(self.inner(*inputs))


class _Distribution:
    """A distribution whose log_prob is bent; all else is the inner one's."""

    def __init__(self, inner, bend):
        self.inner, self.bend = inner, bend

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def log_prob(self, value):
        return self.bend(self.inner.log_prob(value))


@dataclass(frozen=True)
class SummedScore(T2):
    def decoder(self, latent_dim):
        return _Wrapped(T2.decoder(self, latent_dim), lambda d: _Distribution(d, lambda s: s.sum((2, 3, 4))))


@dataclass(frozen=True)
class Spreading(T2):
    def augment(self, seen, motion, generator):
        return Observation(seen.value + 0.1 * seen.value.mean(), seen.mask)


class _BatchNormed(nn.Module):
    def __init__(self, inner, width):
        super().__init__()
        self.inner, self.norm = inner, nn.BatchNorm1d(width)

    def forward(self, value, mask):
        expert = self.inner(value, mask)
        return Gaussian(expert.mean - expert.mean.mean(0, keepdim=True), expert.logvar)


@dataclass(frozen=True)
class BatchMates(Clinical):
    def encoder(self, latent_dim):
        return _BatchNormed(Clinical.encoder(self, latent_dim), latent_dim)


@dataclass(frozen=True)
class Doubled(T2):
    def decoder(self, latent_dim):
        return _Wrapped(T2.decoder(self, latent_dim), lambda d: _Distribution(d, lambda s: s + 0.7))


@dataclass(frozen=True)
class DoubledEvent(Report):
    def decoder(self, latent_dim):
        return _Wrapped(Report.decoder(self, latent_dim), lambda d: _Distribution(d, lambda s: s + 0.7))


@dataclass(frozen=True)
class DoubledMass(Terms):
    def decoder(self, latent_dim):
        return _Wrapped(Terms.decoder(self, latent_dim), lambda d: _Distribution(d, lambda s: s + 0.7))


class _Idle(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.idle = inner, nn.Linear(2, 2)

    def forward(self, *inputs):
        return self.inner(*inputs)


@dataclass(frozen=True)
class IdleParameter(Terms):
    def encoder(self, latent_dim):
        return _Idle(Terms.encoder(self, latent_dim))


@dataclass(frozen=True)
class Telling(Report):
    def render(self, view):
        return f"file {view.root.name}: {Report.render(self, view)}"


@dataclass(frozen=True)
class NotPlain(Terms):
    parents: object = frozenset({"x"})


@dataclass(frozen=True)
class Unregistered(Terms):
    pass


@dataclass(frozen=True)
class Still(T2):
    def augment(self, seen, motion, generator):
        return T2.augment(self, seen, Motion(), generator)


@dataclass(frozen=True)
class Unscorable(Terms):
    def decoder(self, latent_dim):
        return _Wrapped(Terms.decoder(self, latent_dim), lambda d: _Distribution(d, lambda s: s * torch.nan))


MUTANTS = [
    (conformance.recipe_is_plain, NoDefault(), Terms(), terms_views),
    (conformance.blank_has_the_shape_of_every_read, WideBlank(), Clinical(), clinical_views),
    (conformance.read_is_deterministic_and_finite, Noisy(**GRID), T2(**GRID), image_views),
    (conformance.fitted_uses_only_the_training_views, Peeking(), Report(), text_views),
    (conformance.expert_has_a_row_a_case, OneRow(), Terms(), terms_views),
    (conformance.log_prob_has_the_mask_s_shape, SummedScore(**GRID), T2(**GRID), image_views),
    (conformance.what_is_masked_changes_nothing, Spreading(**GRID), T2(**GRID), image_views),
    (conformance.expert_ignores_batch_mates, BatchMates(), Clinical(), clinical_views),
    (conformance.likelihood_is_normalised, Doubled(**GRID), T2(**GRID), image_views),
    (conformance.likelihood_is_normalised, DoubledEvent(), Report(), text_views),
    (conformance.likelihood_is_normalised, DoubledMass(), Terms(), terms_views),
    (conformance.every_parameter_learns, IdleParameter(), Terms(), terms_views),
    (conformance.render_shows_and_tells_no_identifier, Telling(), Report(), text_views),
    (conformance.yaml_round_trip_is_equal, NotPlain(), Terms(), terms_views),
    (conformance.entry_point_is_declared, Unregistered(), Terms(), terms_views),
    (conformance.augment_obeys_motion_and_seed, Still(**GRID), T2(**GRID), image_views),
    (conformance.passes_through_the_model, Unscorable(), Terms(), terms_views),
]


@pytest.mark.parametrize(
    ("check", "mutant", "shipped", "views"), MUTANTS, ids=lambda x: getattr(x, "__name__", type(x).__name__)
)
def test_the_check_finds_the_mutant_and_passes_the_shipped_plugin(check, mutant, shipped, views, tmp_path):
    root = tmp_path / "DOE_JANE"
    root.mkdir()
    made = views(root)
    check(Subject(shipped, made[:-1], made[-1:], CARD, identifiers=("DOE_JANE",)))
    with pytest.raises((AssertionError, TypeError, ValueError, yaml.YAMLError)) as caught:
        check(Subject(mutant, made[:-1], made[-1:], CARD, identifiers=("DOE_JANE",)))
    assert "jaxtyping" not in str(type(caught.value)) or check is conformance.expert_has_a_row_a_case


def test_a_heavy_import_is_found(tmp_path, monkeypatch):
    (tmp_path / "heavy_plugin.py").write_text(
        "import torchio\nfrom dataclasses import dataclass\nfrom mmvae_terms import Terms\n@dataclass(frozen=True)\nclass Heavy(Terms):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    import heavy_plugin

    made = terms_views(tmp_path)
    conformance.import_is_light(Subject(Terms(), made[:-1], made[-1:], CARD))
    with pytest.raises(AssertionError, match="torchio"):
        conformance.import_is_light(Subject(heavy_plugin.Heavy(), made[:-1], made[-1:], CARD))


def test_every_check_has_a_mutant():
    with_mutant = {check for check, *_ in MUTANTS} | {conformance.import_is_light}
    assert set(conformance.CHECKS) == with_mutant
