"""The supervised ceiling: the same encoders and fusion, the label as the only target (EVALUATION.md)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import nn
from torch.nn import functional

from benchmarks.setup import IMAGES, MOTION, PAIR
from mmvae.batch import MotionRange, collate
from mmvae.cohort import Cohort
from mmvae.data import CaseDataset
from mmvae.evaluation.ranking import Ranking, Side
from mmvae.latent.gaussian import cosine_distance
from mmvae.latent.space import RetrievalSpace
from mmvae.metrics.estimates import PerPatient, by_patient
from mmvae.model import MMVAE
from mmvae.retrieval.experts import Experts
from mmvae.seeds import seed_of


@dataclass(frozen=True)
class Training:
    """One of the trainings that compete for the ceiling.

    Args:
        loss: What is minimised.
        weight_decay: Of AdamW.
        epochs: Over the labelled training cases.
        seed: Of weights, order and visible roles.
        batch_size: Cases per step.
        lr: Peak of the one-cycle schedule.
        using: Roles that are always visible; None: a random subset of all.
    """

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
    """The twelve trainings on random subsets: with twice as many epochs as ours, and with a fifth more."""
    return [
        Training(loss, decay, epochs)
        for loss in ("cross-entropy", "contrastive")
        for decay in (0.1, 0.01, 0.5)
        for epochs in (2 * ours, ours * 6 // 5)
    ]


def dedicated(name: str, ours: int) -> Training:
    """The training whose visible roles are always those of `DEDICATED`."""
    return Training("cross-entropy", 0.5, 2 * ours, using=DEDICATED[name])


GAIN = 5.0  # of the head's logits: a certain class needs a logit of about 5, and the mean has unit scale
SPACES = ("mean", "logits", "probabilities")
KNOWN_LABELS = "known labels"


class Ceiling(nn.Module):
    """Encoders and fusion of an MMVAE, and a linear head on the fused mean."""

    def __init__(self, model: MMVAE, classes: list[str]):
        super().__init__()
        self.model, self.classes = model, classes
        self.head = nn.Linear(model.latent_dim, len(classes))

    def logits(self, mean: torch.Tensor) -> torch.Tensor:
        """Of each class; the gain makes the head learn fast."""
        return GAIN * self.head(mean)

    def loss(self, mean: torch.Tensor, target: torch.Tensor, kind: str) -> torch.Tensor:
        """Cross-entropy, or supervised contrast of directions (Khosla et al. 2020, arXiv:2004.11362, L_out, τ = .1) plus the head's cross-entropy."""
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
    """The ceiling after its epochs on the labelled training cases.

    Args:
        model: Not yet fitted; its encoders and fusion are trained.
        cohort: Of the cases.
        training: Loss, budget and visible roles.
        motion: Augmentation.
        label: The target.
    """
    torch.manual_seed(training.seed)
    cases = [case for case in cohort.split("train") if label in case.labels]
    model.fit_recipes(cohort, cases)
    classes = sorted({str(case.labels[label]) for case in cases})
    ceiling = Ceiling(model, classes)
    data = CaseDataset(cohort, cases, model.modalities, (), motion, training.seed)
    target = torch.tensor([classes.index(str(case.labels[label])) for case in cases])
    parameters = [*model.encoders.parameters(), *ceiling.head.parameters()]
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
            draw = torch.rand(
                batch.present.shape,
                generator=torch.Generator().manual_seed(
                    seed_of("visible", training.seed, epoch, int(rows[0]))
                ),
            )
            asked = torch.tensor([training.using is None or role in training.using for role in model.roles])
            visible = batch.present & asked & (draw < (0.5 if training.using is None else 1.0))
            visible = torch.where(visible.any(1, keepdim=True), visible, batch.present & asked)
            with torch.autocast(
                "cpu", dtype=torch.bfloat16
            ):  # as ours is trained; fusion and loss stay in float32
                experts, tie = model.experts(batch, visible)
            loss = ceiling.loss(model.rule(experts, visible).mean, target[rows], training.loss) + tie
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return ceiling.eval()


@torch.no_grad()
def spaces(
    ceiling: Ceiling, experts: Experts, present: Bool[np.ndarray, "N M"]
) -> dict[str, Float[torch.Tensor, "N U"]]:
    """What the ceiling may compare cases by: fused mean, logits, class probabilities."""
    mean = torch.from_numpy(experts.points(RetrievalSpace(ceiling.model.rule), present))
    logits = ceiling.logits(mean)
    return {"mean": mean, "logits": logits, "probabilities": logits.softmax(-1)}


def rank(
    ceiling: Ceiling,
    ranking: Ranking,
    query: Side,
    archive: Side,
    using: tuple[str, ...],
    space: str,
    which: Bool[np.ndarray, " Q"] | None = None,
) -> PerPatient:
    """Scores by patient, each archive case formed of the roles that the query has.

    Args:
        ceiling: After training.
        ranking: Whose relevance judges.
        query: The queries' side.
        archive: Where neighbours are looked for.
        using: Roles of the queries.
        space: One of `SPACES`, compared by cosine; or `KNOWN_LABELS`: ranks by the query's probability of each archive
            case's label.
        which: The queries that take part; None: all that have one of the roles.
    """
    had = query.experts.having(using)
    rows = np.flatnonzero(had.any(1) if which is None else which)
    distance = np.full((len(rows), len(archive.cases)), np.inf, np.float32)
    usable = np.zeros(distance.shape, bool)
    for pattern in np.unique(had[rows], axis=0):
        alike = np.flatnonzero((had[rows] == pattern).all(1))
        roles = [role for role, here in zip(query.experts.roles, pattern) if here]
        has = archive.experts.having(roles)
        q = spaces(ceiling, query.experts.rows(rows[alike]), had[rows[alike]])
        if space == KNOWN_LABELS:
            column = [ceiling.classes.index(str(case.labels["histology"])) for case in archive.cases]
            distance[alike] = 1 - q["probabilities"].numpy()[:, column]
        else:
            a = spaces(ceiling, archive.experts, has)
            distance[alike] = cosine_distance(q[space], a[space]).numpy()
        usable[alike] = has.any(1)
    cases = [query.cases[i] for i in rows]
    value, chance = ranking.judge(distance, usable, cases, archive.cases)
    return by_patient([case.patient for case in cases], value, chance)
