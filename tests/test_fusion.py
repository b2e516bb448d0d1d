"""Fusion rules against a grid integral, nested loops, and what must never matter."""

import itertools

import numpy as np
import pytest
import torch

from mmvae.latent.fusion import MoE, MoPoE, PoE
from mmvae.latent.gaussian import Gaussian

RULES = [PoE(), PoE(prior_expert=False), MoE(), MoPoE()]
GRID = torch.linspace(-30, 30, 120_001, dtype=torch.float64)


def density(mean, logvar):
    return torch.exp(-((GRID - mean) ** 2) / (2 * np.exp(logvar))) / np.sqrt(2 * np.pi * np.exp(logvar))


def defined(rule, mean, logvar, present):
    """The rule's own definition, one latent dimension, integrated on a grid; no code shared with the library."""
    experts = [density(m, v) for m, v, p in zip(mean, logvar, present) if p]
    prior = density(0.0, 0.0)
    step = float(GRID[1] - GRID[0])
    normal = lambda p: p / (p.sum() * step)  # noqa: E731
    if not experts:
        return prior
    if isinstance(rule, PoE):
        product = prior.clone() if rule.prior_expert else torch.ones_like(prior)
        for e in experts:
            product = product * e
        return normal(product)
    if isinstance(rule, MoE):
        return sum(experts) / len(experts)
    parts = []
    for size in range(1, len(experts) + 1):
        for subset in itertools.combinations(experts, size):
            product = torch.ones_like(prior)
            for e in subset:
                product = product * e
            parts.append(normal(product))
    return sum(parts) / len(parts)


@pytest.mark.parametrize("present", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_fused_density_is_its_definition_on_a_grid_for_every_missing_pattern(rule, present):
    torch.manual_seed(sum(present))
    mean, logvar = torch.randn(3), torch.randn(3)
    fused = rule(Gaussian(mean.view(1, 3, 1), logvar.view(1, 3, 1)), torch.tensor([present]))
    oracle = defined(rule, mean.tolist(), logvar.tolist(), present)
    mine = fused.log_prob(GRID.float().view(-1, 1, 1))[:, 0].double().exp()
    assert (mine - oracle).abs().max() < 1e-5
    step = float(GRID[1] - GRID[0])
    assert float(fused.mean[0, 0]) == pytest.approx(float((GRID * oracle).sum() * step), abs=1e-4)
    spread = float(((GRID - fused.mean[0, 0].double()) ** 2 * oracle).sum() * step)
    assert float(fused.moment_matched().logvar.exp()[0, 0]) == pytest.approx(spread, rel=1e-3)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_absent_experts_never_matter(rule):
    mean, logvar, present = torch.randn(7, 3, 5), torch.randn(7, 3, 5), torch.rand(7, 3) > 0.4
    nan = torch.where(present[..., None], 0.0, float("nan"))
    clean, dirty = rule(Gaussian(mean, logvar), present), rule(Gaussian(mean + nan, logvar + nan), present)
    torch.testing.assert_close(clean.mean, dirty.mean)
    assert torch.isfinite(dirty.mean).all()


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_no_expert_gives_the_prior_and_no_nan_gradient(rule):
    mean = torch.randn(2, 3, 4, requires_grad=True)
    fused = rule(Gaussian(mean, torch.zeros(2, 3, 4)), torch.tensor([[False] * 3, [True, False, False]]))
    assert torch.equal(fused.mean[0], torch.zeros(4))
    torch.testing.assert_close(fused.moment_matched().logvar[0], torch.zeros(4), atol=1e-6, rtol=0)
    fused.mean.sum().backward()
    assert torch.isfinite(mean.grad).all()


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_bfloat16_autocast_does_not_touch_the_arithmetic(rule):
    torch.manual_seed(0)
    experts = Gaussian(torch.randn(9, 4, 6) * 3, torch.rand(9, 4, 6) * 24 - 12)
    present = torch.rand(9, 4) > 0.3
    plain = rule(experts, present)
    with torch.autocast("cpu", torch.bfloat16):
        cast = rule(experts, present)
    torch.testing.assert_close(plain.mean, cast.mean, atol=1e-5, rtol=1e-5)


def test_mopoe_has_a_component_for_every_subset():
    fused = MoPoE()(
        Gaussian(torch.zeros(1, 4, 2), torch.zeros(1, 4, 2)), torch.tensor([[True, True, False, True]])
    )
    assert fused.log_weight.shape == (1, 15)
    assert int((fused.weight > 0).sum()) == 7
    torch.testing.assert_close(fused.weight.sum(), torch.tensor(1.0))


def test_samples_have_the_mixture_s_mean_and_variance():
    torch.manual_seed(0)
    experts = Gaussian(torch.tensor([[[-2.0], [3.0]]]), torch.tensor([[[0.0], [-1.0]]]))
    fused = MoE()(experts, torch.ones(1, 2, dtype=torch.bool))
    many = type(fused)(
        Gaussian(fused.components.mean.expand(40_000, 2, 1), fused.components.logvar.expand(40_000, 2, 1)),
        fused.log_weight.expand(40_000, 2),
    )
    z = many.rsample()
    oracle = 0.5 * (1 + 4) + 0.5 * (np.exp(-1) + 9) - 0.25
    assert float(z.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(z.var()) == pytest.approx(oracle, rel=0.03)
