"""The LightningModule: what is absent cannot matter, one batch can be learnt, two processes are one, other runs are refused."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from mmvae_clinical import Clinical
from mmvae_mri.structural import T2
from mmvae_terms import Terms

from mmvae.batch import Batch, Observation, collate
from mmvae.cli import main
from mmvae.data import CaseData, CaseDataset
from mmvae.errors import InputError
from mmvae.latent.fusion import Hellinger, MoE, MomentMatched, MoPoE, PoE, TemperedPoE
from mmvae.latent.gaussian import Gaussian
from mmvae.latent.objective import ELBO, IWAE, Alignment, DReG, Sum, TotalCorrelation
from mmvae.latent.space import RetrievalSpace
from mmvae.modality import Modality
from mmvae.model import MMVAE
from mmvae.model.bound import refuse_non_finite
from mmvae.plain import from_plain, to_plain

GRID = {"about": "lesion", "shape": (6, 16, 16), "spacing_mm": (12.0, 8.0, 8.0)}


def build(cohort, fusion=PoE(), **settings):  # noqa: B008
    torch.manual_seed(0)
    recipes = {"t2": T2(**GRID), "clinical": Clinical(), "terms": Terms()}
    model = MMVAE(recipes, latent_dim=8, fusion=fusion, answer_roles=["terms"], **settings)
    model.fit_recipes(cohort, cohort.split("train"))
    return model


def batch_of(cohort, model, count=6):
    data = CaseDataset(cohort, cohort.split("train")[:count], model.modalities, model.answer_roles)
    return collate([data[i, 0] for i in range(count)])


RULES = [
    PoE(),
    PoE(prior_expert=False),
    TemperedPoE(),
    MoE(),
    MoPoE(),
    Hellinger(),
    MomentMatched(Hellinger()),
]
OBJECTIVES = [
    ELBO(components="all"),
    ELBO(components="sampled"),
    IWAE(3),
    DReG(3),
    Sum((ELBO(), Alignment(targets="terms"))),
    Sum((IWAE(2), Alignment())),
]


@pytest.mark.parametrize("fusion", RULES, ids=str)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_every_rule_and_objective_has_a_finite_loss_and_gradient_for_every_missing_pattern(
    cohort, fusion, objective
):
    model = build(cohort, fusion, objective=objective).train()
    batch = batch_of(cohort, model, 8)
    patterns = torch.tensor([[n >> 2 & 1, n >> 1 & 1, n & 1] for n in range(8)]).bool()
    result = model.bound(Batch(batch.observations, patterns, batch.case_ids))
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    shown = Batch(batch.observations, patterns, batch.case_ids)
    outside = model.bound(shown, model.evaluation_draw(shown))
    assert torch.isfinite(outside.loss)


@pytest.mark.parametrize("fusion", [PoE(prior_expert=False), TemperedPoE(), MomentMatched(MoPoE())], ids=str)
def test_total_correlation_trains_with_every_rule_of_one_gaussian(cohort, fusion):
    model = build(cohort, fusion, objective=TotalCorrelation()).train()
    result = model.bound(batch_of(cohort, model, 8))
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_an_objective_that_a_rule_or_the_roles_do_not_allow_is_refused_before_anything_is_trained():
    with pytest.raises(InputError, match=r"model.objective: TotalCorrelation needs .* 2 components"):
        MMVAE({"t2": T2(), "clinical": Clinical()}, fusion=MoE(), objective=TotalCorrelation())
    with pytest.raises(InputError, match=r"model.objective looks at 'terms', which is not a role"):
        MMVAE({"t2": T2()}, objective=Sum((ELBO(), Alignment(targets="terms"))))


def test_powers_are_learned_change_the_fingerprint_and_are_kept_with_embeddings(cohort):
    model = build(cohort, TemperedPoE()).train()
    before = model.fingerprint()
    model.bound(batch_of(cohort, model, 8)).loss.backward()
    assert model.log_power.grad.abs().max() > 0
    with torch.no_grad():
        model.log_power.copy_(torch.tensor([1.0, -1.0, 0.0]))
    assert model.fingerprint() != before
    batch = batch_of(cohort, model, 8)
    with torch.no_grad():
        experts, _ = model.experts(batch)
        torch.testing.assert_close(
            model.space.points(experts, batch.present), model.posterior(experts, batch.present).mean
        )


def test_the_two_halves_are_disjoint_none_empty_and_only_of_what_was_encoded(cohort):
    model = build(cohort, subsets=3)
    batch = batch_of(cohort, model, 24)
    seen = set()
    for epoch in range(20):
        draw = model.visibility.training(batch.case_ids, batch.present, 1, 8, epoch)
        first, second = draw.halves
        encoded = draw.visible.unflatten(0, (-1, 3)).any(1)
        enough = encoded.sum(1) > 1
        assert not (first & second).any()
        assert torch.equal((first | second)[enough], encoded[enough])
        assert first[enough].any(1).all() and second[enough].any(1).all()
        assert not first[~enough].any() and not second[~enough].any()
        seen |= {(tuple(a.tolist()), tuple(b.tolist())) for a, b in zip(first, second)}
    full = [cut for cut in seen if sum(cut[0]) + sum(cut[1]) == 3]
    assert len(full) == 6  # both orders of every cut of three roles


@pytest.mark.parametrize("fusion", RULES, ids=str)
def test_garbage_in_absent_roles_and_under_masks_changes_neither_loss_nor_gradient(cohort, fusion):
    model = build(cohort, fusion).train()
    batch = batch_of(cohort, model)
    present = batch.present.clone()
    present[0, 0] = present[1, 1] = False
    results = []
    for fill in (0.0, float("nan")):
        dirty = {}
        for m, (role, seen) in enumerate(batch.observations.items()):
            here = present[:, m].view(-1, *[1] * (seen.mask.dim() - 1)) & seen.mask
            dirty[role] = Observation(torch.where(here, seen.value, fill), here)
        model.zero_grad()
        result = model.bound(Batch(dirty, present, batch.case_ids))
        result.loss.backward()
        results.append((result.loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    torch.testing.assert_close(results[0], results[1])
    assert torch.isfinite(results[1][1]).all()


def test_every_parameter_has_a_gradient_when_a_role_is_wholly_absent(cohort):
    model = build(cohort).train()
    batch = batch_of(cohort, model)
    present = batch.present.clone()
    present[:, 0] = False
    model.bound(Batch(batch.observations, present, batch.case_ids)).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


@dataclass(frozen=True)
class LinearView(Modality):
    """x = W z + noise of variance .25, W with orthogonal columns; the encoder is p(x | z) as a Gaussian in z."""

    width: int = 3
    seed: int = 0

    def weight(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        columns = torch.linalg.qr(torch.randn(self.width, 2, generator=generator))[0]
        return columns * torch.tensor([0.5, 1.5])

    def read(self, view):
        raise NotImplementedError

    def blank(self):
        return Observation(torch.zeros(self.width), torch.zeros(self.width, dtype=torch.bool))

    def encoder(self, latent_dim):
        return _LinearExpert(self.weight())

    def decoder(self, latent_dim):
        return _LinearDecoder(self.weight())

    def render(self, view):
        return ""


class _LinearExpert(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, value, mask):
        square = self.weight.square().sum(0)
        return Gaussian(value @ self.weight / square, (0.25 / square).log().expand(len(value), 2))


class _LinearDecoder(_LinearExpert):
    def forward(self, z):
        return torch.distributions.Normal(z @ self.weight.T, 0.5)


def test_weights_of_one_give_log_p_of_x_where_it_is_known(cohort):
    """With the exact posterior p(x, z) / q(z) is p(x) whatever z is, and p(x) of a linear-Gaussian model is a normal density."""
    from scipy.stats import multivariate_normal

    def loss(weights):
        recipes = {"a": LinearView(3, 1), "b": LinearView(5, 2)}
        model = MMVAE(recipes, latent_dim=2, fusion=PoE(), objective=IWAE(4), weights=weights)
        model.fit_recipes(cohort, cohort.split("train"))
        values = [torch.randn(6, width, generator=torch.Generator().manual_seed(width)) for width in (3, 5)]
        observations = {
            role: Observation(x, torch.ones_like(x, dtype=torch.bool)) for role, x in zip("ab", values)
        }
        present = torch.tensor([[True, True]] * 3 + [[True, False]] * 2 + [[False, True]])
        batch = Batch(observations, present, tuple("uvwxyz"))
        return float(model.bound(batch, model.evaluation_draw(batch)).loss), values, present

    found, values, present = loss({"a": 1.0, "b": 1.0})
    log_p = 0.0
    for row in range(6):
        here = [m for m in (0, 1) if present[row, m]]
        weight = torch.cat([(LinearView(3, 1), LinearView(5, 2))[m].weight() for m in here])
        x = torch.cat([values[m][row] for m in here])
        covariance = weight @ weight.T + 0.25 * torch.eye(len(x))
        log_p += multivariate_normal.logpdf(x.numpy(), cov=covariance.numpy()) / 6
    assert found == pytest.approx(-log_p, rel=1e-4)
    other = loss({"a": 1.0, "b": 2.0})[0]
    assert other != pytest.approx(-log_p, rel=1e-2)  # any other weight is another bound


def test_weights_of_one_give_the_exact_bound(cohort):
    """E log p(x | z) − KL case by case in float64: the product of experts, its sample, scores and KL by hand."""
    model = build(
        cohort, weights=dict.fromkeys(("t2", "clinical", "terms"), 1.0), objective=ELBO(1.0, 0)
    ).eval()
    batch = batch_of(cohort, model)
    draw = model.evaluation_draw(batch)
    with torch.no_grad():
        loss = float(model.bound(batch, draw).loss)
        total = 0.0
        for b in range(len(batch.case_ids)):
            precision, weighted = np.ones(8), np.zeros(8)  # of the prior, which is one of the experts
            for m, role in enumerate(model.roles):
                if role != "terms" and batch.present[b, m]:
                    case = batch.observations[role].clean().rows(torch.tensor([b]))
                    expert = model.encoders[role](case.value, case.mask)
                    tau = np.exp(-expert.logvar[0].double().numpy())
                    precision, weighted = precision + tau, weighted + tau * expert.mean[0].double().numpy()
            mean, variance = weighted / precision, 1 / precision
            z = mean + np.sqrt(variance) * draw.noise[b, 0].double().numpy()
            for m, role in enumerate(model.roles):
                if batch.present[b, m]:
                    case = batch.observations[role].clean().rows(torch.tensor([b]))
                    score = model.decoders[role](torch.from_numpy(z).float()[None]).log_prob(case.value)
                    total += float(score[case.mask].double().sum())
            total -= 0.5 * (mean**2 + variance - 1 - np.log(variance)).sum()
    assert loss == pytest.approx(-total / len(batch.case_ids), rel=1e-4)


def test_an_unnamed_role_s_weight_is_300_over_its_values(cohort):
    model = build(cohort, weights={"terms": 1.0})
    assert model.weight_of == {"t2": 300 / (6 * 16 * 16), "clinical": 300 / 7, "terms": 1.0}


def test_some_role_is_always_visible_and_the_draw_is_keyed_by_case_and_epoch(cohort):
    model = build(cohort, visible={"t2": 0.05, "clinical": 0.05, "terms": 0.05})
    batch = batch_of(cohort, model)
    draw = model.visibility.training(batch.case_ids, batch.present, 1, 8, 0)
    assert draw.visible.any(1).all()
    assert not (draw.visible & ~batch.present).any()
    half = Batch(batch.observations, batch.present[3:], batch.case_ids[3:])
    again = model.visibility.training(half.case_ids, half.present, 1, 8, 0)
    assert torch.equal(draw.visible[3:], again.visible)
    assert torch.equal(draw.noise[3:], again.noise)


def test_several_subsets_are_the_bound_s_mean_over_them_with_each_role_scored_as_often_as_it_counts(cohort):
    """By nested loops over cases, subsets and roles; an answer role is scored under each subset, another under one of four."""
    model = build(cohort, subsets=4, objective=ELBO(0.7, 0))
    batch = batch_of(cohort, model)
    draw = model.visibility.training(batch.case_ids, batch.present, 1, 8, 0)
    share = draw.share.unflatten(0, (-1, 4))
    assert (share.mean(1) == 1).all()
    assert ((share > 0).sum(1) == torch.tensor([1, 1, 4])).all()
    assert len({tuple(row.tolist()) for row in draw.visible}) > 1
    experts, _ = model.experts(batch)
    total = 0.0
    for b in range(len(batch.case_ids)):
        one = Batch(
            {role: seen.rows(torch.tensor([b])) for role, seen in batch.observations.items()},
            batch.present[b : b + 1],
            batch.case_ids[b : b + 1],
        )
        for s in range(4):
            posterior = model.rule(
                Gaussian(experts.mean[b : b + 1], experts.logvar[b : b + 1]),
                draw.visible[4 * b + s : 4 * b + s + 1],
            )
            z = posterior.components.rsample(draw.noise[4 * b + s : 4 * b + s + 1])[:, 0]
            scores = model.log_likelihoods(one, z[None])[0, 0]
            for m, role in enumerate(model.roles):
                total += model.weight_of[role] * float(share[b, s, m] * scores[m])
            total -= 0.7 * float(posterior.components.kl_to_prior().sum())
    torch.testing.assert_close(
        model.bound(batch).loss.detach(), torch.tensor(-total / len(draw.visible)), rtol=1e-4, atol=1e-3
    )


def test_one_batch_can_be_learnt_by_heart(cohort, monkeypatch):
    # Findings are learnt from image and record alone: a copy of themselves would be no lesson.
    model = build(
        cohort,
        objective=ELBO(0.01, 0),
        visible={"t2": 1.0, "clinical": 1.0, "terms": 0.0},
        weights={"terms": 30.0},
    ).train()
    batch = batch_of(cohort, model, 8)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for step in range(400):
        # Noise is keyed by epoch: without a trainer it would be one draw, which the means need not lie at.
        monkeypatch.setattr(MMVAE, "current_epoch", property(lambda _, step=step: step))
        result = model.bound(batch)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(float(result.loss.detach()))
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    experts, _ = model.experts(batch)
    visible = batch.present & torch.tensor([True, True, False])
    z = model.posterior(experts, visible).mean
    predicted = model.decoders["terms"](z).mean > 0.5
    seen = batch.observations["terms"]
    assert float((predicted == seen.value.bool())[seen.mask].float().mean()) > 0.97


def test_a_readout_is_what_the_answers_decoders_expect_standardised_and_travels_with_the_space(cohort):
    """By the decoder itself, case by case: z → probabilities, minus their mean, over their standard deviation."""
    model = build(cohort).eval()
    batch = batch_of(cohort, model, 12)
    with torch.no_grad():
        experts, _ = model.experts(batch)
        visible = batch.present & torch.tensor([True, True, False])
        z = model.posterior(experts, visible).mean
        by_exponent = {readout.exponent: readout for readout in model.readouts(z)}
        model.choose_space(by_exponent[1.0], "euclidean")
        projected = model.space.points(experts, visible)
        model.choose_space(by_exponent[1.5], "euclidean")
        raised = model.space.points(experts, visible)
        probabilities = model.decoders["terms"](z).mean.double().numpy()
    varies = probabilities.std(0, ddof=1) > 1e-6
    expected = (probabilities - probabilities.mean(0))[:, varies]
    expected = expected / probabilities.std(0, ddof=1)[varies] / varies.sum() ** 0.5
    torch.testing.assert_close(projected.double(), torch.from_numpy(expected), atol=1e-4, rtol=1e-3)
    by_hand = (expected > 0) * abs(expected) ** 1.5 - (expected < 0) * abs(expected) ** 1.5
    torch.testing.assert_close(raised.double(), torch.from_numpy(by_hand), atol=1e-4, rtol=1e-3)
    kept = from_plain(to_plain(model.space), RetrievalSpace)
    assert kept.distance == "euclidean"
    torch.testing.assert_close(kept.points(experts, visible), raised)


def test_a_role_present_only_because_of_answers_must_be_listed(cohort):
    model = MMVAE({"t2": T2(**GRID), "terms": Terms()}, latent_dim=4)
    with pytest.raises(InputError, match=r"role 'terms' is present only because of answers"):
        model.fit_recipes(cohort, cohort.split("train"))


def test_settings_that_name_no_role_are_refused():
    with pytest.raises(InputError, match=r"model.weights names 't9', which is not a role"):
        MMVAE({"t2": T2()}, weights={"t9": 1.0})
    with pytest.raises(InputError, match=r"model.visible.t2 is 2"):
        MMVAE({"t2": T2()}, visible={"t2": 2.0})


def test_a_non_finite_loss_stops_the_run_naming_role_and_cases(cohort):
    model = build(cohort)
    batch = batch_of(cohort, model)
    seen = batch.observations["t2"]
    value = seen.value.clone()
    value[2, 0, 3, 3, 3] = float("inf")
    broken = Batch({**batch.observations, "t2": replace(seen, value=value)}, batch.present, batch.case_ids)
    bound = model.bound(broken).bound
    with pytest.raises(InputError, match=rf"role t2, case {batch.case_ids[2]}"):
        refuse_non_finite(bound, broken, model.roles, 0)


def test_a_checkpoint_gives_the_same_model_by_plain_values_only(trained, cohort):
    kept = torch.load(trained, weights_only=True)
    assert "mmvae" in kept
    a, b = MMVAE.load_from_checkpoint(trained), MMVAE.load_from_checkpoint(trained)
    assert a.fingerprint() == b.fingerprint()
    assert a.modalities["terms"].names == tuple(t["name"] for t in cohort.card.terms)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"x.ckpt is not a checkpoint"):
        MMVAE.load_from_checkpoint(tmp_path / "x.ckpt")


def resume(trained, *more):
    run = trained.parent
    return main(
        [
            "fit",
            "-c",
            str(run / "config.yaml"),
            "--trainer.default_root_dir",
            str(run),
            "--ckpt_path",
            str(run / "last.ckpt"),
            *more,
        ]
    )


def test_a_run_resumes_with_other_trainer_settings(trained, tmp_path):
    assert resume(trained, "--trainer.max_epochs", "3", "--trainer.default_root_dir", str(tmp_path)) == 0
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model.lr", "0.5"), "model.lr is 0.5"),
        (("--model.fusion", "MoE"), "model.fusion is"),
        (
            ("--model.modalities.t2.init_args.intensity_jitter", "0.9"),
            "model.modalities.t2.intensity_jitter differs",
        ),
    ],
)
def test_a_resumed_run_with_another_model_is_refused_field_by_field(trained, more, message, capsys):
    assert resume(trained, "--trainer.max_epochs", "3", *more) == 1
    assert message in capsys.readouterr().err


def test_in_ten_lines_from_python(phantom, tmp_path):
    from mmvae.model.monitor import RetrievalMonitor

    model = MMVAE({"clinical": Clinical(), "terms": Terms()}, latent_dim=4, answer_roles=["terms"])
    trainer = lightning.Trainer(
        max_epochs=1,
        callbacks=[RetrievalMonitor()],
        logger=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        accelerator="cpu",
    )
    trainer.fit(model, CaseData(str(phantom), batch_size=8))
    assert "val/mAP" in trainer.callback_metrics


DDP = """
import sys, torch, lightning
from mmvae_clinical import Clinical
from mmvae_terms import Terms
from mmvae.data import CaseData
from mmvae.latent.objective import Alignment, ELBO, Sum
from mmvae.model import MMVAE
processes, cohort, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
objective = ELBO() if sys.argv[4] == "bound" else Sum((ELBO(), Alignment(1000.0, targets=sys.argv[5])))
class Keep(lightning.Callback):
    def on_after_backward(self, trainer, module):
        if trainer.is_global_zero:
            torch.save(torch.cat([p.grad.flatten() for p in module.parameters()]), out)
