"""A snapshot of an index, as a search sees it: keys, facts, experts and points, all read in one transaction."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mmvae.latent.space import RetrievalSpace
from mmvae.retrieval.experts import Experts
from mmvae.retrieval.facts import Facts
from mmvae.retrieval.provenance import Provenance

UNNAMED = "unnamed"  # the build of an index of release 0.1, which stores no build name


@dataclass(frozen=True)
class Archive:
    """N cases; row n of every part is the same case.

    Args:
        root: The index's folder, in which files derived from a snapshot may be cached.
        build: Random name given to the index when it was built.
        generation: Number of changes since then.
        provenance: Provenance of the vectors.
        keys: SQLite row ids, from 1, ascending.
        facts: Facts of each case.
        experts: Experts of every role.
        points_of_all: Stored points, formed from all roles but the answer roles.
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
        """The space that forms points and compares them."""
        return self.provenance.space

    @property
    def moment(self) -> str:
        """Name of this snapshot, different after every change of the index."""
        return f"{self.build}-{self.generation}"

    def __len__(self) -> int:
        return len(self.facts)
