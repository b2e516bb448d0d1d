"""Conformance checks of the modality contract, one function per claim; each raises AssertionError with the reason."""

import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import yaml
from PIL.Image import Image

from mmvae.batch import Batch, Motion, Observation
from mmvae.case import Card, View
from mmvae.discovery import installed
from mmvae.latent.gaussian import Gaussian, masked_sum
from mmvae.modality import Modality, TrainingViews
from mmvae.plain import from_plain, to_plain, trust

LATENT = 6
_HEAVY = (
    "sentence_transformers",
    "transformers",
    "torchio",
    "SimpleITK",
    "lightning",
    "wandb",
    "matplotlib.pyplot",
)


@dataclass(frozen=True)
class Subject:
    """A modality to be checked, with views that its `read` can open.

    Args:
        recipe: The recipe as a user would write it in YAML, not fitted.
        training: Views of at least three training cases that have the modality.
        held_out: Views of at least one case that `fitted` may not look at.
        card: The card that `fitted` may read besides the training views.
        identifiers: Words in the views' folder names and texts that may not be shown.
    """

    recipe: Modality
    training: Sequence[View]
    held_out: Sequence[View]
    card: Card = field(default_factory=lambda: Card("conformance", "table"))
    identifiers: Sequence[str] = ()

    def fitted(self) -> Modality:
        """The recipe fitted on the training views."""
        return self.recipe.fitted(TrainingViews(self.card, tuple(self.training)))

    def batch(self, count: int, fitted: Modality | None = None) -> Observation:
        """A batch of `count` observations, with cases repeated as needed."""
        fitted = fitted or self.fitted()
        views = [*self.training, *self.held_out]
        observations = [fitted.read(views[i % len(views)]) for i in range(count)]
        return Observation(
            torch.stack([o.value for o in observations]), torch.stack([o.mask for o in observations])
        ).clean()


def recipe_is_plain(subject: Subject) -> None:
    """A recipe is a frozen dataclass, hashable, picklable, every field with a default."""
    for recipe in (subject.recipe, subject.fitted()):
        parameters = getattr(type(recipe), "__dataclass_params__", None)
        assert dataclasses.is_dataclass(recipe) and getattr(parameters, "frozen", False), (
            "the recipe must be a frozen dataclass"
        )
        for f in dataclasses.fields(recipe):
            assert f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING, (
                f"field {f.name} has no default"
            )
        assert pickle.loads(pickle.dumps(recipe)) == recipe, "the recipe must be equal after pickling"
        hash(recipe)


def blank_has_the_shape_of_every_read(subject: Subject) -> None:
    """`blank()` is zeros and False in the shape of every `read`; value.shape = mask.shape + event."""
    fitted = subject.fitted()
    blank = fitted.blank()
    assert not blank.mask.any() and not blank.value.any(), "blank() must be zeros with mask False"
    for view in (*subject.training, *subject.held_out):
        observation = fitted.read(view)
        assert observation.value.shape == blank.value.shape, (
            f"read gives {tuple(observation.value.shape)}, blank {tuple(blank.value.shape)}"
        )
        assert observation.mask.shape == blank.mask.shape, (
            f"read's mask is {tuple(observation.mask.shape)}, blank's {tuple(blank.mask.shape)}"
        )
        assert observation.value.shape[: observation.mask.dim()] == observation.mask.shape, (
            "value.shape must begin with mask.shape"
        )


def read_is_deterministic_and_finite(subject: Subject) -> None:
    """`read` gives the same finite float32 each time, and measures something of a view that is present."""
    fitted = subject.fitted()
    for view in (*subject.training, *subject.held_out):
        assert fitted.present(view), "the subject's views must be present"
        a, b = fitted.read(view), fitted.read(view)
        assert a.value.dtype == torch.float32 and a.mask.dtype == torch.bool, "expected float32 and bool"
        assert torch.equal(a.mask, b.mask) and torch.equal(a.clean().value, b.clean().value), (
            "two reads differ"
        )
        assert torch.isfinite(a.clean().value).all(), "a measured value is not finite"
        assert a.mask.any(), "nothing is measured in a view that is present"


