"""The examples in the docstrings run as they stand, and the most used of the public names have one."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import mmvae

ROOT = Path(__file__).parents[1]
PACKAGES = [ROOT / "mmvae", *sorted(p for p in (ROOT / "plugins").glob("*/mmvae_*") if p.is_dir())]
MODULES = [
    ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
    for package in PACKAGES
    for path in sorted(package.rglob("*.py"))
    if ">>>" in path.read_text()
]


def run(module) -> tuple[int, str]:
    """How many examples of a module ran, and what the failed ones say."""
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        runner.run(test, out=said.append)
    return runner.tries, "".join(said)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tries, said = run(importlib.import_module(name))
    assert tries
    assert not said, said


def test_an_example_that_is_wrong_is_found(tmp_path, monkeypatch):
    (tmp_path / "planted_example.py").write_text(
        'def f():\n    """One.\n\n    >>> f()\n    2\n    """\n    return 1\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    tries, said = run(importlib.import_module("planted_example"))
    assert tries == 1
    assert "Expected:\n    2\nGot:\n    1" in said


def with_example(packages: list[Path]) -> set[str]:
    """Public functions, classes and their public methods whose own docstring holds an example."""
    found = set()

    def look(node: ast.AST, path: str) -> None:
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.FunctionDef | ast.ClassDef) and not inner.name.startswith("_"):
                if ">>>" in (ast.get_docstring(inner) or ""):
                    found.add(f"{path}.{inner.name}")
                look(inner, f"{path}.{inner.name}")

    for package in packages:
        for file in package.rglob("*.py"):
            look(ast.parse(file.read_text()), file.relative_to(package.parent).with_suffix("").as_posix())
    return found


def test_twenty_public_names_have_an_example_those_of_import_mmvae_among_them(tmp_path):
    found = with_example(PACKAGES)
    assert len(found) >= 20, sorted(found)
    assert set(mmvae.__all__) <= {name.rpartition(".")[2] for name in found}
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.py").write_text(
        '""">>> 1"""\nclass C:\n    def f(self):\n        """>>> 1"""\n\ndef _g():\n    """>>> 1"""\n'
    )
    assert with_example([tmp_path / "p"]) == {"p/a.C.f"}
