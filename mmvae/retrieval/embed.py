"""Checkpoint + cohort → every role's expert for every case, and posterior means of any subset of roles."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float

from mmvae.batch import collate
from mmvae.case import Case, Cohort, InputError
from mmvae.data import CaseDataset
from mmvae.latent.fusion import Fusion
from mmvae.latent.gaussian import Gaussian
from mmvae.modality import from_plain, to_plain
from mmvae.model import MMVAE


@dataclass(frozen=True)
class Experts:
    """Experts of N cases: mean and logvar (N, M, D), present (N, M), and who they are of."""

    roles: tuple[str, ...]
    answer_roles: tuple[str, ...]
    case_ids: tuple[str, ...]
    mean: Float[np.ndarray, "N M D"]
    logvar: Float[np.ndarray, "N M D"]
    present: Bool[np.ndarray, "N M"]

    @property
    def query_roles(self) -> tuple[str, ...]:
        """All roles but the answer roles."""
        return tuple(role for role in self.roles if role not in self.answer_roles)

    def having(self, using: Iterable[str]) -> Bool[np.ndarray, "N M"]:
        """Which of these roles each case has."""
        return self.present & np.array([role in set(using) for role in self.roles])

    def means(self, fusion: Fusion, present: Bool[np.ndarray, "N M"]) -> Float[np.ndarray, "N D"]:
        """Posterior means (the mixture's own) of the roles marked present; the prior's 0 where none is."""
        gaussian = Gaussian(torch.from_numpy(self.mean), torch.from_numpy(self.logvar))
        return fusion(gaussian, torch.from_numpy(np.ascontiguousarray(present))).mean.numpy()

    def rows(self, index: Sequence[int] | np.ndarray) -> "Experts":
        """The experts of these rows."""
        ids = tuple(np.array(self.case_ids, dtype=object)[index])
        return replace(
            self, case_ids=ids, mean=self.mean[index], logvar=self.logvar[index], present=self.present[index]
        )


def misfits(model: MMVAE, cohort: Cohort, cases: Sequence[Case]) -> list[str]:
    """A short report of what a foreign cohort holds that the model's recipes do not know and treat as missing."""
    counted: Counter[str] = Counter()
    dataset = CaseDataset(cohort, cases, model.modalities, model.answer_roles)
    for role, recipe in model.modalities.items():
        absent = 0
        for case in dataset.cases:
            view = dataset.view(case, role)
            absent += not recipe.present(view)
            counted.update(f"{role}: {line}" for line in recipe.misfits(view))
        if absent == len(dataset.cases):
            counted[f"{role}: no case has it"] = absent
    return [
        f"{line} ({count} of {len(dataset.cases)} cases); treated as missing"
        for line, count in sorted(counted.items())
    ]


@torch.no_grad()
def embed(
    model: MMVAE,
    cohort: Cohort,
    cases: Sequence[Case],
    batch_size: int = 32,
    cache: Path | None = None,
    progress=lambda x: x,
) -> Experts:
    """The experts of these cases, by the checkpoint's own recipes.

    Raises:
        InputError: naming the case and role that cannot be read.
    """
    model = model.eval()
    dataset = CaseDataset(cohort, cases, model.modalities, model.answer_roles, cache=cache)
    means, logvars, presents = [], [], []
    for start in progress(range(0, len(dataset), batch_size)):
        batch = collate([dataset[i, 0] for i in range(start, min(start + batch_size, len(dataset)))])
        batch = batch.to(model.device)
        experts, _ = model.experts(batch)
        means.append(experts.mean.float().cpu())
        logvars.append(experts.logvar.float().cpu())
        presents.append(batch.present.cpu())
    mean, logvar, present = (torch.cat(x).numpy() for x in (means, logvars, presents))
    ids = tuple(case.case_id for case in cases)
    return Experts(model.roles, tuple(model.answer_roles), ids, mean, logvar, present)


@dataclass(frozen=True)
class Embedding:
    """A folder that `mmvae embed` wrote: experts, the facts of each case, and the checkpoint they came from."""

    root: Path
    experts: Experts
    means: Float[np.ndarray, "N D"]
    facts: tuple[Mapping, ...]
    meta: Mapping

    @property
    def fusion(self) -> Fusion:
        """The model's fusion."""
        return from_plain(self.meta["fusion"])

    @classmethod
    def load(cls, root: str | Path) -> "Embedding":
        """Reads the folder."""
        root = Path(root)
        if not (root / "meta.json").is_file():
            raise InputError(f"{root} is no embedding: it has no meta.json. Make one with `mmvae embed`.")
        meta = json.loads((root / "meta.json").read_text())
        with np.load(root / "experts.npz", allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
        experts = Experts(
            tuple(meta["roles"]),
            tuple(meta["answer_roles"]),
            tuple(meta["case_ids"]),
            arrays["mean"],
            arrays["logvar"],
            arrays["present"],
        )
        return cls(root, experts, arrays["posterior_mean"], tuple(meta["facts"]), meta)


def facts_of(case: Case) -> dict:
    """What an index keeps of a case beside its vectors."""
    return {
        "case_id": case.case_id,
        "patient": case.patient,
        "record": dict(case.record),
        "terms": list(case.terms) if case.terms is not None else None,
        "labels": dict(case.labels),
        "label_source": dict(case.label_source),
    }


def write_embedding(
    model: MMVAE, checkpoint: Path, cohort: Cohort, experts: Experts, out: Path, parquet: bool = False
) -> None:
    """The folder that `mmvae index build` reads, by rename at the end.

    The one posterior mean is that of all roles but the answer roles. With `parquet` a table of means stands beside.
    """
    if out.exists():
        raise InputError(f"{out} exists already; name a folder that does not, or remove it")
    beside = out.with_name(f".{out.name}.writing")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        by_id = {case.case_id: case for case in cohort.cases}
        mean = experts.means(model.rule, experts.having(experts.query_roles))
        np.savez(
            beside / "experts.npz",
            mean=experts.mean,
            logvar=experts.logvar,
            present=experts.present,
            posterior_mean=mean,
        )
        meta = {
            "fingerprint": model.fingerprint(),
            "fusion": to_plain(model.rule),
            "distance": model.distance,
            "roles": list(experts.roles),
            "answer_roles": list(experts.answer_roles),
            "groups": model.groups,
            "origin": {role: to_plain(recipe)["class_path"] for role, recipe in model.modalities.items()},
            "cohort": cohort.card.name,
            "fields": dict(cohort.card.fields),
            "case_ids": list(experts.case_ids),
            "facts": [facts_of(by_id[case_id]) for case_id in experts.case_ids],
        }
        (beside / "meta.json").write_text(json.dumps(meta, allow_nan=False, ensure_ascii=False))
        shutil.copyfile(checkpoint, beside / "model.ckpt")
        if parquet:
            _write_parquet(beside / "embedding.parquet", experts, mean)
        beside.rename(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _write_parquet(path: Path, experts: Experts, mean) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("--as parquet needs pyarrow; run `pip install mmvae[parquet]`") from error
    columns = {"case_id": list(experts.case_ids), "posterior_mean": list(mean)}
    for m, role in enumerate(experts.roles):
        columns[f"present/{role}"] = experts.present[:, m]
        columns[f"mean/{role}"] = list(experts.mean[:, m])
        columns[f"logvar/{role}"] = list(experts.logvar[:, m])
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
