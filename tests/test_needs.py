"""A test that needs a program beside Python is skipped, saying so, on a machine without it, and fails there with CI=true."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDS_DCIODVFY = "tests/test_study.py::test_dciodvfy_finds_a_planted_error"


@pytest.fixture(scope="module")
def conftest():
    spec = importlib.util.spec_from_file_location(
        "conftest_of_tests", Path(__file__).with_name("conftest.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bare(tmp_path, monkeypatch) -> Path:
    """A PATH on which only `strace` (a file that does nothing) is found."""
    (tmp_path / "strace").write_text("#!/bin/sh\n")
    (tmp_path / "strace").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_what_is_installed_is_no_reason_to_skip(conftest, bare, monkeypatch):
    for ci in ("", "true"):
        monkeypatch.setenv("CI", ci)
        conftest.require("strace")


def test_what_is_missing_skips_and_names_the_package(conftest, bare, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(
        pytest.skip.Exception,
        match=r"needs dciodvfy and dcm2niix, not installed here.*apt-get install dicom3tools dcm2niix",
    ):
        conftest.require("strace", "dciodvfy", "dcm2niix")


def test_what_is_missing_fails_where_ci_is_true(conftest, bare, monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(
        pytest.fail.Exception,
        match=r"needs dcmdump, not installed here.*with CI=true a missing program is a failure",
    ):
        conftest.require("dcmdump")


@pytest.mark.parametrize(("ci", "status", "outcome"), [("", 0, "1 skipped"), ("true", 1, "1 error")])
def test_a_marked_test_is_skipped_or_fails_before_its_fixtures(tmp_path, ci, status, outcome):
    """The mark on a real test, in a process that finds no program at all."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", NEEDS_DCIODVFY],
        cwd=ROOT, env={**os.environ, "PATH": str(tmp_path), "CI": ci}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout[-2000:]
    assert outcome in done.stdout
    assert "needs dciodvfy, not installed here" in done.stdout


def unmarked(texts: dict[str, str], programs) -> list[str]:
    """Test files that start one of the programs (the first word of a command) and hold no mark that names it."""
    found = []
    for name, text in texts.items():
        marks = " ".join(re.findall(r"mark\.needs\(([^)]*)\)", text))
        started = {p for p in programs if re.search(rf'\[\s*"{p}"', text)}
        found += [f"{name}: {p}" for p in sorted(started) if f'"{p}"' not in marks]
    return found


def test_every_file_that_runs_such_a_program_marks_its_tests(conftest):
    texts = {path.name: path.read_text() for path in Path(__file__).parent.glob("test_*.py")}
    assert unmarked(texts, conftest.PACKAGES) == []
    planted = {"test_x.py": 'def test_x():\n    subprocess.run([\n        "strace", "-f"])\n'}
    assert unmarked(planted, conftest.PACKAGES) == ["test_x.py: strace"]
