"""Migrates an index or embedding of an earlier release to this one's format; its vectors stay as they are."""

import json
from dataclasses import replace
from pathlib import Path

from mmvae.atomic import write_atomically
from mmvae.errors import InputError
from mmvae.model import MMVAE
from mmvae.retrieval.embedding import Embedding
from mmvae.retrieval.index import Index
from mmvae.retrieval.provenance import Provenance


def migrate(path: Path) -> str:
    """Migrates the index or embedding at a path; returns a sentence that says what was done.

    Cohorts and checkpoints load without migration. An index or embedding of release 0.1 can be searched without migration
    too; to take new cases, it needs the fingerprint that this release computes for its model.

    Raises:
        InputError: if the path holds nothing of mmvae, or vectors that do not belong to its checkpoint.
    """
    if (path / "index.sqlite").is_file():
        index = Index.open(path)
        provenance = index.snapshot().provenance
        current = _of_this_release(provenance, index.checkpoint)
        if current != provenance:
            index.rewrite_provenance(current)
        return _sentence("index", current != provenance)
    if (path / "meta.json").is_file():
        provenance = Embedding.load(path).provenance
        current = _of_this_release(provenance, path / "model.ckpt")
        if current != provenance:
            facts = json.loads((path / "meta.json").read_text())["facts"]
            text = json.dumps({**current.plain(), "facts": facts}, allow_nan=False, ensure_ascii=False)
            write_atomically(path / "meta.json", text.encode())
        return _sentence("embedding", current != provenance)
    if (path / "cases.jsonl").is_file() or path.suffix == ".ckpt":
        return "nothing to migrate: cohorts and checkpoints of earlier releases load as they are"
    raise InputError(f"{path} is not an index, embedding, cohort or checkpoint of mmvae", "path")


def _of_this_release(provenance: Provenance, checkpoint: Path) -> Provenance:
    model = MMVAE.load_from_checkpoint(checkpoint)
    if (model.space, model.roles) != (provenance.space, provenance.roles):
        raise InputError(
            f"{checkpoint} does not form points as these vectors say; they belong to another model. Embed the cohort again"
        )
    return replace(provenance, fingerprint=model.fingerprint())


def _sentence(what: str, changed: bool) -> str:
    return (
        f"the {what} is of this release now"
        if changed
        else f"nothing to migrate: the {what} is of this release"
    )
