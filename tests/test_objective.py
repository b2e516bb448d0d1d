"""The bound against Pyro's ELBO, nested loops, and a model whose evidence is known."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from mmvae.latent.fusion import Hellinger, MoE, MoPoE, PoE
from mmvae.latent.gaussian import Gaussian
from mmvae.latent.objective import ELBO, IWAE, Alignment, DReG, Evidence, Sum, TotalCorrelation

D = 3


def sight(posterior, score, weights, noise, epoch=0, **more):
    """What an objective sees; experts, visibility and halves only where a test is about them."""
    rows, count = len(noise), len(weights)
    nothing = torch.zeros(rows, count, dtype=torch.bool)
    given = {
        "experts": Gaussian(torch.zeros(rows, count, noise.shape[-1]), torch.zeros(rows, count, noise.shape[-1])),
        "encoded": nothing, "visible": nothing, "halves": (nothing, nothing), "fuse": PoE(), **more,
    }  # fmt: skip
    return Evidence(posterior=posterior, score=score, weights=weights, noise=noise, epoch=epoch, **given)


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
        [
            float(ELBO(1.0, 0)(sight(posterior, linear_scores(w, x), torch.ones(2), n)).loss)
            for n in noise[:4000]
        ]
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
            float(
                ELBO(1.0, 0)(sight(posterior, linear_scores(w, x), torch.ones(2), torch.randn(1, 2, D))).loss
            )
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
    got = ELBO(0.7, 0)(sight(posterior, linear_scores(w, x), weights, noise, 3))
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
            -float(
                ELBO(1.0, 0)(sight(posterior, linear_scores(w, x), torch.ones(1), torch.randn(1, 1, 1))).loss
            )
            for _ in range(20_000)
        ]
    )
    evidence = -0.5 * (0.7**2 / (1 + 1.5**2) + np.log(2 * np.pi * (1 + 1.5**2)))
    assert bound == pytest.approx(evidence, abs=0.02)


def test_beta_rises_to_its_value():
    assert [round(ELBO(2.0, 3).at(epoch), 2) for epoch in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]


# ---- the other ways to take a mixture's expectation -------------------------------------------------------------------


def three_views(rule, rows=4, seed=1):
    torch.manual_seed(seed)
    w, x = torch.randn(3, D), torch.randn(rows, 3)
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 0]]).bool()[:rows]
    return w, x, rule(Gaussian(torch.randn(rows, 3, D), torch.randn(rows, 3, D)), present)


def log_normal(z, mean, var):
    return -0.5 * ((z - mean) ** 2 / var + np.log(2 * np.pi * var)).sum(-1)


def plain(posterior):
    return tuple(
        x.detach().double().numpy()
        for x in (posterior.components.mean, posterior.components.logvar.exp(), posterior.weight)
    )


@pytest.mark.parametrize("rule", [MoE(), MoPoE(), Hellinger()], ids=str)
def test_one_sampled_component_has_the_stratified_expectation(rule):
    w, x, posterior = three_views(rule)
    score, ones = linear_scores(w, x), torch.ones(3)
    count = posterior.log_weight.shape[1]
    mean = {}
    for way in ("stratified", "sampled"):
        bound = ELBO(1.0, 0, way)
        noise = torch.randn(3000, 4, bound.samples(count), D)
        values = torch.stack([bound(sight(posterior, score, ones, n)).loss for n in noise])
        mean[way] = float(values.mean()), float(values.std()) / 3000**0.5
    spread = np.hypot(mean["stratified"][1], mean["sampled"][1])
    assert abs(mean["stratified"][0] - mean["sampled"][0]) < 4 * spread
    assert ELBO(components="sampled").samples(count) == 2


def test_a_void_component_is_never_drawn_and_each_other_one_by_its_probability():
    posterior = Hellinger()(
        Gaussian(torch.randn(1, 3, 1).expand(40_000, -1, -1), torch.randn(1, 3, 1).expand(40_000, -1, -1)),
        torch.tensor([[True, False, True]]).expand(40_000, -1),
    )
    seen = []

    def score(z):
        seen.append(z)
        return torch.zeros(*z.shape[:-1], 3)

    noise = torch.randn(40_000, 2, 1)
    noise[:, 0] = 0  # the sample is its component's mean
    ELBO(1.0, 0, "sampled")(sight(posterior, score, torch.ones(3), noise))
    drawn = seen[0][0, :, 0].numpy()
    means, _, weight = plain(posterior)
    for k in range(6):
        share = np.isclose(drawn, means[0, k, 0], atol=1e-6).mean()
        same = np.isclose(means[0, :, 0], means[0, k, 0], atol=1e-6)
        assert share == pytest.approx(weight[0][same].sum(), abs=0.01)


@pytest.mark.parametrize("rule", [MoE(), MoPoE()], ids=str)
def test_all_components_average_their_own_elbos_by_nested_loops(rule):
    w, x, posterior = three_views(rule)
    weights, count = torch.tensor([1.0, 0.3, 5.0]), posterior.log_weight.shape[1]
    noise = torch.randn(4, count, D)
    got = ELBO(0.7, 0, "all")(sight(posterior, linear_scores(w, x), weights, noise)).loss
    mean, var, weight = plain(posterior)
    total = 0.0
    for b in range(4):
        for k in range(count):
            if weight[b, k] == 0:
                continue
            z = mean[b, k] + np.sqrt(var[b, k]) * noise[b, k].double().numpy()
            fit = sum(
                float(weights[m])
                * log_normal(np.array([float(x[b, m])]), w[m].double().numpy() @ z, np.array([1.0]))
                for m in range(3)
            )
            kl = 0.5 * np.sum(mean[b, k] ** 2 + var[b, k] - 1 - np.log(var[b, k]))
            total -= weight[b, k] * (fit - 0.7 * kl) / 4
    assert float(got) == pytest.approx(total, rel=1e-4)


# ---- importance weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [PoE(), MoE(), MoPoE()], ids=str)
@pytest.mark.parametrize("objective", [IWAE(4), DReG(4)], ids=str)
def test_importance_weights_by_nested_loops(rule, objective):
    w, x, posterior = three_views(rule)
    weights, count = torch.tensor([1.0, 0.3, 2.0]), posterior.log_weight.shape[1]
    noise = torch.randn(4, objective.samples(count), D)
    got = objective(sight(posterior, linear_scores(w, x), weights, noise)).loss
    mean, var, weight = plain(posterior)
    total = 0.0
    for b in range(4):
        inside = 0.0
        for s in range(4):
            for k in range(count):
                if weight[b, k] == 0:
                    continue
                z = mean[b, k] + np.sqrt(var[b, k]) * noise[b, s * count + k].double().numpy()
                fit = sum(
                    float(weights[m])
                    * log_normal(np.array([float(x[b, m])]), w[m].double().numpy() @ z, np.array([1.0]))
                    for m in range(3)
                )
                q = sum(weight[b, j] * np.exp(log_normal(z, mean[b, j], var[b, j])) for j in range(count))
                inside += weight[b, k] / 4 * np.exp(fit + log_normal(z, 0.0, np.ones(D))) / q
        total -= np.log(inside) / 4
    assert float(got) == pytest.approx(total, rel=1e-4)


def linear_gaussian():
    """x_m = w_m z + noise of variance 1, three scalar views of a two-dimensional z; a subset's evidence in closed form."""
    w, x = np.array([[1.2, 0.3], [-0.4, 0.9], [0.8, -1.1]]), np.array([0.7, -0.2, 1.4])

    def log_evidence(views):
        cov = w[views] @ w[views].T + np.eye(len(views))
        return -0.5 * (
            x[views] @ np.linalg.solve(cov, x[views])
            + np.linalg.slogdet(cov)[1]
            + len(views) * np.log(2 * np.pi)
        )

    return torch.tensor(w).float(), torch.tensor(x).float(), log_evidence


