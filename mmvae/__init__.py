"""Find the cases of an archive that are most like a given one: a multimodal VAE whose posterior is the retrieval space.

The names that a notebook needs are imported when they are first used, so that `import mmvae` itself is light.

>>> import mmvae
>>> mmvae.PoE(prior_expert=False)
PoE(prior_expert=False)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmvae.cohort import Cohort
    from mmvae.data import CaseData
    from mmvae.evaluation.evaluate import evaluate
    from mmvae.latent.fusion import MoE, MoPoE, PoE
    from mmvae.modality import Modality
    from mmvae.model import MMVAE
    from mmvae.retrieval.index import Index
    from mmvae.retrieval.search import search

__version__ = "0.2.0"
__all__ = ["MMVAE", "CaseData", "Cohort", "Index", "MoE", "MoPoE", "Modality", "PoE", "evaluate", "search"]

_PLACES = {
    "Cohort": "cohort",
    "Modality": "modality",
    "CaseData": "data",
    "MMVAE": "model",
    "PoE": "latent.fusion",
    "MoE": "latent.fusion",
    "MoPoE": "latent.fusion",
    "Index": "retrieval.index",
    "search": "retrieval.search",
    "evaluate": "evaluation.evaluate",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'mmvae' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"mmvae.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
