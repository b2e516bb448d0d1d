"""The decoder of answers: its likelihood by SciPy, and weights of release 0.1."""

import numpy as np
import torch
from scipy import stats
from torch import nn

from mmvae.blocks.answers import AnswerDecoder


def decoder():
    torch.manual_seed(0)
    return AnswerDecoder(torch.tensor([0.2, 0.9, 0.5]), torch.tensor([0.4, 0.3, 0.5]), 4)


def test_the_likelihood_is_a_normal_about_a_linear_function_of_z():
    ours, z = decoder(), torch.randn(5, 4)
    value = torch.rand(5, 3)
    weight, bias = (p.detach().double().numpy() for p in (ours.slope.weight, ours.slope.bias))
    mean, std = np.array([0.2, 0.9, 0.5]), np.array([0.4, 0.3, 0.5])
    at = mean + 3 * std * (z.double().numpy() @ weight.T + bias)
    oracle = stats.norm.logpdf(value.double().numpy(), at, 0.6 * std)
    np.testing.assert_allclose(ours(z).log_prob(value).detach().numpy(), oracle, rtol=1e-4, atol=1e-5)


def test_weights_of_release_0_1_load_by_the_old_names_of_buffers():
    ours, z = nn.ModuleDict({"terms": decoder()}), torch.randn(2, 4)
    old = {
        name.replace(".mean", ".usual").replace(".std", ".deviation"): value
        for name, value in ours.state_dict().items()
    }
    assert {"terms.usual", "terms.deviation"} <= set(old)
    fresh = nn.ModuleDict({"terms": AnswerDecoder(torch.zeros(3), torch.ones(3), 4)})
    fresh.load_state_dict(old)
    torch.testing.assert_close(fresh["terms"](z).mean, ours["terms"](z).mean)
    assert "terms.mean" in fresh.state_dict()
