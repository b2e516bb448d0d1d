"""On a GPU: the same numbers as on the CPU, bf16 where it is asked for, a fit and an embedding. Skipped where there is none."""

import lightning
import pytest
import torch

from mmvae.batch import collate
from mmvae.cohort import Cohort
from mmvae.data import CaseData, CaseDataset
from mmvae.latent.fusion import Hellinger, MoE, MomentMatched, MoPoE, PoE, TemperedPoE
from mmvae.latent.gaussian import Gaussian
from mmvae.latent.objective import ELBO, IWAE, Alignment, DReG, Sum, TotalCorrelation
from mmvae.model import MMVAE, RetrievalMonitor
from mmvae.retrieval.embed import embed

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: CUDA and bf16 on it are not tested here"
)

RULES = [
    PoE(),
    PoE(prior_expert=False),
    TemperedPoE(),
    MoE(),
    MoPoE(),
    Hellinger(),
    MomentMatched(Hellinger()),
]
OBJECTIVES = {
    "ELBO": (PoE(), ELBO()),
    "stratified": (MoE(), ELBO()),
    "sampled": (MoPoE(), ELBO(components="sampled")),
    "all components": (MoE(), ELBO(components="all")),
    "IWAE": (MoE(), IWAE(importance_samples=4)),
    "DReG": (PoE(), DReG(importance_samples=4)),
    "total correlation": (PoE(prior_expert=False), TotalCorrelation()),
    "alignment": (PoE(), Sum((ELBO(), Alignment(targets="terms")))),
}


@pytest.fixture(scope="module")
def recipes():
    from mmvae_clinical import Clinical
    from mmvae_mri.structural import T1, T2
    from mmvae_terms import Terms

    grid = {"about": "lesion", "shape": (6, 16, 16), "spacing_mm": (12.0, 8.0, 8.0)}
    return {"t1": T1(**grid), "t2": T2(**grid), "clinical": Clinical(), "terms": Terms()}


def model_of(recipes, cohort: Cohort, rule=PoE(), objective=ELBO()) -> MMVAE:  # noqa: B008 - frozen
    torch.manual_seed(0)
    model = MMVAE(
        dict(recipes), latent_dim=8, fusion=rule, objective=objective, answer_roles=["terms"], subsets=2
    )
    model.fit_recipes(cohort, cohort.split("train"))
    return model.train()


def batch_of(model: MMVAE, cohort: Cohort):
    data = CaseDataset(cohort, cohort.cases[:8], model.modalities, model.answer_roles)
    return collate([data[i, 0] for i in range(8)])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_rule_gives_on_the_gpu_what_it_gives_on_the_cpu(rule):
    generator = torch.Generator().manual_seed(1)
    mean, logvar = (torch.randn(64, 5, 16, generator=generator) for _ in range(2))
    present = torch.rand(64, 5, generator=generator) > 0.4
    here = rule(Gaussian(mean, logvar), present)
    there = rule(Gaussian(mean.cuda(), logvar.cuda()), present.cuda())
    torch.testing.assert_close(there.mean.cpu(), here.mean, atol=1e-5, rtol=1e-4)
    z = torch.randn(3, 64, 16, generator=generator)
    torch.testing.assert_close(there.log_prob(z.cuda()).cpu(), here.log_prob(z), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_gives_on_the_gpu_what_it_gives_on_the_cpu(name, recipes, cohort):
    model = model_of(recipes, cohort, *OBJECTIVES[name])
    batch = batch_of(model, cohort)
    here = model.bound(batch).loss
    there = model.cuda().bound(batch.to(torch.device("cuda"))).loss
    assert there.item() == pytest.approx(here.item(), rel=2e-4)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_in_bf16_is_finite_and_near_the_one_in_float32(name, recipes, cohort):
    model = model_of(recipes, cohort, *OBJECTIVES[name]).cuda()
    batch = batch_of(model, cohort).to(torch.device("cuda"))
    exact = model.bound(batch).loss.item()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = model.bound(batch).loss
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    assert loss.item() == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fit_and_an_embedding_run_on_the_gpu(precision, recipes, phantom, cohort):
    lightning.seed_everything(0, verbose=False)
    model = MMVAE(dict(recipes), latent_dim=8, answer_roles=["terms"])
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="gpu", devices=1, precision=precision, callbacks=[RetrievalMonitor()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, CaseData(str(phantom), batch_size=8))
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    on_gpu = embed(model.cuda(), cohort, cohort.cases[:10])
    on_cpu = embed(model.cpu(), cohort, cohort.cases[:10])
    torch.testing.assert_close(
        torch.from_numpy(on_gpu.mean), torch.from_numpy(on_cpu.mean), atol=2e-3, rtol=2e-3
    )