def fitted_uses_only_the_training_views(subject: Subject) -> None:
    """`fitted` gives the same recipe without the held-out cases' files, and a fitted recipe is unchanged by fitting it again."""
    first = subject.fitted()
    hidden = []
    try:
        for view in subject.held_out:
            for asset in view.assets:
                path = view.path(asset)
                if path.exists():
                    path.rename(path.with_name(path.name + ".hidden"))
                    hidden.append(path)
        assert subject.fitted() == first, "fitted looks at files of cases that are not training views"
    finally:
        for path in hidden:
            path.with_name(path.name + ".hidden").rename(path)
    assert first.fitted(TrainingViews(subject.card, tuple(subject.training))) == first, (
        "a fitted recipe changes when fitted again"
    )


def expert_has_a_row_a_case(subject: Subject) -> None:
    """The expert is a finite Gaussian (B, D) for B = 1 and 3, and for a batch in which the role is wholly absent."""
    fitted = subject.fitted()
    encoder = fitted.encoder(LATENT)
    blank = fitted.blank()
    absent = Observation(torch.stack([blank.value] * 2), torch.stack([blank.mask] * 2))
    for observation in (subject.batch(1, fitted), subject.batch(3, fitted), absent):
        expert = encoder(observation.value, observation.mask)
        assert isinstance(expert, Gaussian), (
            f"the encoder gives a {type(expert).__name__}, expected a Gaussian"
        )
        for part in (expert.mean, expert.logvar):
            assert part.shape == (len(observation.value), LATENT), (
                f"expected {(len(observation.value), LATENT)}, found {tuple(part.shape)}"
            )
            assert torch.isfinite(part).all(), "the expert is not finite"


def log_prob_has_the_mask_s_shape(subject: Subject) -> None:
    """The `log_prob` of the decoder's distribution has shape (B, *mask shape)."""
    fitted = subject.fitted()
    for count in (1, 3):
        observation = subject.batch(count, fitted)
        score = fitted.decoder(LATENT)(torch.randn(count, LATENT)).log_prob(observation.value)
        assert score.shape == observation.mask.shape, (
            f"log_prob is {tuple(score.shape)}, the mask {tuple(observation.mask.shape)}"
        )


