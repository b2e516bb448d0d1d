"""What a run logs: the parts of a bound by name, and the table of roles at its start."""

from collections.abc import Iterator, Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from mmvae.batch import Batch
from mmvae.latent.gaussian import Gaussian
from mmvae.modality import Modality
from mmvae.model.bound import BatchBound

ACTIVE_KL = 0.01  # nats: a latent dimension whose mean KL over a batch exceeds this is active


def parts_of(
    result: BatchBound, batch: Batch, roles: Sequence[str]
) -> Iterator[tuple[str, Float[Tensor, ""]]]:
    """Names and values to log: loss, KL and active units of the joint posterior, and for each role its share of cases,
    log-likelihood, KL and active units of its expert.

    A role that is absent from the whole batch yields its share only.
    """
    bound = result.bound
    yield "loss", bound.loss
    yield "bound_kl", bound.kl.mean()
    yield from bound.parts.items()
    yield from _units("", result.posterior.moment_matched().kl_to_prior().mean(0))
    for m, role in enumerate(roles):
        present, encoded = batch.present[:, m], result.encoded[:, m]
        yield f"share_present/{role}", present.float().mean()
        if present.any():
            yield f"log_likelihood/{role}", bound.log_likelihood[present, m].mean()
        if encoded.any():
            expert = Gaussian(result.experts.mean[encoded, m], result.experts.logvar[encoded, m])
            yield from _units(f"/{role}", expert.kl_to_prior().mean(0))


def _units(name: str, kl: Float[Tensor, " D"]) -> Iterator[tuple[str, Float[Tensor, ""]]]:
    yield f"kl{name}", kl.sum()
    yield f"active_units{name}", (kl > ACTIVE_KL).float().sum()


def table_of_roles(
    modalities: Mapping[str, Modality],
    weight: Mapping[str, float],
    visible: Sequence[float],
    supervision: Mapping[str, str],
) -> str:
    """A table with class, weight, visibility and supervision of each role, printed because likelihood weights decide results.

    Args:
        modalities: Recipes by role.
        weight: Factor on each role's log-likelihood.
        visible: Probability of each role, in order, of being encoded in a training step.
        supervision: What each role adds to the supervision; `none` by default.
    """
    lines = [f"{'role':<12} {'class':<12} {'weight':>10} {'visible':>8}  supervision"]
    lines += [
        f"{role:<12} {type(recipe).__name__:<12} {weight[role]:>10.4g} {probability:>8.2f}  {supervision.get(role, 'none')}"
        for (role, recipe), probability in zip(modalities.items(), visible)
    ]
    return "\n".join(lines)
