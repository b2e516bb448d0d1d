"""One moment of an index, as a search sees it: keys, facts, experts and points that belong together."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mmvae.latent.space import RetrievalSpace
from mmvae.retrieval.experts import Experts
from mmvae.retrieval.facts import Facts
from mmvae.retrieval.provenance import Provenance


@dataclass(frozen=True)
class Archive:
    """N cases, all read in one transaction; row n of every part is the same case.

    Args:
        root: The index's folder, where what is derived from a moment may be kept.
        build: Names the index as it was built.
        generation: How many changes it has seen since.
        provenance: Of the vectors.
        keys: SQLite's, from 1, ascending.
        facts: Of each case.
        experts: Of every role.
        points_of_all: Of all roles but the answer roles, as they were stored.
    """

    root: Path
    build: str
    generation: int
    provenance: Provenance
    keys: Int[np.ndarray, " N"]
    facts: tuple[Facts, ...]
    experts: Experts
    points_of_all: Float[np.ndarray, "N U"]

    @property
    def space(self) -> RetrievalSpace:
        """Forms points and compares them."""
        return self.provenance.space

    @property
    def moment(self) -> str:
        """Names this moment: it differs whenever anything in the index does."""
        return f"{self.build}-{self.generation}"

    def __len__(self) -> int:
        return len(self.facts)
