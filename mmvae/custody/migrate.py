"""An index or embedding of an earlier release, brought to this one's form; its vectors stay as they are."""

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
    """Migrates what lies at a path; returns a sentence that says what was done.

    Cohorts and checkpoints load as they are. An index or embedding that says of itself what release 0.1 said can be
    searched as it is, too; to take new cases it needs the fingerprint that this release gives its model.

    Raises:
        InputError: where the path holds nothing of mmvae, or vectors that are not its checkpoint's.
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
    raise InputError(f"{path} is no index, embedding, cohort or checkpoint of mmvae", "path")


def _of_this_release(provenance: Provenance, checkpoint: Path) -> Provenance:
    model = MMVAE.load_from_checkpoint(checkpoint)
    if (model.space, model.roles) != (provenance.space, provenance.roles):
        raise InputError(
            f"{checkpoint} forms points otherwise than these vectors say; they are another model's. Embed the cohort again"
        )
    return replace(provenance, fingerprint=model.fingerprint())


def _sentence(what: str, changed: bool) -> str:
    return (
        f"the {what} is of this release now"
        if changed
        else f"nothing to migrate: the {what} is of this release"
    )
