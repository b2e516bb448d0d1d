"""Stored classes, read as an attacker would write them: a file may only give plain values to a class of the wanted kind.

Each attack is first shown to work against a loader without the guard, so that its failure says something.
"""

import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmvae.plain
from mmvae.errors import InputError
from mmvae.latent.fusion import Fusion, Hellinger, MomentMatched, PoE
from mmvae.latent.objective import ELBO, Alignment, Objective, Sum
from mmvae.latent.space import RetrievalSpace
from mmvae.modality import Modality
from mmvae.plain import DEEPEST, from_plain, to_plain, trust, trusted_modules


class Recipe:
    """A kind of the tests' own."""


@dataclass(frozen=True)
class Grid(Recipe):
    size: int = 4
    spacing_mm: tuple[float, ...] = (1.0,)
    shape: tuple[int, int] = (2, 3)
    name: str | None = None
    plane: Literal["axial", "sagittal"] = "axial"
    flip: bool = False
    weight: float = None  # type: ignore[assignment] - a default that its annotation does not allow
    inner: Recipe | None = None
    many: tuple[Recipe, ...] = ()
    renamed_fields: ClassVar[Mapping[str, str]] = {"width": "size"}


@dataclass(frozen=True)
class Other:
    """A frozen dataclass of another kind."""


@dataclass
class Loose(Recipe):
    """A dataclass that is not frozen."""


@dataclass(frozen=True)
class Picky(Recipe):
    """A recipe that refuses some values itself."""

    count: int = 1

    def __post_init__(self):
        _ = [1, 2][1 // self.count + self.count]


class Bare(Recipe):
    """No dataclass."""


def function():
    """No class."""


@pytest.fixture
def trusting(monkeypatch):
    """The classes of this file may be named."""
    monkeypatch.setattr(mmvae.plain, "_trusted", set())
    trust(__name__)


def naming(path: str, /, **arguments) -> dict:
    return {"class_path": path, "init_args": arguments}


def here(cls: str, /, **arguments) -> dict:
    return naming(f"{__name__}.{cls}", **arguments)


def unguarded(plain: dict):
    """A loader as they are often written: it imports what is named and calls it."""
    module, name = plain["class_path"].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**plain["init_args"])


def refused(plain: object, kind: type, match: str) -> None:
    with pytest.raises(InputError, match=match) as error:
        from_plain(plain, kind)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


# ---- what a stranger's file tries ---------------------------------------------------------------------------------------


def test_a_command_is_not_run(tmp_path):
    attacks = [
        naming("os.system", command=f"touch {tmp_path}/ran"),
        naming("subprocess.Popen", args=["touch", f"{tmp_path}/ran"]),
        naming("subprocess.run", args=["touch", f"{tmp_path}/ran"]),
        naming("pathlib.Path.touch", self=str(tmp_path / "ran")),
    ]
    for attack in attacks[:1]:
        unguarded(attack)
        assert (tmp_path / "ran").exists()  # the attack is real
        (tmp_path / "ran").unlink()
    for attack in attacks:
        for kind in (Fusion, Objective, Modality, RetrievalSpace):
            refused(
                attack, kind, "neither part of mmvae nor of an installed plugin: nothing of it was imported"
            )
    assert not (tmp_path / "ran").exists()


def test_a_module_that_acts_when_it_is_imported_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "planted_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Fusion: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    refused(naming("planted_module.Fusion"), Fusion, "trust the module planted_module")
    assert "planted_module" not in sys.modules
    assert not (tmp_path / "ran").exists()
    unguarded(naming("planted_module.Fusion"))
    assert (tmp_path / "ran").exists()  # the attack is real
    sys.modules.pop("planted_module")


@pytest.mark.parametrize("prefix", ["mmvaeevil", "mmvae_", "mmvae_mrievil", "mmva"])
def test_a_module_whose_name_only_begins_like_a_trusted_one_is_not(prefix):
    refused(naming(f"{prefix}.Fusion"), Fusion, "nothing of it was imported")


