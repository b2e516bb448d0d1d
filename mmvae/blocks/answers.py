"""Building block for plugins whose data are answers: a linear decoder that teaches the latent space what they say."""

from jaxtyping import Float
from pyro.distributions import Normal
from torch import Tensor, nn

SPREAD = 0.6  # of a value about what z says of it, in deviations over the training cases
# z has unit scale: slopes that begin near 1 / √D would take hundreds of steps to say anything sure, while the encoders
# learn from blurred answers.
GAIN = 3.0


class AnswerDecoder(nn.Module):
    """z (B, D) → values (B, V), each a linear function of z, by squared error over its deviation in training.

    Linear, so that what is answered lies along directions of the latent space, which a deep decoder would be free to
    fold. Standardised by statistics and not by a learned scale: from the first step on every value counts, and none is
    told ever more surely. Of a chance, squared error is a proper score (Brier 1950); unlike a logit, which grows without
    end where a finding is sure, a chance stops at 0 and 1: two cases that surely lack fat lie together.

    Args:
        usual: (V,) of the training cases' values, their mean.
        deviation: (V,) or scalar, their standard deviation; above 0.
        latent_dim: D.
    """

    def __init__(self, usual: Float[Tensor, " V"], deviation: Float[Tensor, "*V"], latent_dim: int):
        super().__init__()
        self.slope = nn.Linear(latent_dim, len(usual))
        nn.init.zeros_(self.slope.bias)
        self.register_buffer("usual", usual)
        self.register_buffer("deviation", deviation)

    def forward(self, z: Float[Tensor, "B D"]) -> Normal:
        mean = self.usual + GAIN * self.deviation * self.slope(z).float()
        return Normal(mean, (SPREAD * self.deviation).expand_as(mean), validate_args=False)