def what_is_masked_changes_nothing(subject: Subject) -> None:
    """NaN under the mask changes neither augmentation, nor expert, nor score, nor any gradient."""
    fitted = subject.fitted()
    whole = fitted.read(subject.training[0])
    mask = whole.mask.clone(
        memory_format=torch.contiguous_format
    )  # an expanded mask has no memory of its own
    flat = mask.reshape(-1)
    flat[: max(1, flat.numel() // 3)] = False if flat.numel() > 1 else flat[0]
    event = whole.value.dim() - whole.mask.dim()
    dirty = torch.where(mask[(...,) + (None,) * event], whole.value, float("nan"))
    clean = Observation(whole.value, mask).clean()
    motion = Motion((5.0, 0.0, 0.0), (2.0, 0.0, 0.0), 1.05)
    moved = [
        fitted.augment(o, motion, torch.Generator().manual_seed(1)).clean()
        for o in (clean, Observation(dirty, mask))
    ]
    assert torch.equal(moved[0].mask, moved[1].mask), "NaN under the mask changes the augmented mask"
    assert torch.equal(moved[0].value, moved[1].value), "NaN under the mask spreads by augmentation"
    encoder, decoder = fitted.encoder(LATENT), fitted.decoder(LATENT)
    z = torch.randn(1, LATENT)
    results = []
    for value in (clean.value, dirty):
        observation = Observation(value[None], mask[None]).clean()
        for module in (encoder, decoder):
            module.zero_grad()
        expert = encoder(observation.value, observation.mask)
        score = masked_sum(decoder(z).log_prob(observation.value), observation.mask)
        (expert.mean.sum() + score.sum()).backward()
        gradients = [p.grad for m in (encoder, decoder) for p in m.parameters() if p.grad is not None]
        results.append((expert.mean, score, sum(g.abs().sum() for g in gradients)))
    for a, b in zip(*results):
        assert torch.isfinite(b).all(), "NaN under the mask reaches expert, score or gradient"
        torch.testing.assert_close(a, b)


def expert_ignores_batch_mates(subject: Subject) -> None:
    """A case's expert is the same alone and in a batch, including in training mode (no BatchNorm)."""
    fitted = subject.fitted()
    encoder = fitted.encoder(LATENT).train()
    together = subject.batch(3, fitted)
    torch.manual_seed(0)
    whole = encoder(together.value, together.mask)
    for row in range(3):
        alone = encoder(together.value[row : row + 1], together.mask[row : row + 1])
        torch.testing.assert_close(
            alone.mean[0], whole.mean[row], atol=1e-4, rtol=1e-4, msg="an expert depends on its batch-mates"
        )


def likelihood_is_normalised(subject: Subject) -> None:
    """Each element's likelihood is a density on the reals or a probability mass on 0, 1, 2 …; events are checked by Monte Carlo."""
    fitted = subject.fitted()
    torch.manual_seed(0)
    decoder = fitted.decoder(LATENT)
    observation = subject.batch(1, fitted)
    with torch.no_grad():
        distribution = decoder(torch.randn(1, LATENT))
        if observation.value.dim() > observation.mask.dim():
            _events_are_normalised(distribution, observation)
            return
        count = observation.value[0].numel()
        picks = torch.linspace(0, count - 1, min(count, 64)).round().long().unique()
        at = lambda value: distribution.log_prob(value).double().exp().reshape(-1)[picks]  # noqa: E731
        # A grid about each element's own mean, wide for heavy tails; or the sum over the non-negative integers.
        steps = torch.linspace(-40, 40, 4001)
        density = torch.stack([at(distribution.mean + step) * 0.02 for step in steps]).sum(0)
        # A distribution that can list its support is summed over it; torch's discrete distributions score other values arbitrarily.
        support = (
            distribution.enumerate_support(expand=False).flatten().tolist()
            if distribution.has_enumerate_support
            else range(256)
        )
        mass = torch.stack([at(torch.full_like(observation.value, float(n))) for n in support]).sum(0)
        best = torch.stack([(density - 1).abs(), (mass - 1).abs()]).amin(0)
    worst = int(best.argmax())
    assert best[worst] < 0.02, (
        f"an element's likelihood sums to {density[worst]:.3g} as a density and {mass[worst]:.3g} as a mass, expected 1"
    )


def _events_are_normalised(distribution, observation: Observation) -> None:
    """E_{x~p}[r(x)/p(x)] = 1 for any normalised r inside p's support: r is a Gaussian fitted to p's own samples."""
    samples = distribution.sample((20_000,))
    flat = samples.reshape(len(samples), -1)
    mean, std = flat.mean(0), flat.std(0) * 0.99
    reference = torch.distributions.Normal(mean, std).log_prob(flat).sum(-1)
    log_p = distribution.log_prob(samples).reshape(len(samples), -1).sum(-1)
    ratio = (reference.double() - log_p.double()).exp()
    assert abs(float(ratio.mean()) - 1) < 0.1, (
        f"the event's likelihood integrates to {1 / float(ratio.mean()):.3g}, expected 1"
    )


def every_parameter_learns(subject: Subject) -> None:
    """Each parameter of encoder and decoder gets a finite gradient that is not all zero."""
    fitted = subject.fitted()
    torch.manual_seed(0)
    encoder, decoder = fitted.encoder(LATENT), fitted.decoder(LATENT)
    observation = subject.batch(max(3, len(subject.training)), fitted)
    expert = encoder(observation.value, observation.mask)
    z = expert.rsample(torch.randn_like(expert.mean))
    loss = (
        -masked_sum(decoder(z).log_prob(observation.value), observation.mask).mean()
        + expert.kl_to_prior().sum()
    )
    loss.backward()
    for name, module in (("encoder", encoder), ("decoder", decoder)):
        for parameter, tensor in module.named_parameters():
            assert tensor.grad is not None and torch.isfinite(tensor.grad).all(), (
                f"{name}.{parameter} has no finite gradient"
            )
            assert tensor.grad.abs().sum() > 0, f"{name}.{parameter} never learns: its gradient is zero"


def render_shows_and_tells_no_identifier(subject: Subject) -> None:
    """`render` gives a picture with some contrast or a sentence, and none of the planted identifiers; so does `describe`."""
    fitted = subject.fitted()
    for view in (*subject.training, *subject.held_out):
        for shown in (fitted.render(view), fitted.describe(fitted.read(view))):
            if isinstance(shown, Image):
                grey = np.asarray(shown.convert("L"))
                assert min(shown.size) > 1 and grey.max() > grey.min(), "the picture is empty"
                text = str(shown.info)
            else:
                text = shown
                assert isinstance(shown, str) and shown.strip(), (
                    "render gives neither a picture nor a sentence"
                )
            for identifier in subject.identifiers:
                assert identifier.lower() not in text.lower(), "render shows an identifier"


def yaml_round_trip_is_equal(subject: Subject) -> None:
    """The recipe, before and after fitting, is equal after a round trip through YAML."""
    for recipe in (subject.recipe, subject.fitted()):
        trust(type(recipe).__module__)  # the author's own, whether or not it is installed yet
        assert from_plain(yaml.safe_load(yaml.safe_dump(to_plain(recipe))), Modality) == recipe, (
            "the recipe differs after YAML"
        )


def import_is_light(subject: Subject) -> None:
    """Importing the plugin imports no heavy library; such an import belongs inside the method that needs it."""
    module = type(subject.recipe).__module__
    code = f"import sys, {module}; print(*[m for m in {_HEAVY!r} if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, (
        f"{module} cannot be imported on its own: {process.stderr.strip().splitlines()[-1:]}"
    )
    assert not process.stdout.strip(), f"importing {module} imports {process.stdout.strip()}"


def entry_point_is_declared(subject: Subject) -> None:
    """The class is registered in the group `mmvae.modalities`."""
    path = f"{type(subject.recipe).__module__}:{type(subject.recipe).__qualname__}"
    assert path in {plugin.path for plugin in installed().values()}, (
        f"no installed distribution registers {path} in mmvae.modalities"
    )


def augment_obeys_motion_and_seed(subject: Subject) -> None:
    """`augment` keeps shapes, is deterministic for a motion and seed, and mirrors a volume if the motion flips."""
    fitted = subject.fitted()
    observation = fitted.read(subject.training[0]).clean()
    motion = Motion((8.0, -4.0, 3.0), (3.0, -2.0, 1.0), 1.1)
    generator = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    a, b = (fitted.augment(observation, motion, generator()) for _ in range(2))
    assert a.value.shape == observation.value.shape and a.mask.shape == observation.mask.shape, (
        "augment changes the shape"
    )
    assert torch.equal(a.value, b.value) and torch.equal(a.mask, b.mask), (
        "augment differs for one motion and seed"
    )
    assert torch.isfinite(a.clean().value).all(), "augment makes a measured value infinite"
    if observation.mask.dim() == 4:
        flipped = fitted.augment(observation, Motion(flip=True), generator())
        by_hand = fitted.augment(
            Observation(observation.value.flip(-1), observation.mask.flip(-1)), Motion(), generator()
        )
        torch.testing.assert_close(
            flipped.clean().value,
            by_hand.clean().value,
            atol=1e-3,
            rtol=1e-3,
            msg="a flip does not mirror left and right",
        )
        still = fitted.augment(observation, Motion(), generator()).clean().value
        assert not torch.allclose(still, a.clean().value, atol=1e-3), "augment ignores the motion"


def passes_through_the_model(subject: Subject) -> None:
    """A model of this one role encodes and scores a batch in which it is present, and one in which it is wholly absent."""
    from mmvae.model import MMVAE

    fitted = subject.fitted()
    model = MMVAE({"role": fitted}, latent_dim=LATENT)
    model.build()
    observation = subject.batch(3, fitted)
    for present in (torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 1, dtype=torch.bool)):
        batch = Batch({"role": observation}, present, ("a", "b", "c"))
        experts, _ = model.experts(batch)
        score = model.log_likelihoods(batch, torch.randn(2, 3, LATENT))
        assert (
            score.shape == (2, 3, 1)
            and torch.isfinite(score).all()
            and bool(torch.isfinite(experts.mean).all())
        ), "the model cannot use it"


CHECKS = (
    recipe_is_plain,
    blank_has_the_shape_of_every_read,
    read_is_deterministic_and_finite,
    fitted_uses_only_the_training_views,
    expert_has_a_row_a_case,
    log_prob_has_the_mask_s_shape,
    what_is_masked_changes_nothing,
    expert_ignores_batch_mates,
    likelihood_is_normalised,
    every_parameter_learns,
    render_shows_and_tells_no_identifier,
    yaml_round_trip_is_equal,
    import_is_light,
    entry_point_is_declared,
    augment_obeys_motion_and_seed,
    passes_through_the_model,
)
