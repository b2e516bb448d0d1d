"""Normalised products of powers of Gaussian experts, the components of every fused posterior.

They are stored as experts and exponents and computed in natural parameters, where a product of powers is a weighted sum.
So the density of a K-component mixture costs two matrix products, and a single component can be computed alone.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmvae.latent.gaussian import Gaussian, Normal


@dataclass(frozen=True)
class Products(Normal):
    """K products of powers of the same M experts per case: component k is ∝ Π_m N(z; μ_m, σ²_m)^{a_km}, diagonal (B, K, D).

    Everything is computed in the experts' dtype, whatever the autocast.

    Args:
        experts: Gaussians (B, M, D).
        exponent: a, (B, K, M).
    """

    experts: Gaussian
    exponent: Float[Tensor, "B K M"]

    # An attribute of the base class may be computed here; pyright's rule is about attributes that are assigned to.
    @property
    def mean(self) -> Float[Tensor, "B K D"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Σ a_m μ_m/σ²_m divided by the precision."""
        precision = self._precision_of_experts()
        return self._sum(precision * self.experts.mean) / self._sum(precision)

    @property
    def logvar(self) -> Float[Tensor, "B K D"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Minus the logarithm of the precision, Σ a_m/σ²_m."""
        return -self._sum(self._precision_of_experts()).log()

    def at(self, index: Int[Tensor, " B"]) -> "Products":
        """The component `index` of each row, (B, 1, D)."""
        return Products(
            self.experts, self.exponent[torch.arange(len(index), device=index.device), index][:, None]
        )

    def log_prob_of_each(self, z: Float[Tensor, "*S B D"]) -> Float[Tensor, "*S B K"]:
        """Log-density of every component in nats, from each expert's pull (z − μ_m)/σ²_m, without forming the means."""
        with torch.autocast(z.device.type, enabled=False):
            precision = self._precision_of_experts()
            pull = (z[..., None, :] - self.experts.mean) * precision  # (*S, B, M, D)
            flat = _LogDensity.apply(self.exponent, precision, pull.reshape(-1, *precision.shape))
            return flat.view(*z.shape[:-1], -1)

    def _precision_of_experts(self) -> Float[Tensor, "B M D"]:
        return (-self.experts.logvar).exp()

    def _sum(self, each: Float[Tensor, "B M D"]) -> Float[Tensor, "B K D"]:
        with torch.autocast(each.device.type, enabled=False):
            return self.exponent @ each


class _LogDensity(torch.autograd.Function):
    """½ Σ_d (log P − G²/P − log 2π) with P = a λ and G = a · pull: (B, K, M), (B, M, D), (S, B, M, D) → (S, B, K).

    The gradients are written out because autograd would keep or create some twenty further arrays of shape (S, B, K, D), each
    of which costs as much as the arithmetic.
    """

    @staticmethod
    def forward(ctx, exponent, precision, pull):
        """The log-density; 1/P and G/P are the only large arrays that are kept."""
        variance = exponent @ precision
        log_precision = variance.log().sum(-1)
        variance.reciprocal_()
        force = exponent @ pull
        offset = force * variance
        squared = torch.linalg.vecdot(force, offset)
        ctx.save_for_backward(exponent, precision, pull, variance, offset)
        return (log_precision - squared - precision.shape[-1] * math.log(2 * math.pi)) / 2

    @staticmethod
    def backward(ctx, *grad_outputs):
        """With o = G/P: ∂/∂P = ½ (1/P + o²), ∂/∂G = −o."""
        exponent, precision, pull, variance, offset = ctx.saved_tensors
        (slope,) = grad_outputs
        with torch.autocast(slope.device.type, enabled=False):
            slope = slope[..., None]
            of_sum = offset.square().add_(variance).mul_(slope / 2).sum(0)
            of_force = offset * -slope
            of_exponent = None
            if ctx.needs_input_grad[0]:
                of_exponent = of_sum @ precision.mT + (of_force @ pull.mT).sum(0)
            return of_exponent, exponent.mT @ of_sum, exponent.mT @ of_force
