"""What the code of mmvae says: no flag in a library message, no modality's name, no print, no participle as a class, no long function.

Every check is a function over syntax trees, and each is shown to find a planted violation.
"""

import argparse
import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A modality's name that is also another thing's name, each with what else it names: module (or room) → name → reason.
OTHER_MEANINGS = {
    "mmvae": {"terms": "a field of every case, card and MAP (FORMATS.md)"},
    "mmvae.case": {"report": "one of the closed list of label sources (FORMATS.md)"},
    "mmvae.ingest": {"t1": "the pattern that finds T1 weighting in a series' description"},
    "mmvae.retrieval.query": {"report": "the argument of that name, a text file, as an error names it"},
    "mmvae.cli.cohorts": {"clinical": "the phantom's clinical prevalence of its classes"},
    "mmvae.phantom": {
        name: "the phantom makes studies of these kinds: it writes what plugins read"
        for name in ("t1", "t2", "dwi", "contrast", "report")
    },
}
# Calls that run what a string names, each with the reason why it may.
DYNAMIC = {
    "mmvae.plain": "the one place where a file names a class, after the checks",
    "mmvae": "the names of `import mmvae`, from a fixed table",
    "mmvae.cli.allowed": "modules that the user typed, and class paths that the allow-list of the parser has passed",
}
# Class names that end like a participle and are words of the field.
TERMS_OF_THE_FIELD = {"MomentMatched": "a moment-matched Gaussian is the field's term"}
IRREGULAR = ("Left", "Told", "Held", "Kept", "Found", "Lost", "Said", "Made", "Done", "Sent", "Met", "Read", "Taken", "Given",
             "Drawn", "Written", "Seen", "Shown", "Known", "Beside", "Wanted", "Built", "Bound")  # fmt: skip
NOUNS = ("Bound", "Seed", "Need", "Feed", "Embed")  # end like one and are none: an ELBO is a bound
# Functions above 60 lines, each with the reason why it is not taken apart.
LONG = {
    f"mmvae.phantom.anatomy.{name}": "a committed hash covers the phantom's code, so that its patients stay the same"
    for name in ("build", "_lesion")
}

Trees = dict[str, ast.Module]


def read_trees(package: Path) -> Trees:
    trees = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        trees[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return trees


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


def strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every string that code uses: no docstring, and no string that stands alone as a statement."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.lineno, node.value


def flags() -> set[str]:
    """Every option of the real parser, of its commands, and LightningCLI's."""
    from mmvae.cli.command_line import _parser

    found = {
        "--model",
        "--data",
        "--trainer",
        "--ckpt_path",
        "--print_config",
        "--config",
        "--profile",
        "--trust",
        "-c",
    }
    waiting = [_parser()]
    while waiting:
        for action in waiting.pop()._actions:
            found |= set(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()
    return found


def flags_in_messages(trees: Trees, options: set[str]) -> list[str]:
    """Strings outside the command line that hold an option; "-c" by itself is an argument for a program, no message."""
    either = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w-])({either})(?![\w-])")
    return [
        f"{name}:{line} {match[1]}"
        for name, tree in trees.items()
        if not within(name, "mmvae.cli")
        for line, text in strings(tree)
        if len(text) > 2 and (match := pattern.search(text))
    ]


def names_of_modalities() -> set[str]:
    """The entry points that the plugins of this checkout declare."""
    names: set[str] = set()
    for path in (ROOT / "plugins").glob("*/pyproject.toml"):
        names |= set(tomllib.loads(path.read_text())["project"]["entry-points"]["mmvae.modalities"])
    return names


def modality_names(trees: Trees, names: set[str]) -> list[str]:
    """Strings that are a modality's name, however they are used: compared, matched, looked up, or listed."""
    return [
        f"{name}:{line} {text!r}"
        for name, tree in trees.items()
        for line, text in strings(tree)
        if text in names
        if not any(within(name, room) and text in words for room, words in OTHER_MEANINGS.items())
    ]


def calls(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Line and last name of everything that is called, and whether it is a method."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            method = isinstance(node.func, ast.Attribute)
            yield node.lineno, node.func.attr if method else getattr(node.func, "id", ""), method


def dynamic_calls(trees: Trees) -> list[str]:
    """Calls that import or run what a string says. A method of the name `eval` (torch's) takes no string."""
    return [
        f"{module}:{line} {name}"
        for module, tree in trees.items()
        for line, name, method in calls(tree)
        if name in ("import_module", "__import__") or (name in ("exec", "eval") and not method)
    ]


def prints(trees: Trees) -> list[str]:
    """Calls of `print` outside the command line."""
    return [
        f"{module}:{line}"
        for module, tree in trees.items()
        if not within(module, "mmvae.cli")
        for line, name, _ in calls(tree)
        if name == "print"
    ]


def participles(trees: Trees) -> list[str]:
    """Classes whose last word is a participle; a class is a thing."""
    found = []
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef) or node.name in TERMS_OF_THE_FIELD:
                continue
            last = (re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]*", node.name) or [node.name])[-1]
            if last not in NOUNS and (last.endswith("ed") or last in IRREGULAR):
                found.append(f"{module}.{node.name}")
    return found


