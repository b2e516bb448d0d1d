"""Products of powers against SciPy's densities in float64, finite differences, and every way of leading shapes."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from mmvae.latent.gaussian import Gaussian, Posterior
from mmvae.latent.product import Products, _LogDensity


def drawn(seed, logvar=1.0, cases=3, experts=4, components=5, width=6):
    torch.manual_seed(seed)
    each = Gaussian(torch.randn(cases, experts, width), logvar * (2 * torch.rand(cases, experts, width) - 1))
    exponent = torch.rand(cases, components, experts) * (torch.rand(cases, components, experts) > 0.4)
    exponent[..., -1] += 0.1  # no component is without any expert
    return Products(each, exponent)


def in_float64(products, b, k):
    """Mean and deviation of one component by loops; no code shared with the library."""
    mean, logvar = (x[b].double().numpy() for x in (products.experts.mean, products.experts.logvar))
    a = products.exponent[b, k].double().numpy()
    precision = sum(a[m] * np.exp(-logvar[m]) for m in range(len(a)))
    return sum(a[m] * np.exp(-logvar[m]) * mean[m] for m in range(len(a))) / precision, precision**-0.5


@pytest.mark.parametrize("logvar", [1.0, 12.0])
@pytest.mark.parametrize("autocast", [False, True])
def test_mean_variance_and_density_are_scipys(logvar, autocast):
    products = drawn(0, logvar)
    noise = torch.randn(2, 3, 5, 6)
    # Each point lies near another component, so that the densities compared are ones that count.
    picked = torch.stack([products.mean[torch.arange(3), torch.tensor([s, s + 1, s + 2])] for s in range(2)])
    spread = torch.stack(
        [products.logvar[torch.arange(3), torch.tensor([s, s + 1, s + 2])] for s in range(2)]
    )
    z = picked + (spread / 2).exp() * noise[:, :, 0]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        got, mean, var = products.log_prob_of_each(z), products.mean, products.logvar.exp()
    for b in range(3):
        for k in range(5):
            centre, deviation = in_float64(products, b, k)
            np.testing.assert_allclose(mean[b, k], centre, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(var[b, k], deviation**2, rtol=1e-5)
            for s in range(2):
                density = norm.logpdf(z[s, b].double().numpy(), centre, deviation).sum()
                assert float(got[s, b, k]) == pytest.approx(density, rel=1e-4, abs=1e-2)


def test_a_density_is_that_of_the_same_gaussians_kept_as_mean_and_variance():
    products = drawn(1)
    plain, z = Gaussian(products.mean, products.logvar), torch.randn(7, 2, 3, 6)
    torch.testing.assert_close(products.log_prob_of_each(z), plain.log_prob_of_each(z), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        products.log_prob_of_each(z[0, 0]), plain.log_prob_of_each(z[0, 0]), atol=1e-4, rtol=1e-4
    )
    assert products.log_prob_of_each(z).shape == (7, 2, 3, 5)
    torch.testing.assert_close(products.log_prob(z[0, 0][:, None]), plain.log_prob(z[0, 0][:, None]))


@pytest.mark.parametrize("learns", [False, True], ids=["fixed exponents", "learned exponents"])
def test_gradients_are_finite_differences(learns):
    torch.manual_seed(2)
    exponent = (torch.rand(2, 3, 4, dtype=torch.float64) + 0.1).requires_grad_(learns)
    precision = (torch.rand(2, 4, 5, dtype=torch.float64) + 0.5).requires_grad_()
    pull = torch.randn(3, 2, 4, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(_LogDensity.apply, (exponent, precision, pull))


def test_one_component_a_row_is_that_component():
    products, index = drawn(3), torch.tensor([4, 0, 2])
    for kept in (products, Gaussian(products.mean, products.logvar)):
        one = kept.at(index)
        torch.testing.assert_close(one.mean[:, 0], products.mean[torch.arange(3), index])
        torch.testing.assert_close(one.logvar[:, 0], products.logvar[torch.arange(3), index])


def test_a_void_component_gives_a_finite_gradient():
    products = drawn(4)
    each = Gaussian(*(x.clone().requires_grad_() for x in (products.experts.mean, products.experts.logvar)))
    log_weight = torch.log_softmax(torch.tensor([0.0, -torch.inf, 0, -torch.inf, 0]).expand(3, -1), -1)
    Posterior(Products(each, products.exponent), log_weight).log_prob(torch.randn(3, 6)).sum().backward()
    assert torch.isfinite(each.mean.grad).all() and torch.isfinite(each.logvar.grad).all()
