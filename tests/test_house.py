"""The house's one direction: a file imports only words and what stands earlier; core names no modality."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1] / "mmvae"
ORDER = [
    "case", "batch", "latent.gaussian", "modality", "checkpoint", "discovery", "ingest", "phantom", "cache", "volume", "answer", "data", "visibility", "latent.product", "latent.fusion",
    "latent.readout", "latent.objective", "model", "retrieval.metrics", "retrieval.monitor", "retrieval.embed", "retrieval.plots", "retrieval.evaluate",
    "retrieval.report", "retrieval.where", "retrieval.index", "retrieval.approximate", "retrieval.search", "show", "serve", "testing", "scaffold", "doctor", "fit", "cli", "bench",
]  # fmt: skip
# "terms" is also a field of every case (FORMATS.md), so its name alone proves nothing.
KINDS = {"t1", "t2", "flair", "dwi", "contrast", "report", "clinical"}


def place(module: str) -> int:
    name = module.removeprefix("mmvae.")
    fits = [n for n, stop in enumerate(ORDER) if name == stop or name.startswith(stop + ".")]
    assert fits, f"{module} has no place in the house; give it one in ORDER"
    return fits[0]


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmvae."):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("mmvae.")}
    return found


def running_back(files: dict[str, set[str]]) -> list[str]:
    return [f"{m} imports {i}" for m, imported in files.items() for i in imported if place(i) > place(m)]


def modules() -> dict[str, set[str]]:
    paths = [p for p in ROOT.rglob("*.py") if p.name != "__init__.py"]
    return {".".join(["mmvae", *p.relative_to(ROOT).with_suffix("").parts]): imports_of(p) for p in paths}


def test_no_import_runs_back():
    assert running_back(modules()) == []
    assert running_back({"mmvae.case": {"mmvae.model"}}) == [
        "mmvae.case imports mmvae.model"
    ]  # the check finds a planted one


def test_the_latent_room_knows_no_modality_and_no_file():
    for path in (ROOT / "latent").glob("*.py"):
        assert not {i for i in imports_of(path) if not i.startswith("mmvae.latent")}


def test_metrics_and_index_do_not_import_the_model():
    for name in ("metrics", "where"):
        assert "mmvae.model" not in imports_of(ROOT / "retrieval" / f"{name}.py")


def test_core_never_asks_for_a_modality_by_name():
    for path in ROOT.rglob("*.py"):
        if "phantom" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                words = {
                    c.value
                    for c in ast.walk(node)
                    if isinstance(c, ast.Constant) and isinstance(c.value, str)
                }
                assert not words & KINDS, f"{path.name}:{node.lineno} compares with a modality's name"


def test_plugins_do_not_import_each_other():
    for plugin in (ROOT.parent / "plugins").iterdir():
        for path in plugin.glob("mmvae_*/*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmvae_"):
                    assert node.module.split(".")[0] == f"mmvae_{plugin.name}"