@pytest.mark.parametrize("views", [[0], [1, 2], [0, 1, 2]])
@pytest.mark.parametrize("rule", [PoE(), MoE()], ids=str)
def test_iwae_rises_to_the_known_evidence_of_every_subset(rule, views):
    w, x, log_evidence = linear_gaussian()
    torch.manual_seed(0)
    present = torch.zeros(1, 3, dtype=torch.bool)
    present[:, views] = True
    # Experts off the truth: a wide product would leave no gap to close.
    posterior = rule(Gaussian(torch.randn(1, 3, 2) * 0.5, torch.zeros(1, 3, 2) + 0.3), present)
    count = posterior.log_weight.shape[1]

    def score(z):
        each = -0.5 * ((z @ w.T - x) ** 2 + np.log(2 * np.pi))
        return torch.where(present, each, 0)

    def bound(samples, repeats):
        noise = torch.randn(repeats, samples * count, 2)
        many = type(posterior)(
            Gaussian(
                *(t.expand(repeats, -1, -1) for t in (posterior.components.mean, posterior.components.logvar))
            ),
            posterior.log_weight.expand(repeats, -1),
        )
        seen = sight(many, lambda z: score(z), torch.ones(3), noise)
        return -float(IWAE(samples)(seen).loss)

    values = [bound(1, 40_000), bound(8, 10_000), bound(64, 4_000), bound(1024, 500)]
    truth = log_evidence(views)
    assert values[0] < values[1] < values[2] < truth + 0.01
    assert values[3] == pytest.approx(truth, abs=0.02)


