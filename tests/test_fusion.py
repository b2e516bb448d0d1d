"""Fusion rules against a grid integral, nested loops, and what must never matter."""

import itertools

import numpy as np
import pytest
import torch

from mmvae.latent.fusion import Hellinger, MoE, MomentMatched, MoPoE, PoE, TemperedPoE
from mmvae.latent.gaussian import Gaussian
from mmvae.latent.space import Readout, RetrievalSpace, plain_of_release_0_1
from mmvae.plain import from_plain, to_plain

MIXTURES = [MoE(), MoPoE(), Hellinger()]
RULES = [PoE(), PoE(prior_expert=False), TemperedPoE(), *MIXTURES, MomentMatched(Hellinger())]
GRID = np.linspace(-30, 30, 120_001)
STEP = GRID[1] - GRID[0]


def normal(p):
    return p / (p.sum() * STEP)


def density(mean, logvar):
    return np.exp(-((GRID - mean) ** 2) / (2 * np.exp(logvar))) / np.sqrt(2 * np.pi * np.exp(logvar))


def defined(rule, mean, logvar, power, present):
    """The rule's own definition, one latent dimension, integrated on a grid; no code shared with the library."""
    prior = density(0.0, 0.0)
    here = [m for m, p in enumerate(present) if p]
    experts = [density(mean[m], logvar[m]) for m in here]
    if not here:
        return prior
    name = type(rule).__name__
    if name == "PoE":
        product = prior if rule.prior_expert else np.ones_like(prior)
        for m, e in zip(here, experts):
            product = product * e ** power[m]
        return normal(product)
    if name == "TemperedPoE":
        total = sum(power[m] for m in here)
        return normal(np.prod([e ** (power[m] / total) for m, e in zip(here, experts)], 0))
    if name == "MoE":
        return sum(normal(e ** power[m]) for m, e in zip(here, experts)) / len(here)
    if name == "Hellinger":
        return normal(sum(np.sqrt(e) for e in experts) ** 2)
    if name == "MomentMatched":
        whole = defined(rule.rule, mean, logvar, power, present)
        centre = (GRID * whole).sum() * STEP
        return density(centre, np.log(((GRID - centre) ** 2 * whole).sum() * STEP))
    parts = []
    for size in range(1, len(here) + 1):
        for subset in itertools.combinations(zip(here, experts), size):
            parts.append(normal(np.prod([e ** power[m] for m, e in subset], 0)))
    return sum(parts) / len(parts)