def long_functions(trees: Trees, most: int = 60) -> list[str]:
    """Functions of more lines than `most`, decorators aside."""
    return [
        f"{module}.{node.name} ({node.end_lineno - node.lineno + 1})"
        for module, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.end_lineno - node.lineno + 1 > most and f"{module}.{node.name}" not in LONG
    ]


@pytest.fixture(scope="module")
def core() -> Trees:
    return read_trees(ROOT / "mmvae")


@pytest.fixture(scope="module")
def all_code(core) -> Trees:
    plugins = [p for p in (ROOT / "plugins").glob("*/mmvae_*") if p.is_dir()]
    return core | {name: tree for plugin in plugins for name, tree in read_trees(plugin).items()}


def planted(text: str, module: str = "mmvae.data.x") -> Trees:
    return {module: ast.parse(text)}


def test_no_message_of_the_library_holds_a_flag(all_code):
    assert flags_in_messages(all_code, flags()) == []


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ('raise InputError("give --cohort a folder")', "--cohort"),
        ('raise InputError(f"{path}: --map {name} is not YAML")', "--map"),
        ('log.warning("-k 500 is more than the archive")', "-k"),
        ('message = ("resume afresh " "without --ckpt_path")', "--ckpt_path"),
        ('message = "name a role, e.g. --model.modalities.t2=T2"', "--model"),
        ('message = "`mmvae assign --override` corrects them"', "--override"),
    ],
)
def test_a_flag_in_a_message_is_found(text, flag):
    assert flags_in_messages(planted(text), flags()) == [f"mmvae.data.x:1 {flag}"]


def test_a_dash_is_no_flag_and_the_command_line_may_hold_flags():
    assert (
        flags_in_messages(
            planted('"""Say --cohort."""\nx = "a-k, 3 -kg, non-cohort, --not-an-option"'), flags()
        )
        == []
    )
    assert flags_in_messages(planted('x = "--cohort"', "mmvae.cli.x"), flags()) == []


def test_core_holds_no_name_of_a_modality(core):
    assert names_of_modalities() >= {
        "t1",
        "t2",
        "flair",
        "dwi",
        "contrast",
        "report",
        "clinical",
        "terms",
        "radiograph",
    }
    assert modality_names(core, names_of_modalities()) == []


@pytest.mark.parametrize(
    "text",
    [
        'if name == "t1": pass',
        'f = {"radiograph": 1}',
        'match kind:\n    case "t1": pass',
        'x = kind in ("t1", "t2")',
        'x = {"dwi"}',
        'x = table["report"]',
        'def f(kind="flair"): pass',
        'x = dict(a=kind.startswith("t2"))',
    ],
)
def test_a_modality_s_name_is_found_however_it_is_used(text):
    assert modality_names(planted(text), names_of_modalities())
    assert not modality_names(planted('"""t1"""\nx = "terms"\ndef f():\n    "dwi"'), names_of_modalities())


def test_every_other_meaning_is_still_needed(core):
    """An exception that nothing uses any more is taken off the list."""
    for room, words in OTHER_MEANINGS.items():
        used = {text for name, tree in core.items() if within(name, room) for _, text in strings(tree)}
        assert set(words) <= used
    assert set(DYNAMIC) & set(core) <= {call.split(":")[0] for call in dynamic_calls(core)}


def test_nothing_runs_what_a_string_names(all_code):
    assert [call for call in dynamic_calls(all_code) if call.split(":")[0] not in DYNAMIC] == []
    text = "import importlib\nimportlib.import_module(x)\n__import__(x)\nexec(x)\neval(x)\nmodel.eval()"
    assert dynamic_calls(planted(text)) == [
        "mmvae.data.x:2 import_module", "mmvae.data.x:3 __import__", "mmvae.data.x:4 exec", "mmvae.data.x:5 eval"
    ]  # fmt: skip


def test_the_library_prints_nothing(all_code):
    assert prints(all_code) == []
    assert prints(planted("def f():\n    print(1)")) == ["mmvae.data.x:2"]
    assert prints(planted("print(1)", "mmvae.cli.x")) == []


def test_no_class_is_named_by_a_participle(all_code):
    assert participles(all_code) == []
    text = "".join(
        f"class {name}: pass\n"
        for name in ("Scored", "_Wanted", "FieldDrawn", "TaskFailure", "MomentMatched", "Seed", "ELBO")
    )
    assert participles(planted(text)) == [
        f"mmvae.data.x.{name}" for name in ("Scored", "_Wanted", "FieldDrawn")
    ]


def test_no_function_is_longer_than_60_lines(all_code):
    assert long_functions(all_code) == []
    body = "    x = 1\n"
    assert long_functions(planted("def f():\n" + 60 * body)) == ["mmvae.data.x.f (61)"]
    assert long_functions(planted("class C:\n  async def f():\n" + 59 * body)) == []