@pytest.mark.parametrize(
    "path",
    [
        "mmvae.cohort.json.JSONDecoder",  # modules that a trusted one has imported
        "mmvae.plain.importlib.import_module",
        "mmvae.atomic.shutil.rmtree",
        "mmvae.atomic._remove",  # functions and classes of a trusted module
        "mmvae.atomic.swap_folder",
        "mmvae.plain.trust",
        "mmvae.cohort.Path",
        "mmvae.plain.importlib",
        "mmvae.cohort.__class__",
        "mmvae.cohort.__builtins__",
        "mmvae.cohort.no_such_name",
        "mmvae.no_such_module.Fusion",
        "mmvae.latent.fusion.Fusion",  # the kind itself is abstract
        "mmvae.latent.fusion.Posterior",
        "mmvae.case.Case",  # frozen dataclasses of other kinds
        "mmvae.latent.objective.ELBO",
        "mmvae.model.MMVAE",
    ],
)
def test_what_is_reached_through_a_trusted_module_must_be_of_the_kind(path):
    refused(naming(path), Fusion, "which is no Fusion|cannot import|does not take the values")


@pytest.mark.parametrize("name", ["function", "Bare", "Loose", "Other", "Recipe", "pytest"])
def test_only_frozen_dataclasses_of_the_kind_are_built(trusting, name):
    refused(here(name), Recipe, f"names {__name__}.{name}, which is no Recipe; it was not used")


def test_what_is_nested_is_held_to_the_field_s_own_kind(trusting, tmp_path):
    assert from_plain(here("Grid", inner=here("Grid", size=1)), Recipe) == Grid(inner=Grid(size=1))
    command = naming("os.system", command=f"touch {tmp_path}/ran")
    refused(here("Grid", inner=command), Recipe, "nothing of it was imported")
    refused(here("Grid", many=[here("Grid"), command]), Recipe, "nothing of it was imported")
    refused(here("Grid", inner=here("Other")), Recipe, "which is no Recipe")
    refused(here("Grid", size=here("Grid")), Recipe, "which is no plain value")
    refused(here("Grid", name={"class_path": 3}), Recipe, "found 3 as the class_path of a stored class")
    refused(
        naming("mmvae.latent.objective.Sum", terms=[naming("mmvae.latent.fusion.PoE")]),
        Objective,
        "which is no Objective",
    )
    assert not (tmp_path / "ran").exists()


def test_nesting_without_end_is_refused_before_the_stack_is_full(trusting):
    plain: object = here("Grid")
    lists: object = 1
    for _ in range(50_000):
        plain, lists = here("Grid", inner=plain), [lists]
    refused(plain, Recipe, f"nested more than {DEEPEST} levels deep")
    refused(here("Grid", spacing_mm=lists), Recipe, "Grid.spacing_mm is a list of 1")
    shallow: object = here("Grid")
    for _ in range(DEEPEST - 1):
        shallow = here("Grid", inner=shallow)
    from_plain(shallow, Recipe)


@pytest.mark.parametrize(
    ("plain", "match"),
    [
        (None, "found None as the class_path of a stored class; expected the path of a Recipe"),
        ([], "found None as the class_path"),
        ("os.system", "found None as the class_path"),
        ({}, "found None as the class_path"),
        ({"class_path": "Grid"}, "found 'Grid' as the class_path"),
        ({"class_path": "a..b"}, "found 'a..b' as the class_path"),
        ({"class_path": "os;x.y"}, "found 'os;x.y' as the class_path"),
        ({"class_path": "a b.c"}, "found 'a b.c' as the class_path"),
        ({"class_path": ".mmvae.x"}, "as the class_path"),
        ({"class_path": {"class_path": "os.system"}}, "found a dict of 1 as the class_path"),
        ({"class_path": "x" * 10_000}, "found 'xxx"),
        ({"class_path": "a\nb.c"}, r"found 'a\\nb.c' as the class_path"),
    ],
)
def test_what_is_no_stored_class_is_refused(plain, match):
    refused(plain, Recipe, match)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"size": "4"}, "Grid.size is '4' in the file; expected int"),
        ({"size": 4.5}, "Grid.size is 4.5 in the file; expected int"),
        ({"size": True}, "Grid.size is True in the file; expected int"),
        ({"size": None}, "Grid.size is None in the file; expected int"),
        ({"size": [4]}, "Grid.size is a list of 1 in the file; expected int"),
        ({"spacing_mm": 1.0}, r"Grid.spacing_mm is 1.0 in the file; expected tuple\[float, ...\]"),
        ({"spacing_mm": [1.0, "2"]}, "Grid.spacing_mm is '2' in the file; expected float"),
        ({"spacing_mm": "12"}, "Grid.spacing_mm is '12' in the file"),
        ({"shape": [1, 2, 3]}, "Grid.shape is a list of 3 in the file"),
        ({"name": 7}, r"Grid.name is 7 in the file; expected str \| None"),
        ({"plane": "coronal"}, "Grid.plane is 'coronal' in the file"),
        ({"flip": 1}, "Grid.flip is 1 in the file; expected bool"),
        ({"flip": object()}, "Grid.flip is <object"),
        (
            {"nothing": 1},
            r"Grid has no field 'nothing'; the file was written by another version of .*\. Install that version",
        ),
        ({"__class__": 1}, "Grid has no field '__class__'"),
        ({1: 2, "x": 3}, "Grid has no field"),
    ],
)
def test_values_must_fit_their_fields(trusting, arguments, match):
    refused({"class_path": f"{__name__}.Grid", "init_args": arguments}, Recipe, match)