lightning.seed_everything(0)
model = MMVAE({"clinical": Clinical(), "terms": Terms()}, latent_dim=4, answer_roles=["terms"], objective=objective)
trainer = lightning.Trainer(max_steps=1, accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, callbacks=[Keep()], limit_val_batches=0, use_distributed_sampler=True)
trainer.fit(model, CaseData(cohort, batch_size=24 // processes))
"""


@pytest.mark.parametrize("objective", [("bound",), ("alignment", ""), ("alignment", "terms")], ids=str)
def test_two_processes_have_the_gradient_of_one_on_the_joined_batch(phantom, tmp_path, objective):
    """Alignment contrasts over both processes' cases, so a gradient that stayed within one would differ."""
    (tmp_path / "ddp.py").write_text(DDP)
    gradients = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.pt"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, str(tmp_path / "ddp.py"), str(processes), str(phantom), str(out), *objective],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        gradients.append(torch.load(out))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-3)


def test_bfloat16_mixed_trains_and_embeds_close_to_float32(phantom, cohort):
    model = build(cohort)
    batch = batch_of(cohort, model)
    with torch.no_grad():
        plain, _ = model.experts(batch)
        with torch.autocast("cpu", torch.bfloat16):
            cast, _ = model.experts(batch)
            bound = model.bound(batch).bound
    a, b = (model.posterior(x, batch.present).mean for x in (plain, cast))
    assert float(torch.nn.functional.cosine_similarity(a, b).min()) > 0.99
    assert torch.isfinite(bound.loss)
    assert Path(phantom).exists()
