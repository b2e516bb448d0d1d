"""Validation retrieval during a fit: the number that early stopping watches, and the readout and distance that win by it."""

import numpy as np
import torch
from lightning import Callback

from mmvae.latent.gaussian import DISTANCES
from mmvae.retrieval.metrics import METRICS, counts_as_relevant, gains, labelled, score


class RetrievalMonitor(Callback):
    """Logs `val/mAP` and `val/P@5` of validation cases among themselves, answers left out, own patient excluded.

    The posterior means are compared as they are and through each readout of the model, by each distance;
    what has the best mAP becomes the model's and is stored in the checkpoint. A cohort whose validation cases
    have no label, or in which nothing is relevant, logs `val/mAP` 0 and says so once.
    """

    def __init__(self):
        self._means: dict[str, torch.Tensor] = {}
        self._told = False

    def on_validation_epoch_start(self, trainer, module) -> None:
        self._means = {}

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self._means.update(zip(outputs["case_ids"], outputs["mean"]))

    def on_validation_epoch_end(self, trainer, module) -> None:
        means = self._means
        if trainer.world_size > 1:
            parts: list[dict] = [{} for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(parts, means)
            means = {case_id: mean for part in parts for case_id, mean in part.items()}
        data = trainer.datamodule
        cohort, tried = data.cohort, []
        cases = [case for case in data.cases("validation") if case.case_id in means]
        relevance = cohort.card.relevance
        usable = (
            labelled([case.labels for case in cases], relevance) if relevance else np.zeros(len(cases), bool)
        )
        cases = [case for case, good in zip(cases, usable) if good]
        if len(cases) > 1:
            z = torch.stack([means[case.case_id] for case in cases])
            labels, patients = [case.labels for case in cases], np.array([case.patient for case in cases])
            gain = gains(labels, labels, relevance)
            for readout in (None, *module.readouts(z.to(module.device))):
                seen = z if readout is None else readout(z)
                for name, distance in DISTANCES.items():
                    value, _ = score(
                        distance(seen, seen).numpy(),
                        gain,
                        patients[:, None] != patients[None],
                        counts_as_relevant(relevance),
                    )
                    known = ~np.isnan(value)
                    average = np.where(known, value, 0).sum(0) / np.maximum(known.sum(0), 1)
                    tried.append((float(average[3]), average, readout, name))
        if not tried and not self._told and trainer.is_global_zero:
            print("validation retrieval: fewer than two labelled validation cases, val/mAP is logged as 0")
            self._told = True
        values = dict.fromkeys(METRICS, 0.0)
        if tried:
            _, average, module.readout, module.distance = max(tried, key=lambda one: one[0])
            values = dict(zip(METRICS, average.tolist()))
        for metric in ("mAP", "P@5"):
            module.log(f"val/{metric}", values[metric], prog_bar=True, rank_zero_only=False, sync_dist=False)
