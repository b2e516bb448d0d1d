"""The supervised ceiling: the same encoders and fusion, the label as the only target (EVALUATION.md)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.setup import IMAGES, MOTION, PAIR
from mmvae.batch import MotionRange, collate
from mmvae.case import Case
from mmvae.cohort import Cohort
from mmvae.data import CaseDataset
from mmvae.evaluation.evaluate import Ranking, Side
from mmvae.latent.gaussian import cosine_distance
from mmvae.metrics.estimates import PerPatient, by_patient
from mmvae.model import MMVAE
from mmvae.seeds import seed_of


@dataclass(frozen=True)
class Training:
    """One of the trainings that compete for the ceiling; with `using` these roles are all visible, else a random subset."""

    loss: Literal["cross-entropy", "contrastive"]
    weight_decay: float
    epochs: int
    seed: int = 1
    batch_size: int = 50
    lr: float = 2e-3
    using: tuple[str, ...] | None = None


# One ceiling trained on random subsets serves all; the whole, one pair and one series also get one of their own.
DEDICATED = {"images": IMAGES, "pair": PAIR, "single": ("t2",)}


def grid(ours: int) -> list[Training]:
    """The twelve trainings on random subsets: twice as many epochs as ours, and a fifth more."""
    return [
        Training(loss, decay, epochs)
        for loss in ("cross-entropy", "contrastive")
        for decay in (0.1, 0.01, 0.5)
        for epochs in (2 * ours, ours * 6 // 5)
    ]


def dedicated(name: str, ours: int) -> Training:
    """The training whose visible roles are always those of `DEDICATED`."""
    return Training("cross-entropy", 0.5, 2 * ours, using=DEDICATED[name])


GAIN = 5.0  # on the head's logits: a sure class has one of about 5, and the mean has unit scale
SPACES = ("mean", "logits", "probabilities")


class Ceiling(nn.Module):
    """Encoders and fusion of an MMVAE, and a linear head on the fused mean."""

    def __init__(self, model: MMVAE, classes: list[str]):
        super().__init__()
        self.model, self.classes = model, classes
        self.head = nn.Linear(model.latent_dim, len(classes))

    def logits(self, mean: torch.Tensor) -> torch.Tensor:
        """Linear, with a gain, so that it learns fast."""
        return GAIN * self.head(mean)

    def loss(self, mean: torch.Tensor, target: torch.Tensor, kind: str) -> torch.Tensor:
        """Cross-entropy, or supervised contrast of directions (Khosla et al. 2020, arXiv:2004.11362, L_out, τ = .1) plus the head's."""
        head = functional.cross_entropy(
            self.logits(mean if kind == "cross-entropy" else mean.detach()), target
        )
        if kind == "cross-entropy":
            return head
        z = functional.normalize(mean, dim=-1)
        similarity = z @ z.T / 0.1
        itself = torch.eye(len(z), dtype=torch.bool)
        log_p = similarity - torch.logsumexp(similarity.masked_fill(itself, -torch.inf), 1, keepdim=True)
        positive = (target[:, None] == target[None]) & ~itself
        has = positive.any(1)
        return head - (torch.where(positive, log_p, 0).sum(1)[has] / positive.sum(1)[has]).mean()


def train(
    model: MMVAE, cohort: Cohort, training: Training, motion: MotionRange = MOTION, label: str = "histology"
) -> Ceiling:
    """The ceiling after its epochs, trained on the labelled training cases by visible subsets as its training says."""
    torch.manual_seed(training.seed)
    cases = [case for case in cohort.split("train") if label in case.labels]
    model.fit_recipes(cohort, cases)
    classes = sorted({str(case.labels[label]) for case in cases})
    made = Ceiling(model, classes)
    data = CaseDataset(cohort, cases, model.modalities, (), motion, training.seed)
    target = torch.tensor([classes.index(str(case.labels[label])) for case in cases])
    parameters = [*model.encoders.parameters(), *made.head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=training.lr, weight_decay=training.weight_decay)
    steps = -(-len(cases) // training.batch_size) * training.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.lr, total_steps=steps, pct_start=0.1)
    model.train()
    for epoch in range(training.epochs):
        order = torch.randperm(
            len(cases), generator=torch.Generator().manual_seed(seed_of("ceiling", training.seed, epoch))
        )
        for rows in order.split(training.batch_size):
            batch = collate([data[int(i), epoch] for i in rows])
            chance = torch.rand(
                batch.present.shape,
                generator=torch.Generator().manual_seed(
                    seed_of("visible", training.seed, epoch, int(rows[0]))
                ),
            )
            asked = torch.tensor([training.using is None or role in training.using for role in model.roles])
            visible = batch.present & asked & (chance < (0.5 if training.using is None else 1.0))
            visible = torch.where(visible.any(1, keepdim=True), visible, batch.present & asked)
            with torch.autocast(
                "cpu", dtype=torch.bfloat16
            ):  # as ours is trained; fusion and loss stay in float32
                experts, tie = model.experts(batch, visible)
            loss = made.loss(model.fusion(experts, visible).mean, target[rows], training.loss) + tie
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return made.eval()


@torch.no_grad()
def spaces(made: Ceiling, side: Side, present: np.ndarray) -> dict[str, torch.Tensor]:
    """What the ceiling may be compared by: fused mean, logits, class probabilities."""
    mean = torch.from_numpy(side.experts.means(made.model.fusion, present))
    logits = made.logits(mean)
    return {"mean": mean, "logits": logits, "probabilities": logits.softmax(-1)}


def rank(
    made: Ceiling,
    ranking: Ranking,
    query: Side,
    archive: Side,
    using: tuple[str, ...],
    space: str,
    which: np.ndarray | None = None,
    known: bool = False,
) -> PerPatient:
    """Matched ranking in one of the spaces; with `known` p(class of the query) against the archive's known labels.

    `which` (Q,) says which queries take part; None: all that have one of the roles.
    """
    had = query.experts.having(using)
    rows = np.flatnonzero(had.any(1) if which is None else which)
    distance = np.full((len(rows), len(archive.cases)), np.inf, np.float32)
    usable = np.zeros(distance.shape, bool)
    for pattern in np.unique(had[rows], axis=0):
        mine = np.flatnonzero((had[rows] == pattern).all(1))
        roles = [role for role, here in zip(query.experts.roles, pattern) if here]
        has = archive.experts.having(roles)
        q = spaces(
            made, Side(_pick(query.cases, rows[mine]), query.experts.rows(rows[mine])), had[rows[mine]]
        )
        if known:
            column = [made.classes.index(str(case.labels["histology"])) for case in archive.cases]
            distance[mine] = 1 - q["probabilities"].numpy()[:, column]
        else:
            distance[mine] = cosine_distance(q[space], spaces(made, archive, has)[space]).numpy()
        usable[mine] = has.any(1)
    cases = [query.cases[i] for i in rows]
    value, chance = ranking.judge(distance, usable, cases, archive.cases)
    return by_patient([case.patient for case in cases], value, chance)


def _pick(cases: tuple[Case, ...], rows: np.ndarray) -> tuple[Case, ...]:
    return tuple(cases[i] for i in rows)
