"""k-NN baselines on simple features of the observations that the models see; the best by validation counts."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from sklearn.decomposition import PCA
from torch import nn

from mmvae.case import Case
from mmvae.cohort import Cohort
from mmvae.data import CaseDataset
from mmvae.evaluation.ranking import Ranking
from mmvae.latent.gaussian import cosine_distance
from mmvae.metrics.estimates import PerPatient, by_patient
from mmvae.modality import Modality

Features = Float[np.ndarray, "N F"]


def _tensor(dataset: CaseDataset, role: str) -> tuple[Float[np.ndarray, "N V"], np.ndarray, torch.Tensor]:
    """Voxels of a role (N, V), which cases have it, and its volumes (N, C, i, j, k), 0 where a case lacks it."""
    blank = dataset.modalities[role].blank()
    observations = [dataset.observe(i, role) for i in range(len(dataset))]
    volumes = torch.stack([(observation or blank).clean().value for observation in observations])
    has = np.array([observation is not None for observation in observations])
    return volumes.flatten(1).numpy(), has, volumes


def _standardised(features: Features, has: np.ndarray, fit: np.ndarray) -> Features:
    """Columns at mean 0 and standard deviation 1 over the training cases that have the role; absent rows 0, the mean."""
    rows = fit & has
    mean, std = features[rows].mean(0), features[rows].std(0) + 1e-6
    return np.where(has[:, None], (features - mean) / std, 0) / np.sqrt(features.shape[1])


def _pca(voxels, volumes, has, fit):
    reduced = PCA(min(20, int((fit & has).sum()) - 1), random_state=0).fit(voxels[fit & has])
    return reduced.transform(voxels)


def _histogram(voxels, volumes, has, fit):
    edges = np.quantile(voxels[fit & has].ravel()[::97], np.linspace(0, 1, 17))[1:-1]
    binned = np.stack([np.digitize(v, edges) for v in voxels])
    return np.stack([(binned == b).mean(1) for b in range(16)], 1)


def _centre(voxels, volumes, has, fit):
    """Mean and standard deviation of each channel in boxes about the grid's centre: the lesion's intensity and size."""
    columns, shape = [], volumes.shape[2:]
    for share in (0.15, 0.3, 0.5, 1.0):
        cut = tuple(
            slice(int(n / 2 - max(1, n * share / 2)), int(n / 2 + max(1, n * share / 2))) for n in shape
        )
        box = volumes[(slice(None), slice(None), *cut)].flatten(2)
        columns += [box.mean(2), box.std(2)]
    return torch.cat(columns, 1).numpy()


def _random_net(voxels, volumes, has, fit):
    """A frozen random 3-D network's pooled activations."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv3d(volumes.shape[1], 32, 3, 2, 1), nn.ReLU(), nn.Conv3d(32, 64, 3, 2, 1), nn.ReLU(), nn.Conv3d(64, 64, 3, 2, 1), nn.ReLU()
    )  # fmt: skip
    with torch.no_grad():
        maps = [net(part) for part in volumes.split(64)]
        return torch.cat([torch.cat([m.mean((2, 3, 4)), m.amax((2, 3, 4))], 1) for m in maps]).numpy()


KINDS = {"pca of voxels": _pca, "histogram": _histogram, "centre boxes": _centre, "random net": _random_net}


def features(
    cohort: Cohort, cases: Sequence[Case], recipes: dict[str, Modality], training: set[str]
) -> dict[str, Features]:
    """Each kind's features of all cases, roles side by side.

    Args:
        cohort: Of the cases.
        cases: N of them.
        recipes: Read the roles.
        training: Patients that all statistics are fitted on.
    """
    dataset = CaseDataset(cohort, cases, recipes, ())
    fit = np.array([case.patient in training for case in cases])
    parts: dict[str, list[Features]] = {kind: [] for kind in KINDS}
    for role in recipes:
        voxels, has, volumes = _tensor(dataset, role)
        for kind, make in KINDS.items():
            parts[kind].append(_standardised(make(voxels, volumes, has, fit), has, fit))
    return {kind: np.concatenate(columns, 1) for kind, columns in parts.items()}


def rank(
    table: Features, rows: np.ndarray, archive: np.ndarray, cases: Sequence[Case], ranking: Ranking
) -> PerPatient:
    """Scores of the queries `rows` in the archive of the rows `archive`, by cosine distance.

    Args:
        table: Features, a row per case.
        rows: Which cases are queries.
        archive: Which cases are looked for.
        cases: All of them.
        ranking: Whose relevance judges.
    """
    distance = cosine_distance(
        torch.from_numpy(table[rows]).float(), torch.from_numpy(table[archive]).float()
    ).numpy()
    queries = [cases[i] for i in rows]
    usable = np.ones(distance.shape, bool)
    value, chance = ranking.judge(distance, usable, queries, [cases[i] for i in archive])
    return by_patient([case.patient for case in queries], value, chance)
