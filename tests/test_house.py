"""The house's one direction and its nevers: imports are followed through other files, wherever in a file they stand.

Every check is a function over a tree of files, and each is shown to find a violation planted in a small tree of its own.
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# HOUSE.md, from the first word to the last room. A file imports what stands earlier, and files of its own room without a circle.
ORDER = (
    "errors", "atomic", "seeds", "plain", "case", "splits", "cohort", "batch", "modality", "views", "discovery",
    "metrics", "latent.gaussian", "latent.product", "latent.fusion", "latent.objective", "latent.space", "blocks", "identity",
    "ingest", "phantom", "data", "model", "retrieval", "evaluation", "locate", "pacs", "custody", "serve", "testing", "cli",
)  # fmt: skip
# Addresses of 0.1 that hand over to where a thing lives now; nothing in mmvae may use them.
OLD_ADDRESSES = ("mmvae.volume", "mmvae.answer", "mmvae.retrieval.evaluate")
# Files whose module-level `__getattr__` may import from later rooms, because nothing runs before a user asks for a name.
LAZY = ("mmvae", "mmvae.case", "mmvae.modality")
# Files whose imports inside functions are not followed: the name, and what shows that torch stays out all the same.
DOORS = {
    "mmvae.discovery": "loads a plugin in `Plugin.load` alone; only ingest.claims may call it in the way in",
    "mmvae.ingest.claims": "loads plugins in a process of its own",
}


@dataclass(frozen=True)
class Import:
    """One import statement: who imports what, in which function ("" outside any), and whether for type checking alone."""

    importer: str
    imported: str
    function: str
    typing_only: bool


def module_name(path: Path, base: Path) -> str:
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_tree(package: Path) -> dict[str, ast.Module]:
    """The syntax tree of every module of a package, by module name."""
    return {module_name(p, package.parent): ast.parse(p.read_text()) for p in sorted(package.rglob("*.py"))}


def statements(body: list[ast.stmt], function: str = "", typing_only: bool = False) -> Iterator[tuple]:
    """Every import statement with the function that it stands in."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, function, typing_only
        inside = function
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not function:
            inside = node.name
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = [n for n in getattr(node, field, []) if isinstance(n, ast.AST)]
            yield from statements(inner, inside, typing_only or (guarded and field == "body"))


