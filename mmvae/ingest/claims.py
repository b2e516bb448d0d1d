"""Collects the claims of the installed modalities on assets, in a separate process.

A plugin imports torch. Neither a scan's main process nor its workers nor a listener should, so that they stay light.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from mmvae.discovery import installed, load_all
from mmvae.errors import InputError
from mmvae.ingest.workers import TaskFailure, Workers

if TYPE_CHECKING:  # the contract imports torch
    from mmvae.modality import Modality

Facts = Mapping[str, Any]
# (claim, kind) of every installed kind, the highest claim first.
Claims = list[tuple[float, str]]
# Returns the claims on each of several assets, given their facts.
AskClaims = Callable[[Sequence[Facts]], list[Claims]]

IMPORT_SECONDS = 300.0  # torch from a cold disk, on a busy machine


@cache
def _recipes() -> "dict[str, Modality]":
    return {kind: cls() for kind, cls in load_all().items()}


def claims_of(facts: Facts) -> Claims:
    """The claim of each installed kind on an asset with these facts (including its `type`); imports every plugin."""
    claims = ((float(recipe.claims(facts)), kind) for kind, recipe in _recipes().items())
    return sorted(claims, key=lambda claim: (-claim[0], claim[1]))


def claims_here(facts_of_assets: Sequence[Facts]) -> list[Claims]:
    """The claims on each asset, computed in this process, which should have loaded torch already."""
    return [claims_of(facts) for facts in facts_of_assets]


def _claims_or_refusal(facts_of_assets: Sequence[Facts]) -> list[Claims] | InputError:
    """Runs in the separate process; a refusal is returned as an answer, since its message says what to install."""
    try:
        return claims_here(facts_of_assets)
    except InputError as error:
        return InputError(str(error), error.field)


class ClaimProcess:
    """A process with the installed modalities, started by the first call; a context manager. Claims are cached.

    The cache is keyed by the values of the facts, so series with equal facts are asked about once.
    """

    def __init__(self):
        self._workers = Workers(1, start_up=IMPORT_SECONDS)
        self._answers: dict[str, Claims] = {}

    def __enter__(self) -> "ClaimProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.__exit__()

    def __call__(self, facts_of_assets: Sequence[Facts]) -> list[Claims]:
        """The claims on each asset.

        Raises:
            InputError: if a plugin cannot be loaded or does not answer.
        """
        by_key = {_key(facts): facts for facts in facts_of_assets}
        unknown = {key: facts for key, facts in by_key.items() if key not in self._answers}
        if unknown:
            installed()  # refuses two plugins of one name, with a message
            answers = self._ask([dict(facts) for facts in unknown.values()])
            self._answers |= dict(zip(unknown, answers))
        return [self._answers[_key(facts)] for facts in facts_of_assets]

    def _ask(self, facts_of_assets: list[Facts]) -> list[Claims]:
        ((_, answer),) = self._workers.run(_claims_or_refusal, [(facts_of_assets, 0)], lambda _: 60.0)
        if isinstance(answer, TaskFailure):
            raise InputError(
                f"the installed modalities gave no claims ({answer.why}); `mmvae modalities` lists them, and importing each "
                "by hand shows which one fails"
            )
        if isinstance(answer, InputError):
            raise answer
        return answer


def _key(facts: Facts) -> str:
    """The values of facts as a key, without the series' pseudonym, on which no kind depends."""
    return repr(sorted((name, value) for name, value in facts.items() if name != "series"))
