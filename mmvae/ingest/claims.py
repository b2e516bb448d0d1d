"""What the installed modalities claim, asked in one process of their own.

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
# (claim, kind) of every installed kind, the surest first.
Claims = list[tuple[float, str]]
# Claims of each of several assets' facts.
AskClaims = Callable[[Sequence[Facts]], list[Claims]]

IMPORT_SECONDS = 300.0  # torch from a cold disk, on a busy machine


@cache
def _recipes() -> "dict[str, Modality]":
    return {kind: cls() for kind, cls in load_all().items()}


def claims_of(facts: Facts) -> Claims:
    """What each installed kind claims of an asset with these facts (`type` among them); imports every plugin."""
    claims = ((float(recipe.claims(facts)), kind) for kind, recipe in _recipes().items())
    return sorted(claims, key=lambda claim: (-claim[0], claim[1]))


def claims_here(several: Sequence[Facts]) -> list[Claims]:
    """The claims of each, asked in this process: for one that has torch already."""
    return [claims_of(facts) for facts in several]


def _claims_or_refusal(several: Sequence[Facts]) -> list[Claims] | InputError:
    """In the process of its own: a refusal is an answer too, since its words say what to install."""
    try:
        return claims_here(several)
    except InputError as error:
        return InputError(str(error), error.field)


class ClaimProcess:
    """The installed modalities in a process that starts with the first question; used in a `with`. Answers are remembered.

    Facts are asked by their values, so series that say the same are asked once.
    """

    def __init__(self):
        self._workers = Workers(1, start_up=IMPORT_SECONDS)
        self._answers: dict[str, Claims] = {}

    def __enter__(self) -> "ClaimProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.__exit__()

    def __call__(self, several: Sequence[Facts]) -> list[Claims]:
        """The claims of each.

        Raises:
            InputError: where a plugin cannot be loaded or does not answer.
        """
        by_key = {_key(facts): facts for facts in several}
        unknown = {key: facts for key, facts in by_key.items() if key not in self._answers}
        if unknown:
            installed()  # two plugins of one name are refused here, in words
            answers = self._ask([dict(facts) for facts in unknown.values()])
            self._answers |= dict(zip(unknown, answers))
        return [self._answers[_key(facts)] for facts in several]

    def _ask(self, several: list[Facts]) -> list[Claims]:
        ((_, answer),) = self._workers.run(_claims_or_refusal, [(several, 0)], lambda _: 60.0)
        if isinstance(answer, TaskFailure):
            raise InputError(
                f"the installed modalities gave no claims ({answer.why}); `mmvae modalities` lists them, and importing each "
                "by hand shows which one fails"
            )
        if isinstance(answer, InputError):
            raise answer
        return answer


def _key(facts: Facts) -> str:
    """Facts by their values, but for the series' own name, which no kind depends on."""
    return repr(sorted((name, value) for name, value in facts.items() if name != "series"))