@pytest.mark.parametrize("present", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("powers", ["of one", "random"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_fused_density_is_its_definition_on_a_grid_for_every_missing_pattern(rule, powers, present):
    torch.manual_seed(sum(present))
    mean, logvar = torch.randn(3), torch.randn(3)
    power = torch.ones(3) if powers == "of one" else torch.rand(3) * 2 + 0.2
    fused = rule(Gaussian(mean.view(1, 3, 1), logvar.view(1, 3, 1)), torch.tensor([present]), power)
    oracle = defined(rule, mean.tolist(), logvar.tolist(), power.tolist(), present)
    mine = fused.log_prob(torch.tensor(GRID).float().view(-1, 1, 1))[:, 0].double().exp().numpy()
    assert np.abs(mine - oracle).max() < 1e-5
    assert float(fused.mean[0, 0]) == pytest.approx((GRID * oracle).sum() * STEP, abs=1e-4)
    spread = ((GRID - float(fused.mean[0, 0])) ** 2 * oracle).sum() * STEP
    assert float(fused.moment_matched().logvar.exp()[0, 0]) == pytest.approx(spread, rel=1e-3)


def test_hellinger_in_two_dimensions_weighs_a_pair_by_its_whole_overlap():
    """Σ over dimensions, not a product of one-dimensional pools: by integration over a square."""
    torch.manual_seed(3)
    mean, logvar = torch.randn(1, 3, 2), torch.randn(1, 3, 2) / 2
    fused = Hellinger()(Gaussian(mean, logvar), torch.ones(1, 3, dtype=torch.bool))
    axis = np.linspace(-12, 12, 1201)
    at = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
    m, v = mean[0].double().numpy(), logvar[0].double().exp().numpy()
    each = [
        np.exp(-((at - m[i]) ** 2 / v[i] / 2).sum(-1)) / (2 * np.pi * np.sqrt(v[i].prod())) for i in range(3)
    ]
    pool = sum(np.sqrt(e) for e in each) ** 2
    pool = pool / pool.sum() / (axis[1] - axis[0]) ** 2
    mine = fused.log_prob(torch.tensor(at).float()[:, :, None])[..., 0].exp().numpy()
    assert np.abs(mine - pool).max() < 1e-5


def test_with_learned_powers_a_space_is_kept_as_plain_values_and_is_the_same():
    experts = Gaussian(torch.randn(5, 3, 4), torch.randn(5, 3, 4))
    present, power = torch.rand(5, 3) > 0.3, (0.5, 1.0, 2.5)
    kept = from_plain(to_plain(RetrievalSpace(TemperedPoE(), power)), RetrievalSpace)
    torch.testing.assert_close(
        kept.points(experts, present), TemperedPoE()(experts, present, torch.tensor(power)).mean
    )
    assert not torch.allclose(kept.points(experts, present), TemperedPoE()(experts, present).mean)


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


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_bfloat16_autocast_does_not_touch_the_arithmetic(rule, count):
    torch.manual_seed(count)
    experts = Gaussian(torch.randn(9, count, 6) * 3, torch.rand(9, count, 6) * 24 - 12)
    present = torch.rand(9, count) > 0.3
    plain = rule(experts, present)
    with torch.autocast("cpu", torch.bfloat16):
        cast = rule(experts, present)
        density = cast.log_prob(cast.mean)
    torch.testing.assert_close(plain.mean, cast.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain.components.logvar, cast.components.logvar, atol=1e-5, rtol=1e-5)
    assert torch.isfinite(cast.mean).all()
    assert torch.isfinite(density).all()


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_float64_loop_agrees_over_the_whole_range_of_variances(rule):
    """Means of every rule, logvar from −12 to 12, in NumPy float64, case by case and dimension by dimension."""
    torch.manual_seed(5)
    mean, logvar = torch.randn(20, 4, 3), torch.rand(20, 4, 3) * 24 - 12
    present = torch.rand(20, 4) > 0.3
    got = rule(Gaussian(mean, logvar), present).mean.double().numpy()
    for b in range(20):
        here = [m for m in range(4) if present[b, m]]
        mu, tau = mean[b].double().numpy(), np.exp(-logvar[b].double().numpy())
        product = lambda of, a=1.0: (  # noqa: E731
            (a * tau[of] * mu[of]).sum(0) / (a * tau[of]).sum(0)  # noqa: B023
        )
        name, expected = type(rule).__name__, np.zeros(3)
        if not here:
            pass
        elif name == "PoE":
            expected = (tau[here] * mu[here]).sum(0) / (tau[here].sum(0) + rule.prior_expert)
        elif name == "TemperedPoE":
            expected = product(here)
        elif name == "MoE":
            expected = mu[here].mean(0)
        elif name == "MoPoE":
            subsets = [list(s) for n in range(1, len(here) + 1) for s in itertools.combinations(here, n)]
            expected = np.mean([product(s) for s in subsets], 0)
        else:
            total = 0.0
            for i, j in itertools.product(here, here):
                average = (1 / tau[i] + 1 / tau[j]) / 2
                overlap = np.exp(-((mu[i] - mu[j]) ** 2 / average).sum() / 8) * np.prod(
                    (1 / (tau[i] * tau[j])) ** 0.25 / np.sqrt(average)
                )
                expected, total = expected + overlap * product([i, j]), total + overlap
            expected = expected / total
        np.testing.assert_allclose(got[b], expected, rtol=2e-4, atol=2e-5)


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


@pytest.mark.parametrize("rule", [PoE(), MoE()], ids=str)
def test_a_readout_s_point_is_the_mean_of_mapped_samples(rule):
    torch.manual_seed(1)
    experts = Gaussian(torch.randn(1, 2, 3), torch.randn(1, 2, 3))
    present, matrix, offset = torch.ones(1, 2, dtype=torch.bool), torch.randn(4, 3), torch.randn(4)
    readout = Readout(tuple(map(tuple, matrix.tolist())), tuple(offset.tolist()))
    point = RetrievalSpace(rule, readout=readout).points(experts, present)
    posterior = rule(experts, present)
    many = type(posterior)(
        Gaussian(
            *(x.expand(400_000, -1, -1) for x in (posterior.components.mean, posterior.components.logvar))
        ),
        posterior.log_weight.expand(400_000, -1),
    )
    u = many.rsample() @ matrix.T + offset
    torch.testing.assert_close(point[0], u.mean(0), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("exponent", [1.5, 2.0])
@pytest.mark.parametrize("rule", [PoE(), MoE()], ids=str)
def test_a_readout_s_exponent_raises_each_coordinate_and_keeps_its_sign(rule, exponent):
    torch.manual_seed(2)
    experts, present = (
        Gaussian(torch.randn(6, 2, 3), torch.randn(6, 2, 3)),
        torch.ones(6, 2, dtype=torch.bool),
    )
    matrix, offset = np.random.default_rng(0).normal(size=(4, 3)), np.array([0.5, -0.5, 0.0, 2.0])
    readout = Readout(tuple(map(tuple, matrix.tolist())), tuple(offset.tolist()), exponent)
    point = RetrievalSpace(rule, readout=readout).points(experts, present).numpy()
    u = rule(experts, present).mean.double().numpy() @ matrix.T + offset
    by_hand = [[np.copysign(abs(x) ** exponent, x) for x in row] for row in u]
    np.testing.assert_allclose(point, by_hand, rtol=1e-4, atol=1e-5)
    still = Readout(((1.0, 0.0), (0.0, 1.0)), (0.0, 0.0), exponent)
    at_zero = RetrievalSpace(PoE(), readout=still).points(
        Gaussian(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2)), present[:1, :1]
    )
    assert (at_zero == 0).all()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_distances_are_scipy_s(distance):
    from scipy.spatial.distance import cdist

    torch.manual_seed(3)
    a, b = torch.randn(5, 4), torch.randn(7, 4)
    found = RetrievalSpace(distance=distance).distances(a, b)
    torch.testing.assert_close(
        found.double(), torch.from_numpy(cdist(a.double(), b.double(), distance)), atol=1e-5, rtol=1e-5
    )


def test_what_release_0_1_kept_as_wrapped_rules_is_the_same_space():
    at = "mmvae.latent.fusion."
    powered = {
        "class_path": at + "Powered",
        "init_args": {"rule": to_plain(TemperedPoE()), "power": [0.5, 2.0]},
    }
    projected = {
        "class_path": at + "Projected",
        "init_args": {"rule": powered, "matrix": [[1.0, 2.0], [0.0, -1.0]], "offset": [0.5, 0.0]},
    }
    sharpened = {"class_path": at + "Sharpened", "init_args": {"rule": projected, "exponent": 2.0}}
    readout = Readout(((1.0, 2.0), (0.0, -1.0)), (0.5, 0.0), 2.0)
    for plain, wanted in (
        (to_plain(MoE()), RetrievalSpace(MoE(), distance="euclidean")),
        (sharpened, RetrievalSpace(TemperedPoE(), (0.5, 2.0), readout, "euclidean")),
    ):
        assert from_plain(plain_of_release_0_1(plain, "euclidean"), RetrievalSpace) == wanted
