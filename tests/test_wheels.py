"""Wheels of core and of every plugin install elsewhere, and `mmvae modalities` lists all there."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_wheels_install_elsewhere_and_list_all(tmp_path):
    projects = [ROOT, *sorted(p for p in (ROOT / "plugins").iterdir() if (p / "pyproject.toml").is_file())]
    # Copies: a build folder of an earlier day would put files into the wheel that are no longer there.
    left_behind = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests", "plugins", "benchmarks", "experiments", "demo", "runs", "site")  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for project in projects:
        source = shutil.copytree(project, tmp_path / "source" / project.name, ignore=left_behind)
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "wheel",
                "-q",
                "--no-deps",
                "--no-build-isolation",
                "-w",
                tmp_path / "wheels",
                source,
            ],
            check=True,
            capture_output=True,
        )
    wheels = sorted((tmp_path / "wheels").glob("*.whl"))
    assert len(wheels) == len(projects)
    core = next(w for w in wheels if w.name.startswith("mmvae-"))
    assert missing_from(core, ROOT / "mmvae") == []
    for name in ("mmvae/py.typed", "mmvae/phantom/parameters.yaml", "mmvae/testing/templates/pyproject.txt"):
        assert name in zipfile.ZipFile(core).namelist()
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    fresh = tmp_path / "venv" / "bin"
    # What mmvae needs is already here and pinned; only the wheels are new.
    site = next((tmp_path / "venv" / "lib").glob("python3*")) / "site-packages"
    (site / "needs.pth").write_text(
        str(next((Path(sys.prefix) / "lib").glob("python3*")) / "site-packages") + "\n"
    )
    subprocess.run(
        [fresh / "python", "-m", "pip", "install", "-q", "--no-deps", "--ignore-installed", *wheels],
        env=environment,
        check=True,
        capture_output=True,
    )
    code = "import mmvae, sys; from mmvae.phantom.patient import parameters; from mmvae.cli import main; print(mmvae.__file__); parameters(); main(['modalities'])"
    done = subprocess.run(
        [fresh / "python", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert str(tmp_path) in done.stdout.splitlines()[0]
    listed = {line.split()[0] for line in done.stdout.splitlines()[1:]}
    assert {"t1", "t2", "flair", "dwi", "contrast", "report", "clinical", "terms"} <= listed
    assert main_writes(fresh, tmp_path, environment)


def missing_from(wheel: Path, package: Path) -> list[str]:
    """Files of the package in the checkout that are not in the wheel."""
    held = set(zipfile.ZipFile(wheel).namelist())
    here = [p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return [
        str(p.relative_to(package.parent)) for p in here if str(p.relative_to(package.parent)) not in held
    ]


def main_writes(fresh: Path, folder: Path, environment: dict[str, str]) -> bool:
    """The scaffold's templates are in the wheel."""
    subprocess.run(
        [fresh / "mmvae", "new-modality", "wave", "--out", folder / "wave"],
        env=environment,
        check=True,
        capture_output=True,
    )
    return (folder / "wave" / "pyproject.toml").is_file()


def test_a_file_that_a_wheel_lacks_is_found(tmp_path):
    for name in ("a.py", "py.typed", "inner/b.txt"):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / name).write_text("")
    with zipfile.ZipFile(tmp_path / "p.whl", "w") as wheel:
        wheel.write(tmp_path / "p" / "a.py", "p/a.py")
    assert sorted(missing_from(tmp_path / "p.whl", tmp_path / "p")) == ["p/inner/b.txt", "p/py.typed"]
