"""The cohorts of the suite: where each comes from, its roles, its answer roles, and the budget that all its cells share."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmvae_clinical import Clinical
from mmvae_mri.contrast import Contrast
from mmvae_mri.dwi import DWI
from mmvae_mri.structural import FLAIR, T1, T2
from mmvae_radiograph import Radiograph
from mmvae_report import Report
from mmvae_terms import Terms

from benchmarks import covid, joined, polymnist
from benchmarks.setup import GRID, IMAGES, MOTION, Budget
from mmvae.atomic import new_folder
from mmvae.batch import MotionRange
from mmvae.case import Case
from mmvae.cohort import Cohort, write_cohort
from mmvae.modality import Modality
from mmvae.model import MMVAE
from mmvae.phantom.cohort import write_phantom_cohort
from mmvae.splits import Splits, draw_splits

_BRAIN = {"shape": (16, 40, 40), "spacing_mm": (9.0, 5.0, 5.0)}
_SEQUENCES = {"t1": "T1", "t1gd": "T1Gd", "t2": "T2", "flair": "FLAIR"}
_TABLES = {role: Clinical(fields=(f"*_{name}", f"*_{name}_*")) for role, name in _SEQUENCES.items()}
_TCGA_LGG: dict[str, Modality] = {
    "t1": T1(**_BRAIN),
    "flair": FLAIR(**_BRAIN),
    "t1_post": T1(contrast_agent=True, **_BRAIN),
    "clinical": Clinical(fields=("age_years", "sex")),
    "terms": Terms(),
    "molecular": Terms(source="labels", label="molecular"),
    "location": Terms(source="labels", label="location"),
}
RECIPES = {
    "phantom": {
        "t1": T1(**GRID),
        "t1_fs": T1(fat_saturated=True, **GRID),
        "t2": T2(**GRID),
        "dwi": DWI(**GRID),
        "contrast": Contrast(**GRID),
        "clinical": Clinical(),
        "report": Report(),
        "terms": Terms(),
        "label": Terms(source="labels", label="histology"),
    },
    "tcga_lgg": _TCGA_LGG,
    "glioma_radiomics": {**_TABLES, "cohort": Terms(source="labels", label="cohort")},
    "glioma_joined": {**_TCGA_LGG, **{f"table_{role}": table for role, table in _TABLES.items()}},
    "polymnist": {view: polymnist.Digit(m) for m, view in enumerate(polymnist.VIEWS)},
    "covid_cxr": {
        "radiograph": Radiograph(),
        "report": Report(),  # the notes, every disease's name masked: no answer, a query like the picture
        "table": Clinical(
            fields=("age_years", "sex", "days", "temperature", "pO2_saturation", "leukocyte_count")
        ),
        "finding": Terms(source="labels", label="finding"),
    },
}
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SIZES = (600, 200, 400)  # training, validation, test patients of the phantom's bench set


@dataclass(frozen=True)
class Bench:
    """One cohort's part of the suite.

    Args:
        roles: Query roles, all in every cell unless it names fewer.
        images: The group of roles that the headline's queries consist of.
        supervision: Row name → answer roles that are decoded in training.
        weights: Of the log-likelihoods, where not balanced.
        budget: Epochs, cases per step, learning rate, latent dimensions.
        motion: Augmentation.
        targets: Labels, each of which alone decides relevance in turn; empty: the card's graded relevance.
        folds: How many; 0: one split.
        weight_decay: Of AdamW.
        judge: Measures more of a trained model: values by name.
    """

    name: str
    roles: tuple[str, ...]
    images: tuple[str, ...]
    supervision: Mapping[str, tuple[str, ...]]
    weights: Mapping[str, float]
    budget: Budget
    motion: MotionRange = field(default_factory=MotionRange)
    targets: tuple[str, ...] = ()
    folds: int = 0
    weight_decay: float = 0.01
    judge: Callable[[MMVAE, Cohort], dict] | None = None

    def recipes(self, roles: tuple[str, ...]) -> dict[str, Modality]:
        """The recipes of these roles."""
        return {role: RECIPES[self.name][role] for role in roles}

    def cohort(self, work: Path, seed: int, sizes: tuple[int, ...] = ()) -> Path:
        """The cohort's folder below `work`, written unless it is there.

        Args:
            work: Folder of all cohorts.
            seed: Of the phantom, or of the folds.
            sizes: Training, validation and test patients of a phantom other than the bench set.

        Raises:
            SystemExit: where real data is needed and `$MMVAE_DATA` does not name it.
        """
        bench_set = self.name == "phantom" and seed == 1 and not sizes
        path = work / "-".join(["cohort", *([] if bench_set else [self.name, str(seed)]), *map(str, sizes)])
        if path.exists():
            return path
        if self.name == "phantom":
            sizes = sizes or SIZES
            write_phantom_cohort(sum(sizes), seed, path, sizes, jobs=os.cpu_count() or 1)
            return path
        if (data := os.environ.get("MMVAE_DATA")) is None:
            sys.exit(f"the cohort {self.name} needs real data: set MMVAE_DATA to the folder that holds it")
        if self.name == "polymnist":
            polymnist.write(path, Path(data), seed, sizes or polymnist.SIZES)
            return path
        return self._real(Path(data), work, seed, path)

    def _real(self, data: Path, work: Path, seed: int, path: Path) -> Path:
        """The cohort at `path`, scanned from `data`; with another seed, the cases of the first scan in other folds."""
        if self.folds and seed != 1:
            # Pseudonyms stay those of the first draw: a patient is averaged over draws before any interval.
            first = Cohort.load(self.cohort(work, 1))
            patients = sorted({case.patient for case in first.cases})
            return variant(first.root, path, first.cases, draw_splits(patients, folds=self.folds, seed=seed))
        source, mapping, table = SOURCES[self.name](data, work)
        arguments = [
            *("scan", str(source), "--map", str(mapping), "--records", str(table)),
            *(("--folds", str(self.folds)) if self.folds else ()),
            *("--split-seed", str(seed), "--out", str(path)),
        ]  # fmt: skip
        subprocess.run([sys.executable, "-m", "mmvae.cli", *arguments], check=True)
        return path

    def load(self, work: Path, seed: int) -> Cohort:
        """The cohort, written unless it is there, and read."""
        return Cohort.load(self.cohort(work, seed))


def variant(path: Path, out: Path, cases: Sequence[Case], splits: Splits) -> Path:
    """Writes the cohort at `path` with other cases or splits to `out`, which it gives; files are shared, not copied."""
    with new_folder(out) as folder:
        write_cohort(folder, Cohort.load(path).card, cases, splits)
        (folder / "cases").symlink_to((path / "cases").resolve())
        shutil.copy(path / "skipped.jsonl", folder / "skipped.jsonl")
    return out


def _as_it_is(name: str, folder: str, table: str) -> Callable[[Path, Path], tuple[Path, Path, Path]]:
    return lambda data, work: (data / folder, EXPERIMENTS / name / "map.yaml", data / folder / table)


def _masked_notes(data: Path, work: Path) -> tuple[Path, Path, Path]:
    source = work / "covid_cxr"
    if not source.exists():
        covid.write_source(data / "covid_cxr", source)
    return source, EXPERIMENTS / "covid_cxr" / "map.yaml", source / "table.csv"


def _joined(data: Path, work: Path) -> tuple[Path, Path, Path]:
    beside = work / "glioma_joined"
    if not beside.exists():
        joined.write_source(data, EXPERIMENTS / "tcga_lgg" / "map.yaml", beside)
    return data / "tcga_lgg_mri", beside / "map.yaml", beside / "table.csv"


# Real data and the work folder → what `mmvae scan` takes: source, MAP, table.
SOURCES = {
    "tcga_lgg": _as_it_is("tcga_lgg", "tcga_lgg_mri", "clinical.csv"),
    "glioma_radiomics": _as_it_is("glioma_radiomics", "glioma_radiomics", "radiomics.csv"),
    "covid_cxr": _masked_notes,
    "glioma_joined": _joined,
}

BENCHES = {
    bench.name: bench
    for bench in (
        Bench(
            "phantom",
            (*IMAGES, "clinical"),
            IMAGES,
            {
                "none": (),
                "report": ("report",),
                "findings": ("terms",),
                "report+findings": ("report", "terms"),
                "labels": ("label",),
            },
            {"report": 100.0, "terms": 3000.0, "label": 3000.0},
            Budget(),
            MOTION,
        ),
        Bench(
            "tcga_lgg",
            ("t1", "flair", "t1_post", "clinical"),
            ("t1", "flair", "t1_post"),
            {"none": (), "findings": ("terms",), "labels": ("molecular", "location")},
            {"terms": 1000.0, "molecular": 1000.0, "location": 1000.0},
            Budget(epochs=40, batch_size=16, lr=1e-3, latent_dim=32),
            # No left-right flip: laterality is a finding, and a flip would destroy it.
            MotionRange(rotation_deg=8.0, translation_mm=6.0, scale=0.08),
            ("molecular", "location"),
            5,
            0.1,
        ),
        Bench(
            "glioma_joined",
            ("t1", "flair", "t1_post", "clinical", *(f"table_{role}" for role in _TABLES)),
            ("t1", "flair", "t1_post", *(f"table_{role}" for role in _TABLES)),
            {"none": (), "labels": ("molecular", "location")},
            {"molecular": 1000.0, "location": 1000.0},
            Budget(epochs=40, batch_size=16, lr=1e-3, latent_dim=32),
            MotionRange(rotation_deg=8.0, translation_mm=6.0, scale=0.08),
            ("molecular", "location"),
            5,
            0.1,
        ),
        Bench(
            "glioma_radiomics",
            ("t1", "t1gd", "t2", "flair"),
            ("t1", "t1gd", "t2", "flair"),
            {"none": (), "labels": ("cohort",)},
            {"cohort": 1000.0},
            Budget(epochs=60, batch_size=16, lr=1e-3, latent_dim=32),
            MotionRange(),
            ("cohort",),
            5,
            0.1,
        ),
        Bench(
            "covid_cxr",
            ("radiograph", "report", "table"),
            ("radiograph", "report", "table"),
            {"none": (), "labels": ("finding",)},
            {"finding": 1000.0},
            Budget(epochs=40, batch_size=16, lr=1e-3, latent_dim=32),
            MotionRange(rotation_deg=8.0, translation_mm=6.0, scale=0.08),
            ("finding",),
            5,
            0.1,
        ),
        Bench(
            "polymnist",
            polymnist.VIEWS,
            polymnist.VIEWS,
            {"none": ()},
            dict.fromkeys(polymnist.VIEWS, 1.0),  # the exact bound, as published
            Budget(batch_size=128, lr=1e-3),
            MotionRange(),
            judge=polymnist.judge,
        ),
    )
}
