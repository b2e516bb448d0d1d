"""The bound against Pyro's ELBO, nested loops, and a model whose evidence is known."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from mmvae.latent.fusion import MoE, MoPoE, PoE
from mmvae.latent.gaussian import Gaussian
from mmvae.latent.objective import ELBO

D = 3


def linear_scores(w, x):
    """log N(x_m; w_m · z, 1) for scalar x: (S, B, D) → (S, B, M)."""
    return lambda z: -0.5 * ((z @ w.T - x) ** 2 + np.log(2 * np.pi))


def test_one_gaussian_is_pyro_s_mean_field_elbo():
    torch.manual_seed(0)
    w, x = torch.randn(2, D), torch.randn(1, 2)
    experts = Gaussian(torch.randn(1, 2, D), torch.randn(1, 2, D))
    posterior = PoE()(experts, torch.ones(1, 2, dtype=torch.bool))
    noise = torch.randn(20_000, 1, 1, D)
    mine = np.mean(
        [float(ELBO(1.0, 0)(posterior, linear_scores(w, x), torch.ones(2), n, 0).loss) for n in noise[:4000]]
    )

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(w @ z, 1.0).to_event(1), obs=x[0])

    def guide():
        mean, scale = posterior.components.mean[0, 0], (posterior.components.logvar[0, 0] / 2).exp()
        pyro.sample("z", dist.Normal(mean, scale).to_event(1))

    pyro.set_rng_seed(1)
    theirs = np.mean([TraceMeanField_ELBO().loss(model, guide) for _ in range(4000)])
    assert mine == pytest.approx(theirs, rel=0.02)


def test_a_mixture_is_pyro_s_elbo_with_the_mixture_as_guide():
    torch.manual_seed(0)
    w, x = torch.randn(2, D), torch.randn(1, 2)
    posterior = MoE()(
        Gaussian(torch.randn(1, 2, D), torch.randn(1, 2, D)), torch.ones(1, 2, dtype=torch.bool)
    )
    mine = np.mean(
        [
            float(ELBO(1.0, 0)(posterior, linear_scores(w, x), torch.ones(2), torch.randn(1, 2, D), 0).loss)
            for _ in range(4000)
        ]
    )

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(w @ z, 1.0).to_event(1), obs=x[0])

    def guide():
        parts = dist.Normal(
            posterior.components.mean[0], (posterior.components.logvar[0] / 2).exp()
        ).to_event(1)
        pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=posterior.log_weight[0]), parts))

    pyro.set_rng_seed(1)
    theirs = np.mean([Trace_ELBO().loss(model, guide) for _ in range(6000)])
    assert mine == pytest.approx(theirs, rel=0.03)


@pytest.mark.parametrize("rule", [PoE(), MoE(), MoPoE()], ids=str)
def test_parts_are_nested_loops_in_float64(rule):
    torch.manual_seed(1)
    w, x, weights = torch.randn(3, D), torch.randn(4, 3), torch.tensor([1.0, 0.3, 5.0])
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 0]]).bool()
    posterior = rule(Gaussian(torch.randn(4, 3, D), torch.randn(4, 3, D)), present)
    count = posterior.log_weight.shape[1]
    noise = torch.randn(4, count, D)
    got = ELBO(0.7, 0)(posterior, linear_scores(w, x), weights, noise, 3)
    mean, var = posterior.components.mean.double().numpy(), posterior.components.logvar.double().exp().numpy()
    weight = posterior.weight.double().numpy()
    total = 0.0
    for b in range(4):
        reward = kl = 0.0
        for k in range(count):
            if weight[b, k] == 0:
                continue
            z = mean[b, k] + np.sqrt(var[b, k]) * noise[b, k].double().numpy()
            for m in range(3):
                reward += (
                    weight[b, k]
                    * float(weights[m])
                    * (
                        -0.5 * (float(w[m].double() @ torch.tensor(z)) - float(x[b, m])) ** 2
                        - 0.5 * np.log(2 * np.pi)
                    )
                )
            q = sum(
                weight[b, j]
                * np.prod(np.exp(-((z - mean[b, j]) ** 2) / 2 / var[b, j]) / np.sqrt(2 * np.pi * var[b, j]))
                for j in range(count)
            )
            p = np.prod(np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))
            kl += weight[b, k] * (np.log(q) - np.log(p))
        if count == 1:
            kl = 0.5 * np.sum(mean[b, 0] ** 2 + var[b, 0] - 1 - np.log(var[b, 0]))
        total -= (reward - 0.7 * kl) / 4
    assert float(got.loss) == pytest.approx(total, rel=1e-4)


def test_with_the_true_posterior_the_bound_is_the_evidence():
    """Linear-Gaussian: x = w z + noise. The exact posterior makes the ELBO log p(x), which is a Gaussian's log-density."""
    w, x = torch.tensor([[1.5]]), torch.tensor([[0.7]])
    precision = 1 + 1.5**2
    posterior = PoE(prior_expert=False)(
        Gaussian(torch.full((1, 1, 1), 1.5 * 0.7 / precision), torch.full((1, 1, 1), -np.log(precision))),
        torch.ones(1, 1, dtype=torch.bool),
    )
    torch.manual_seed(0)
    bound = np.mean(
        [
            -float(ELBO(1.0, 0)(posterior, linear_scores(w, x), torch.ones(1), torch.randn(1, 1, 1), 0).loss)
            for _ in range(20_000)
        ]
    )
    evidence = -0.5 * (0.7**2 / (1 + 1.5**2) + np.log(2 * np.pi * (1 + 1.5**2)))
    assert bound == pytest.approx(evidence, abs=0.02)


def test_beta_rises_to_its_value():
    assert [round(ELBO(2.0, 3).at(epoch), 2) for epoch in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]