def imports_of(name: str, modules: dict[str, ast.Module], is_package: bool) -> list[Import]:
    """The imports of one module; `from package import module` is an import of the module."""
    found = []
    for node, function, typing_only in statements(modules[name].body):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            start = name.split(".") if is_package else name.split(".")[:-1]
            above = start[: len(start) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            below = [f"{base}.{alias.name}" for alias in node.names]
            targets = [b if b in modules else base for b in below]
        found += [Import(name, target, function, typing_only) for target in targets]
    return found


def graph_of(modules: dict[str, ast.Module]) -> dict[str, list[Import]]:
    packages = {name.rpartition(".")[0] for name in modules}
    return {name: imports_of(name, modules, name in packages) for name in modules}


def within(name: str, prefixes) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


def place(module: str) -> int:
    """Where a module stands in ORDER."""
    name = module.removeprefix("mmvae.")
    fits = [n for n, stop in enumerate(ORDER) if within(name, [stop])]
    assert fits, f"{module} has no place in the house; give it one in ORDER"
    return fits[0]


def has_place(module: str) -> bool:
    rooms = {stop.split(".")[0] for stop in ORDER}
    bare = module in {
        f"mmvae.{room}" for room in rooms
    }  # the __init__ of a room whose files are listed one by one
    return (
        module.startswith("mmvae.")
        and not within(module, OLD_ADDRESSES)
        and not (bare and module == "mmvae.latent")
    )


def running_back(graph: dict[str, list[Import]]) -> list[str]:
    """Imports of a later room, and any import of an old address."""
    found = []
    for name, imports in graph.items():
        for i in imports:
            if within(i.imported, OLD_ADDRESSES) and name not in OLD_ADDRESSES:
                found.append(f"{name} imports {i.imported}, an old address")
            lazy = name in LAZY and i.function == "__getattr__"
            if has_place(name) and has_place(i.imported) and not lazy and place(i.imported) > place(name):
                found.append(f"{name} imports {i.imported}")
    return found


def circles(graph: dict[str, list[Import]]) -> list[str]:
    """Modules that reach themselves through their explicit imports, those inside functions included."""
    edges = {
        n: {i.imported for i in imports if not (n in LAZY and i.function)} for n, imports in graph.items()
    }
    found = []
    for start in edges:
        seen, waiting = set(), list(edges[start])
        while waiting:
            name = waiting.pop()
            if name == start:
                found.append(f"{start} reaches itself")
                break
            if name not in seen:
                seen.add(name)
                waiting += edges.get(name, ())
    return found


def reach(start: str, graph: dict[str, list[Import]]) -> dict[str, str]:
    """All that running a module (and what its functions import) can import, each with the chain that leads there.

    Importing `a.b.c` runs `a/__init__` and `a/b/__init__` too. Third parties are named by their first word.
    """
    chain, waiting = {start: start}, [start]

    def add(name: str, by: str) -> None:
        if name in graph:
            parts = name.split(".")
            targets = [
                ".".join(parts[:n]) for n in range(2, len(parts) + 1)
            ]  # not mmvae/__init__, which is lazy
        else:
            targets = [name if name.startswith("mmvae.") else name.split(".")[0]]
        for target in targets:
            if target not in chain and target != "mmvae":
                chain[target] = f"{by} → {target}"
                if target in graph:
                    waiting.append(target)

    add(start, start)
    while waiting:
        name = waiting.pop(0)
        for i in graph[name]:
            if not (i.typing_only or (name in LAZY and i.function) or (name in DOORS and i.function)):
                add(i.imported, chain[name])
    return chain


def forbidden(graph: dict[str, list[Import]], files: tuple[str, ...], never: tuple[str, ...]) -> list[str]:
    """Chains from one of the files to something that it may never import."""
    return [
        chain
        for name in graph
        if within(name, files)
        for reached, chain in reach(name, graph).items()
        if within(reached, never) and not within(reached, [name])
    ]


def beyond(graph: dict[str, list[Import]], files: tuple[str, ...], only: tuple[str, ...]) -> list[str]:
    """Chains from one of the files to anything but what it may import."""
    return [
        chain
        for name in graph
        if within(name, files)
        for reached, chain in reach(name, graph).items()
        if not within(reached, only)
    ]


LIGHTNING = ("lightning", "pytorch_lightning")
# HOUSE.md's "Never": these files, and what no chain of imports from them may reach.
NEVER = {
    "the model takes batches, whatever they were read from": (("mmvae.model",), ("mmvae.data", "mmvae.ingest")),
    "metrics are NumPy": (("mmvae.metrics",), ("mmvae.model", "torch", *LIGHTNING)),
    "an archive is searched without the model that filled it": (
        ("mmvae.retrieval.archive", "mmvae.retrieval.index", "mmvae.retrieval.stores"),
        ("mmvae.model", *LIGHTNING),
    ),
    "the way in and the vault stay light": (
        ("mmvae.ingest", "mmvae.identity", "mmvae.pacs.listener"),
        ("torch", "mmvae.modality", "mmvae.model", *LIGHTNING),
    ),
}  # fmt: skip
LATENT_MAY = (
    "mmvae.latent", "mmvae.errors", "torch", "pyro", "jaxtyping",
    "abc", "collections", "dataclasses", "functools", "itertools", "math", "typing",
)  # fmt: skip
PYDICOM_MAY = ("mmvae.ingest", "mmvae.identity", "mmvae.phantom", "mmvae.pacs", "mmvae.serve")
# Rooms and words that a listener or a scan holds in memory: none of them brings these along.
LIGHT = ("mmvae", "mmvae.errors", "mmvae.atomic", "mmvae.seeds", "mmvae.plain", "mmvae.case", "mmvae.splits", "mmvae.cohort",
         "mmvae.discovery", "mmvae.metrics", "mmvae.identity", "mmvae.ingest", "mmvae.pacs.listener", "mmvae.cli.command_line")  # fmt: skip
HEAVY = ("torch", "lightning", "pyro", "torchio", "sentence_transformers", "matplotlib", "sklearn")


@pytest.fixture(scope="module")
def house():
    return graph_of(read_tree(ROOT / "mmvae"))


@pytest.fixture
def plant(tmp_path):
    """A small package `mmvae` of the given files, as a graph; `data__cache` is data/cache.py, INIT is __init__."""

    def build(**files: str):
        for name, text in {"INIT": "", **files}.items():
            path = tmp_path / "mmvae" / f"{name.replace('__', '/').replace('INIT', '__init__')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return graph_of(read_tree(tmp_path / "mmvae"))

    return build


# ---- one direction ----------------------------------------------------------------------------------------------------


def test_every_file_has_a_place(house):
    for name in house:
        if has_place(name):
            place(name)
    with pytest.raises(AssertionError, match=r"mmvae.shed has no place in the house"):
        place("mmvae.shed")


def test_no_import_runs_back(house):
    assert running_back(house) == []


@pytest.mark.parametrize(
    "text",
    [
        "from mmvae.model.module import MMVAE",
        "import mmvae.model.module",
        "from mmvae.model import module",
        "def f():\n    from mmvae.model.module import MMVAE",
        "from .model.module import MMVAE",
        "try:\n    import mmvae.model.module\nexcept ImportError:\n    pass",
    ],
)
def test_an_import_that_runs_back_is_found_however_it_is_written(plant, text):
    assert running_back(plant(model__module="", views=text)) == ["mmvae.views imports mmvae.model.module"]


def test_a_lazy_name_may_run_back_and_an_old_address_is_for_others(plant):
    lazy = "def __getattr__(name):\n    from mmvae.cohort import Cohort"
    assert running_back(plant(cohort="", case=lazy)) == []
    assert running_back(plant(cohort="", errors=lazy)) == ["mmvae.errors imports mmvae.cohort"]
    old = plant(
        volume="from mmvae.blocks.geometry import crop",
        blocks__geometry="",
        model__module="import mmvae.volume",
    )
    assert "mmvae.model.module imports mmvae.volume, an old address" in running_back(old)


def test_no_circle(house, plant):
    assert circles(house) == []
    planted = plant(
        data__a="def f():\n    import mmvae.data.b",
        data__b="import mmvae.data.c",
        data__c="import mmvae.data.a",
    )
    assert "mmvae.data.a reaches itself" in circles(planted)


# ---- never ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", NEVER)
def test_never(house, reason):
    assert forbidden(house, *NEVER[reason]) == []


@pytest.mark.parametrize("reason", NEVER)
def test_a_forbidden_import_is_found_behind_two_files_and_a_function(plant, reason):
    (file, *_), (target, *_) = NEVER[reason]
    graph = plant(
        **{f"{file.removeprefix('mmvae.').replace('.', '__')}__x": "import mmvae.batch"},
        batch="from mmvae.views import view_of",
        views=f"class View:\n    def path(self):\n        import {target}.y",
    )
    assert forbidden(graph, *NEVER[reason])[-1].startswith(
        f"{file}.x → mmvae.batch → mmvae.views → {target.split('.')[0]}"
    )
    assert not forbidden(plant(views="import json"), *NEVER[reason])


def test_a_package_s_init_counts_as_imported(plant):
    graph = plant(
        metrics__scores="from mmvae.blocks.light import f", blocks__INIT="import torch", blocks__light=""
    )
    assert forbidden(graph, *NEVER["metrics are NumPy"]) == ["mmvae.metrics.scores → mmvae.blocks → torch"]


def test_the_latent_room_knows_no_modality_and_no_file(house, plant):
    assert beyond(house, ("mmvae.latent",), LATENT_MAY) == []
    graph = plant(latent__fusion="from mmvae.errors import f", errors="import pathlib")
    assert beyond(graph, ("mmvae.latent",), LATENT_MAY) == ["mmvae.latent.fusion → mmvae.errors → pathlib"]


def test_pydicom_is_imported_in_its_rooms_only(house, plant):
    def found(graph):
        return [
            n
            for n, imports in graph.items()
            for i in imports
            if within(i.imported, ["pydicom"]) and not within(n, PYDICOM_MAY)
        ]

    assert found(house) == []
    assert found(
        plant(data__dataset="def f():\n    from pydicom import dcmread", ingest__x="import pydicom")
    ) == ["mmvae.data.dataset"]


def test_in_the_way_in_only_claims_loads_plugins():
    """`mmvae.discovery` is a door for names alone; what loads classes is used where a process of its own runs."""

    def loading(modules):
        return [
            name
            for name, tree in modules.items()
            if within(name, ["mmvae.ingest", "mmvae.identity", "mmvae.pacs"])
            and name != "mmvae.ingest.claims"
            for node in ast.walk(tree)
            if (isinstance(node, ast.alias) and node.name == "load_all")
            or (isinstance(node, ast.Attribute) and node.attr == "load_all")
        ]

    assert loading(read_tree(ROOT / "mmvae")) == []
    assert loading({"mmvae.ingest.x": ast.parse("def f():\n    from mmvae.discovery import load_all")}) == [
        "mmvae.ingest.x"
    ]


def brought_along(modules: list[str], path: Path) -> list[str]:
    """The heavy packages that are in memory once the modules are imported in a fresh process."""
    code = (
        f"import sys; sys.path.insert(0, {str(path)!r})\n"
        f"for name in {modules!r}:\n    __import__(name)\n"
        f"print(sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=path)
    return ast.literal_eval(done.stdout.strip().splitlines()[-1])


def test_light_rooms_are_light_when_they_run(house, tmp_path):
    light = [name for name in house if name in LIGHT or within(name, [n for n in LIGHT if n != "mmvae"])]
    assert len(light) > 30
    assert brought_along(light, ROOT) == []
    (tmp_path / "planted.py").write_text("import torch")
    assert brought_along(["planted"], tmp_path) == ["torch"]


def crossing(plugins: Path) -> list[str]:
    """Imports of one plugin by another, tests included; benchmarks and tests of core may use any."""
    packages = {}
    for project in sorted(p for p in plugins.iterdir() if (p / "pyproject.toml").is_file()):
        own = {d.name for d in project.iterdir() if (d / "__init__.py").is_file()}
        packages[project.name] = (own, [p for p in project.rglob("*.py")])
    everyone = set().union(*(own for own, _ in packages.values()))
    found = []
    for project, (own, files) in packages.items():
        for path in files:
            for node, *_ in statements(ast.parse(path.read_text()).body):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                found += [
                    f"{project}: {path.name} imports {n}" for n in names if n.split(".")[0] in everyone - own
                ]
    return found


def test_plugins_do_not_import_each_other(tmp_path):
    assert crossing(ROOT / "plugins") == []
    for name, text in (("a", "def f():\n    import mmvae_b.inner"), ("b", "from mmvae_b import x")):
        (tmp_path / name / f"mmvae_{name}").mkdir(parents=True)
        (tmp_path / name / "pyproject.toml").write_text("")
        (tmp_path / name / f"mmvae_{name}" / "__init__.py").write_text(text)
    assert crossing(tmp_path) == ["a: __init__.py imports mmvae_b.inner"]


def test_plugins_depend_on_core_alone():
    for path in (ROOT / "plugins").glob("*/pyproject.toml"):
        needed = tomllib.loads(path.read_text())["project"]["dependencies"]
        assert [d for d in needed if d.startswith("mmvae-")] == []
