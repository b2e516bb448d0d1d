"""`mmvae-bench`: runs the benchmark suite of the checkout from which mmvae was installed."""

import sys
from pathlib import Path


def main() -> int:
    """Runs the suite's own `main`; a wheel has no suite, and a message says so."""
    checkout = Path(__file__).parents[2]
    if not (checkout / "benchmarks" / "__main__.py").is_file():
        print(
            "mmvae-bench: the suite is not part of the wheel; clone the repository and run `make install` there",
            file=sys.stderr,
        )
        return 1
    sys.path.insert(0, str(checkout))
    from benchmarks.__main__ import main as suite

    return suite()


if __name__ == "__main__":
    sys.exit(main())
