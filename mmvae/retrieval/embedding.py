"""The embedding folder, from which an index is built: experts, points and facts of a cohort's cases, and the checkpoint."""

import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mmvae.atomic import new_folder
from mmvae.errors import InputError
from mmvae.retrieval.experts import Experts
from mmvae.retrieval.facts import Facts
from mmvae.retrieval.provenance import Provenance


@dataclass(frozen=True)
class Embedding:
    """A folder that `mmvae embed` wrote.

    Args:
        root: The folder; it holds the model as `model.ckpt`.
        provenance: Provenance of the vectors.
        experts: Experts of every role.
        points: Points formed from all roles but the answer roles.
        facts: Facts of each case.
    """

    root: Path
    provenance: Provenance
    experts: Experts
    points: Float[np.ndarray, "N U"]
    facts: tuple[Facts, ...]

    @classmethod
    def load(cls, root: str | Path) -> "Embedding":
        """Reads the folder.

        Raises:
            InputError: if it is not an embedding, is damaged, or names a class that may not be loaded.
        """
        root = Path(root)
        if not (root / "meta.json").is_file():
            raise InputError(f"{root} is not an embedding: it has no meta.json. Make one with `mmvae embed`.")
        try:
            meta = json.loads((root / "meta.json").read_text())
            with np.load(root / "experts.npz", allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("mean", "logvar", "present", "posterior_mean")}
        except (OSError, ValueError, KeyError, EOFError, RecursionError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{root} is an embedding that cannot be read ({type(error).__name__}); embed again"
            ) from error
        if not isinstance(meta, dict) or not isinstance(meta.get("facts"), list):
            raise InputError(f"{root}: meta.json holds no facts of cases; embed again")
        provenance = Provenance.read(meta)
        facts = tuple(Facts.read(plain) for plain in meta["facts"])
        shape = (len(facts), len(provenance.roles))
        fits = arrays["mean"].shape == arrays["logvar"].shape and arrays["mean"].shape[:2] == shape
        floats = all(arrays[name].dtype == np.float32 for name in ("mean", "logvar", "posterior_mean"))
        if not (fits and floats and arrays["present"].shape == shape and arrays["present"].dtype == bool
                and arrays["posterior_mean"].ndim == 2 and len(arrays["posterior_mean"]) == len(facts)):  # fmt: skip
            raise InputError(
                f"{root}: the arrays do not fit the {shape[0]} cases and {shape[1]} roles; embed again"
            )
        experts = Experts(
            provenance.roles,
            provenance.answer_roles,
            tuple(fact.case_id for fact in facts),
            arrays["mean"],
            arrays["logvar"],
            arrays["present"],
        )
        return cls(root, provenance, experts, arrays["posterior_mean"], facts)


def write_embedding(
    out: Path, provenance: Provenance, experts: Experts, facts: tuple[Facts, ...], checkpoint: Path
) -> None:
    """Writes the folder that `mmvae index build` reads; it appears whole, by a rename at the end.

    Args:
        out: Path of the new folder.
        provenance: Provenance of the vectors.
        experts: Experts of every case.
        facts: Facts of the same cases.
        checkpoint: The model's checkpoint; it is copied.

    Raises:
        InputError: if `out` exists.
    """
    with new_folder(out) as folder:
        np.savez(
            folder / "experts.npz",
            mean=experts.mean,
            logvar=experts.logvar,
            present=experts.present,
            posterior_mean=experts.points(provenance.space, experts.having(experts.query_roles)),
        )
        meta = {**provenance.plain(), "facts": [fact.plain() for fact in facts]}
        (folder / "meta.json").write_text(json.dumps(meta, allow_nan=False, ensure_ascii=False))
        shutil.copyfile(checkpoint, folder / "model.ckpt")


def write_parquet(embedding: Embedding) -> None:
    """Writes the same vectors into the folder as a Parquet table, for other tools."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "a Parquet table needs pyarrow; run `pip install mmvae[parquet]`", "table"
        ) from error
    experts = embedding.experts
    columns = {"case_id": list(experts.case_ids), "posterior_mean": list(embedding.points)}
    for m, role in enumerate(experts.roles):
        columns[f"present/{role}"] = list(experts.present[:, m])
        columns[f"mean/{role}"] = list(experts.mean[:, m])
        columns[f"logvar/{role}"] = list(experts.logvar[:, m])
    pyarrow.parquet.write_table(pyarrow.table(columns), embedding.root / "embedding.parquet")
