"""Building block for plugins whose data are answers: a linear decoder that teaches the latent space what they say."""

from typing import Any

from jaxtyping import Float
from pyro.distributions import Normal
from torch import Tensor, nn

SPREAD = 0.6  # of a value about what z says of it, in standard deviations over the training cases
# z has unit scale: slopes that begin near 1 / √D would take hundreds of steps to say anything sure, while the encoders
# learn from blurred answers.
GAIN = 3.0

_RENAMED = {"usual": "mean", "deviation": "std"}  # buffers of release 0.1


class AnswerDecoder(nn.Module):
    """z (B, D) → values (B, V), each a linear function of z, by squared error over its standard deviation in training.

    Linear, so that what is answered lies along directions of the latent space, which a deep decoder would be free to
    fold. Standardised by statistics and not by a learned scale: from the first step on every value counts, and none
    outweighs the others by growing ever more certain. For a probability, squared error is a proper score (Brier 1950);
    unlike a logit, which grows without end where a finding is sure, a probability stops at 0 and 1: two cases that surely
    lack fat lie together.

    >>> import torch
    >>> decoder = AnswerDecoder(torch.tensor([0.2, 0.9]), torch.tensor([0.4, 0.3]), latent_dim=5)
    >>> decoder(torch.zeros(1, 5)).mean.tolist()  # nothing is known: the means over the training cases
    [[0.20000000298023224, 0.8999999761581421]]

    Args:
        mean: (V,) of the training cases' values.
        std: (V,) or scalar, their standard deviation; above 0.
        latent_dim: D.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Float[Tensor, " V"], std: Float[Tensor, "*V"], latent_dim: int):
        super().__init__()
        self.slope = nn.Linear(latent_dim, len(mean))
        nn.init.zeros_(self.slope.bias)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_load_state_dict_pre_hook(_rename_buffers)

    def forward(self, z: Float[Tensor, "B D"]) -> Any:
        mean = self.mean + GAIN * self.std * self.slope(z).float()
        return Normal(mean, (SPREAD * self.std).expand_as(mean), validate_args=False)


def _rename_buffers(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Lets weights of release 0.1 load: its buffers had other names."""
    for old, new in _RENAMED.items():
        if prefix + old in state:
            state[prefix + new] = state.pop(prefix + old)