def test_the_doubly_reparameterised_gradient_has_the_iwae_s_expectation_and_less_noise():
    """One Gaussian: encoder gradients agree in expectation (Tucker et al. 2019); decoder gradients are the same sample by sample."""
    torch.manual_seed(2)
    w, x, _ = linear_gaussian()
    mean, logvar = torch.randn(1, 3, 2), torch.zeros(1, 3, 2)
    repeats, samples = 60_000, 8
    noise = torch.randn(repeats, samples, 2)
    gradients, of_decoder = {}, {}
    for name, objective in (("iwae", IWAE(samples)), ("dreg", DReG(samples))):
        m = mean.clone().expand(repeats, -1, -1).contiguous().requires_grad_()
        d = w.clone().requires_grad_()
        posterior = PoE()(
            Gaussian(m, logvar.expand(repeats, -1, -1)), torch.ones(repeats, 3, dtype=torch.bool)
        )
        score = lambda z, d=d: -0.5 * ((z @ d.T - x) ** 2 + np.log(2 * np.pi))  # noqa: E731
        (objective(sight(posterior, score, torch.ones(3), noise)).loss * repeats).backward()
        gradients[name], of_decoder[name] = m.grad[:, 0], d.grad / repeats
    for dimension in range(2):
        a, b = (gradients[n][:, dimension] for n in ("iwae", "dreg"))
        spread = float((a.var() + b.var()) / repeats) ** 0.5
        assert abs(float(a.mean() - b.mean())) < 4 * spread
        assert float(b.var()) < 0.5 * float(a.var())
    torch.testing.assert_close(of_decoder["iwae"], of_decoder["dreg"], rtol=1e-4, atol=1e-5)


# ---- total correlation ------------------------------------------------------------------------------------------------


def test_total_correlation_is_its_formula_by_nested_loops_and_the_elbo_at_alpha_0():
    torch.manual_seed(4)
    w, x, weights = torch.randn(3, D), torch.randn(4, 3), torch.tensor([1.0, 0.3, 5.0])
    visible = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 1]]).bool()
    experts = Gaussian(torch.randn(4, 3, D), torch.randn(4, 3, D))
    posterior = PoE(prior_expert=False)(experts, visible)
    noise, score = torch.randn(4, 1, D), linear_scores(w, x)
    seen = sight(posterior, score, weights, noise, experts=experts, visible=visible, encoded=visible)
    assert float(TotalCorrelation(0.0, 0.7, 0)(seen).loss) == pytest.approx(
        float(ELBO(0.7, 0)(seen).loss), rel=1e-5
    )
    mean, var, _ = plain(posterior)
    mu, sigma2 = experts.mean.double().numpy(), experts.logvar.double().exp().numpy()
    total = 0.0
    for b in range(4):
        z = mean[b, 0] + np.sqrt(var[b, 0]) * noise[b, 0].double().numpy()
        fit = sum(
            float(weights[m])
            * log_normal(np.array([float(x[b, m])]), w[m].double().numpy() @ z, np.array([1.0]))
            for m in range(3)
        )
        n = int(visible[b].sum())
        kl = 0.5 * np.sum(mean[b, 0] ** 2 + var[b, 0] - 1 - np.log(var[b, 0]))
        to = 0.0
        for m in range(3):
            if visible[b, m]:
                for d in range(D):
                    to += 0.5 * (
                        var[b, 0, d] / sigma2[b, m, d]
                        + (mean[b, 0, d] - mu[b, m, d]) ** 2 / sigma2[b, m, d]
                        - 1
                        - np.log(var[b, 0, d] / sigma2[b, m, d])
                    )
        total -= ((n - 0.8) / n * fit - 0.7 * (0.2 * kl + 0.8 / n * to)) / 4
    assert float(TotalCorrelation(0.8, 0.7, 0)(seen).loss) == pytest.approx(total, rel=1e-4)


