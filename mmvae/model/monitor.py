"""Validation retrieval during a fit: logs the metric for early stopping, and chooses readout and distance by it."""

import logging
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from lightning import Callback

from mmvae.case import Case
from mmvae.latent.space import Distance, Readout, RetrievalSpace
from mmvae.metrics.relevance import counts_as_relevant, gains, labelled
from mmvae.metrics.scores import METRICS, score

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Candidate:
    """A readout and distance, and each metric's mean over the validation cases."""

    readout: Readout | None
    distance: Distance
    scores: dict[str, float]


class RetrievalMonitor(Callback):
    """Logs `val/mAP` and `val/P@5` of retrieval among the validation cases, without answers and excluding the own patient.

    The posterior means are compared with and without each readout of the model, by each distance; the pair with the
    best mAP is set in the model and stored in the checkpoint. If the validation cases have no label, or nothing is
    relevant, `val/mAP` is logged as 0, with one warning.
    """

    def __init__(self):
        self._means: dict[str, torch.Tensor] = {}
        self._warned = False

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._means = {}

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._means.update(zip(outputs["case_ids"], outputs["mean"]))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        means = self._gathered(trainer)
        data = trainer.datamodule
        cases = _comparable([case for case in data.cases("validation") if case.case_id in means], data)
        candidates = self._candidates(pl_module, cases, means, data) if len(cases) > 1 else []
        if not candidates and not self._warned and trainer.is_global_zero:
            _log.warning("fewer than two labelled validation cases: val/mAP is logged as 0")
            self._warned = True
        scores = dict.fromkeys(METRICS, 0.0)
        if candidates:
            best = max(candidates, key=lambda candidate: candidate.scores["mAP"])
            pl_module.choose_space(best.readout, best.distance)
            scores = best.scores
        for metric in ("mAP", "P@5"):
            pl_module.log(
                f"val/{metric}", scores[metric], prog_bar=True, rank_zero_only=False, sync_dist=False
            )

    def _gathered(self, trainer: Any) -> dict[str, torch.Tensor]:
        """Each validation case's posterior mean, of all ranks."""
        if trainer.world_size == 1:
            return self._means
        parts: list[dict] = [{} for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(parts, self._means)
        return {case_id: mean for part in parts for case_id, mean in part.items()}

    def _candidates(
        self, model: Any, cases: list[Case], means: dict[str, torch.Tensor], data: Any
    ) -> list[_Candidate]:
        z = torch.stack([means[case.case_id] for case in cases])
        labels, patients = [case.labels for case in cases], np.array([case.patient for case in cases])
        relevance = data.cohort.card.relevance
        gain, others = gains(labels, labels, relevance), patients[:, None] != patients[None]
        candidates = []
        for readout in (None, *model.readouts(z.to(model.device))):
            points = z if readout is None else readout(z)
            for distance in get_args(Distance):
                distances = RetrievalSpace(distance=distance).distances(points, points).numpy()
                value, _ = score(distances, gain, others, counts_as_relevant(relevance))
                candidates.append(_Candidate(readout, distance, value.mean()))
        return candidates


def _comparable(cases: list[Case], data: Any) -> list[Case]:
    """The cases that have the labels on which relevance is based."""
    relevance = data.cohort.card.relevance
    if not relevance:
        return []
    known = labelled([case.labels for case in cases], relevance)
    return [case for case, is_labelled in zip(cases, known) if is_labelled]
