"""How much usearch loses: recall@10 against exact search and self-recall on 10⁵ clustered vectors.

python -m benchmarks.approximate --results benchmarks/results/approximate.jsonl
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch

from mmvae.latent.gaussian import DISTANCES
from mmvae.retrieval.approximate import search_vectors


def clustered(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """Vectors of about unit scale around 500 centres, as an archive of diseases is clustered."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((500, dim))
    return (centres[rng.integers(0, 500, count)] + 0.3 * rng.standard_normal((count, dim))).astype(np.float32)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    lines = []
    for distance in DISTANCES:
        vectors = clustered(arguments.count, 64)
        keys = np.arange(1, len(vectors) + 1)
        pick = np.random.default_rng(1).choice(len(vectors), arguments.queries, replace=False)
        exact = np.concatenate(
            [DISTANCES[distance](torch.from_numpy(vectors[p]), torch.from_numpy(vectors)).topk(10, largest=False).indices.numpy() + 1 for p in np.array_split(pick, 20)]
        )  # fmt: skip
        start = time.perf_counter()
        found = search_vectors(keys, vectors, vectors[pick], 10, distance)
        seconds = time.perf_counter() - start
        recall = float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact)]))
        itself = float(np.mean(found[:, 0] == pick + 1))
        lines.append(
            {"measurement": {"distance": distance, "count": len(vectors), "recall@10": recall, "self_recall": itself, "build_and_search_s": round(seconds, 1)},
             "hardware": f"{platform.machine()}, {os.cpu_count()} cores"}
        )  # fmt: skip
        print(json.dumps(lines[-1]))
    if arguments.results:
        arguments.results.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