def test_total_correlation_refuses_a_mixture_naming_what_would_do():
    with pytest.raises(ValueError, match=r"7 components.*MomentMatched"):
        TotalCorrelation().samples(7)


# ---- alignment --------------------------------------------------------------------------------------------------------


def aligned(objective, value=None, mask=None):
    torch.manual_seed(6)
    experts = Gaussian(torch.randn(5, 4, D), torch.randn(5, 4, D))
    first = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    second = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    seen = sight(
        PoE()(experts, first | second), lambda z: z, torch.ones(4), torch.zeros(5, 1, D), experts=experts,
        encoded=first | second, visible=first | second, halves=(first, second),
        values={} if value is None else {"findings": (value.nan_to_num(), mask)},
    )  # fmt: skip
    return objective(seen), experts, first, second


def looped(experts, first, second, target, rows):
    """Cross-entropy of cosines both ways, case by case."""

    def mean(b, half):
        tau = np.exp(-experts.logvar[b].double().numpy())[half[b].numpy()]
        return (tau * experts.mean[b].double().numpy()[half[b].numpy()]).sum(0) / (1 + tau.sum(0))

    a, c = [np.array([mean(b, h) for b in rows]) for h in (first, second)]
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    similarity, total = unit(a) @ unit(c).T / 0.1, 0.0
    for logits in (similarity, similarity.T):
        for i in range(len(rows)):
            log_p = logits[i] - np.log(np.exp(logits[i]).sum())
            total -= sum(target[i][j] * log_p[j] for j in range(len(rows))) / len(rows) / 2
    return total


def test_alignment_with_the_same_case_is_the_cross_entropy_both_ways_and_a_case_of_one_role_takes_no_part():
    bound, experts, first, second = aligned(Alignment(weight=3.0))
    assert float(bound.loss) == pytest.approx(
        3 * looped(experts, first, second, np.eye(4), range(4)), rel=1e-4
    )


def test_alignment_by_findings_spreads_the_target_by_how_alike_two_cases_are_and_leaves_out_the_unread():
    value = torch.tensor([[1, 0, 1.0], [1, 0, 0], [0, 1, 0], [0, float("nan"), 1], [1, 1, 1]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 1], [0, 0, 0], [1, 0, 1], [1, 1, 1]]).bool()
    bound, experts, first, second = aligned(Alignment(1.0, targets="findings"), value, mask)
    distance = np.full((5, 5), np.nan)
    for i in range(5):
        for j in range(5):
            both = (mask[i] & mask[j]).numpy()
            if both.any():
                distance[i, j] = ((value[i] - value[j]).numpy()[both] ** 2).mean()
    usual = np.nanmean(distance)
    rows, target = [0, 1, 3], []
    for i in rows:
        raw = np.array([1.0 if i == j else np.exp(-distance[i, j] / usual / 0.2) for j in rows])
        target.append(raw / raw.sum())
    assert float(bound.loss) == pytest.approx(looped(experts, first, second, target, rows), rel=1e-4)


def test_a_sum_adds_losses_and_keeps_the_bound_s_parts():
    w, x, posterior = three_views(PoE())
    experts = Gaussian(torch.randn(4, 3, D), torch.randn(4, 3, D))
    half = torch.tensor([[True, False, False]]).expand(4, -1)
    seen = sight(
        posterior, linear_scores(w, x), torch.ones(3), torch.randn(4, 8, D), experts=experts,
        halves=(half, ~half), visible=torch.ones(4, 3).bool(), encoded=torch.ones(4, 3).bool(),
    )  # fmt: skip
    both = Sum((IWAE(8), Alignment(2.0)))
    assert both.samples(1) == 8
    bound = both(seen)
    alone = IWAE(8)(seen), Alignment(2.0)(seen)
    torch.testing.assert_close(bound.loss, alone[0].loss + alone[1].loss)
    torch.testing.assert_close(bound.log_likelihood, alone[0].log_likelihood)
    assert set(bound.parts) == {"alignment"}
