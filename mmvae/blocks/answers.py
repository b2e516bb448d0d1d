"""Building block for plugins whose data are answers: a linear decoder, by which answers shape the latent space."""

from typing import Any

from jaxtyping import Float
from pyro.distributions import Normal
from torch import Tensor, nn

SPREAD = 0.6  # std of a value about its prediction from z, in standard deviations over the training cases
# z has unit scale: with slopes that start near 1 / √D, predictions would stay vague for hundreds of steps, and the encoders
# would learn from vague answers.
GAIN = 3.0

_RENAMED = {"usual": "mean", "deviation": "std"}  # buffers of release 0.1


class AnswerDecoder(nn.Module):
    """z (B, D) → values (B, V), each linear in z, scored by squared error relative to its standard deviation in training.

    It is linear so that answers correspond to directions of the latent space, which a deep decoder would be free to fold.
    Values are standardised by statistics rather than a learned scale: every value counts from the first step, and none
    outweighs the others by becoming ever more certain. For a probability, squared error is a proper score (Brier 1950).
    A logit grows without bound when a finding is certain, but a probability stops at 0 and 1, so that two cases that
    certainly lack fat lie close together.

    >>> import torch
    >>> decoder = AnswerDecoder(torch.tensor([0.2, 0.9]), torch.tensor([0.4, 0.3]), latent_dim=5)
    >>> decoder(torch.zeros(1, 5)).mean.tolist()  # at the prior's mean: the means over the training cases
    [[0.20000000298023224, 0.8999999761581421]]

    Args:
        mean: Mean of each value over the training cases, (V,).
        std: Standard deviation of each value, (V,) or scalar; above 0.
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
    """Renames the buffers of release 0.1, so that its weights load."""
    for old, new in _RENAMED.items():
        if prefix + old in state:
            state[prefix + new] = state.pop(prefix + old)
