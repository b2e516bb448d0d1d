"""Wheels of core and of every plugin install elsewhere, and `mmvae modalities` lists all there."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_wheels_install_elsewhere_and_list_all(tmp_path):
    projects = [ROOT, *sorted(p for p in (ROOT / "plugins").iterdir() if (p / "pyproject.toml").is_file())]
    for project in projects:
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
                project,
            ],
            check=True,
            capture_output=True,
        )
    wheels = sorted((tmp_path / "wheels").glob("*.whl"))
    assert len(wheels) == len(projects)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    fresh = tmp_path / "venv" / "bin"
    # What mmvae needs is already here and pinned; only the wheels are new.
    site = next((tmp_path / "venv" / "lib").glob("python3*")) / "site-packages"
    (site / "needs.pth").write_text(
        str(next((Path(sys.prefix) / "lib").glob("python3*")) / "site-packages") + "\n"
    )
    subprocess.run(
        [fresh / "python", "-m", "pip", "install", "-q", "--no-deps", *wheels],
        check=True,
        capture_output=True,
    )
    code = "import mmvae, sys; from mmvae.phantom.patient import parameters; from mmvae.cli import main; print(mmvae.__file__); parameters(); main(['modalities'])"
    done = subprocess.run(
        [fresh / "python", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert str(tmp_path) in done.stdout.splitlines()[0]
    listed = {line.split()[0] for line in done.stdout.splitlines()[1:]}
    assert {"t1", "t2", "flair", "dwi", "contrast", "report", "clinical", "terms"} <= listed
    assert main_writes(fresh, tmp_path)


def main_writes(fresh: Path, folder: Path) -> bool:
    """The scaffold's templates are in the wheel."""
    subprocess.run(
        [fresh / "mmvae", "new-modality", "wave", "--out", folder / "wave"], check=True, capture_output=True
    )
    return (folder / "wave" / "pyproject.toml").is_file()