@pytest.mark.parametrize("arguments", [3, "size", [["size", 1]], None])
def test_arguments_are_named(trusting, arguments):
    refused(
        {"class_path": f"{__name__}.Grid", "init_args": arguments},
        Recipe,
        "Grid has init_args .*; expected a value for each field",
    )


@pytest.mark.parametrize("count", [0, 5])
def test_a_class_s_own_refusal_is_one_line(trusting, count):
    refused(here("Picky", count=count), Recipe, "Picky does not take the values that the file gives it")


# ---- what an honest file says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (PoE(prior_expert=False), Fusion),
        (MomentMatched(Hellinger()), Fusion),
        (Sum((ELBO(0.5, 3, "sampled"), Alignment(targets="terms"))), Objective),
        (RetrievalSpace(MomentMatched(PoE()), (1.0, 0.5), None, "euclidean"), RetrievalSpace),
    ],
)
def test_what_is_written_is_read_by_way_of_json(value, kind):
    assert from_plain(json.loads(json.dumps(to_plain(value))), kind) == value


@given(
    st.integers(),
    st.lists(st.floats(allow_nan=False)),
    st.text() | st.none(),
    st.booleans(),
    st.floats(0, 1) | st.none(),
)
def test_any_values_of_the_fields_types_come_back(size, spacing, name, flip, weight):
    previous = set(mmvae.plain._trusted)
    trust(__name__)
    try:
        grid = Grid(size, tuple(spacing), (1, 2), name, "sagittal", flip, weight, Grid(), (Grid(1), Grid(2)))
        assert from_plain(json.loads(json.dumps(to_plain(grid))), Recipe) == grid
    finally:
        mmvae.plain._trusted.clear()
        mmvae.plain._trusted.update(previous)


def test_init_args_may_be_left_out_and_a_whole_number_is_a_number(trusting):
    assert from_plain({"class_path": f"{__name__}.Grid"}, Recipe) == Grid()
    grid = from_plain(here("Grid", spacing_mm=[1, 2.5], weight=3, size=2), Recipe)
    assert grid == Grid(spacing_mm=(1.0, 2.5), weight=3.0, size=2)
    assert [type(value) for value in (*grid.spacing_mm, grid.weight, grid.size)] == [float, float, float, int]


def test_a_field_s_old_name_is_read_as_its_new_one(trusting):
    assert from_plain(here("Grid", width=9), Recipe) == Grid(size=9)


def test_every_old_path_of_an_objective_leads_to_its_class():
    old_paths = [path for path in mmvae.plain.MOVED if path.startswith("mmvae.latent.objective.")]
    assert len(old_paths) == 6
    for old in old_paths:
        loaded = from_plain({"class_path": old}, Objective)
        assert f"{type(loaded).__module__}.{type(loaded).__qualname__}" == mmvae.plain.MOVED[old]


def test_every_old_address_leads_to_what_is_there_now():
    for old, new in mmvae.plain.MOVED.items():
        module, name = old.rsplit(".", 1)
        now = getattr(importlib.import_module(new.rsplit(".", 1)[0]), name)
        assert mmvae.plain.moved(module, name) is now


def test_trust_reaches_the_module_and_what_lies_in_it(monkeypatch):
    monkeypatch.setattr(mmvae.plain, "_trusted", set())
    refused(here("Grid"), Recipe, "trust the module")
    with pytest.raises(InputError) as error:
        from_plain(here("Grid"), Recipe)
    assert error.value.field == "trust"
    trust(__name__.split(".")[0])
    assert from_plain(here("Grid"), Recipe) == Grid()


def test_mmvae_and_the_plugins_are_trusted_and_nothing_else():
    assert trusted_modules() >= {
        "mmvae",
        "mmvae_mri",
        "mmvae_report",
        "mmvae_clinical",
        "mmvae_terms",
        "mmvae_radiograph",
    }
    assert not trusted_modules() & {
        "os",
        "sys",
        "subprocess",
        "builtins",
        "torch",
        "numpy",
        "pytest",
        "importlib",
    }
