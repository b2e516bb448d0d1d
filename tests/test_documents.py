"""What the documents say is what works: README's commands run as they stand, CONTRIBUTING's plugin is built from its text."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmvae.testing import CHECKS

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def test_the_ecg_of_contributing_is_built_from_the_document_and_conforms(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = re.findall(r"^`(ecg/[\w./]+)`\n\n```\w+\n(.*?)^```", text, re.M | re.S)
    assert [name for name, _ in files] == ["ecg/pyproject.toml", "ecg/acme_ecg.py", "ecg/test_ecg.py"]
    for name, content in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert len(files[2][1].strip().splitlines()) <= 15
    site = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        site,
        tmp_path / "ecg",
    ]
    subprocess.run(install, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    listed = subprocess.run(
        [BIN / "mmvae", "modalities"], env=environment, capture_output=True, text=True, check=True
    )
    assert "acme_ecg:ECG" in listed.stdout
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "ecg")],
                          env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{len(CHECKS)} passed" in done.stdout


def blocks(name: str, document: str = "README.md") -> list[str]:
    return re.findall(rf"<!-- run: {name} -->\n```\w+\n(.*?)^```", (ROOT / document).read_text(), re.M | re.S)


def test_the_researcher_s_commands_run_as_they_stand(tmp_path):
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    (block,) = blocks("bench")
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "group/images: row" in done.stdout
    assert (tmp_path / "bench" / "report" / "report.html").is_file()


def test_contributing_s_own_fusion_runs_as_it_stands():
    (block,) = blocks("fusion", "CONTRIBUTING.md")
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "torch.Size([4, 8])" in done.stdout


def test_contributing_s_yaml_of_one_s_own_fusion_and_objective_composes_once_it_is_trusted(tmp_path):
    """The class is the document's, in a module beside the YAML; a model of two roles stands before it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    own = next(b for b in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S) if "class_path: Sum" in b)
    (module,), (command,) = blocks("fusion", "CONTRIBUTING.md"), blocks("trust", "CONTRIBUTING.md")
    (tmp_path / "my_package.py").write_text(module)
    (tmp_path / "own.yaml").write_text(own)
    (tmp_path / "base.yaml").write_text(
        "model: {modalities: {clinical: Clinical, terms: Terms}, answer_roles: [terms]}\ndata: {cohort: none}\n"
    )
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    environment["PYTHONPATH"] = path

    def run(line: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    done = run(command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "class_path: my_package.HalfPoE" in done.stdout
    assert "Alignment" in done.stdout and "targets: terms" in done.stdout
    refused = run(command.replace("--trust my_package", ""))
    assert refused.returncode == 1
    assert "my_package" in refused.stderr


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder in which the README's commands are typed; the ML engineer's have been, as they stand."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "experiments").symlink_to(ROOT / "experiments")
    (block,) = blocks("fit")
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_the_engineer_s_commands_run_as_they_stand(desk):
    assert (desk / "evaluation" / "metrics.json").is_file()


def test_the_ten_lines_of_python_run_as_they_stand(desk):
    (block,) = blocks("python")
    assert (
        len([line for line in block.splitlines() if line.strip() and not line.startswith(("import", "from"))])
        <= 10
    )
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=desk, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_hospital_s_commands_run_with_its_own_names(desk, tmp_path):
    """SOURCE, model.ckpt and CASE_ID are the reader's; the commands are the document's."""
    import nibabel
    import numpy as np

    (desk / "SOURCE").mkdir()
    for n in range(6):
        nibabel.save(
            nibabel.Nifti1Image(
                np.random.default_rng(n).integers(0, 900, (24, 24, 8)).astype(np.int16), np.diag([4, 4, 8, 1])
            ),
            desk / "SOURCE" / f"{n}.nii.gz",
        )
    (desk / "map.yaml").write_text("key: Patient\nassets: [{kind: t2, file: '{Patient}.nii.gz'}]\nrecord: {age_years: Age}\nreference: [t2]\n"
                                   "lesion: {x_mm: X, y_mm: Y, z_mm: Z}\n")  # fmt: skip
    (desk / "records.csv").write_text(
        "Patient,Age,X,Y,Z\n" + "".join(f"{n},{52 + n},-40,-40,30\n" for n in range(6))
    )
    (desk / "model.ckpt").write_bytes((desk / "run" / "best.ckpt").read_bytes())
    (block,) = blocks("scan")
    (desk / "cohort").rename(desk / "phantom_cohort")
    scan, *rest = block.strip().splitlines()
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}

    def run(line: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", "-c", line], cwd=desk, env=environment, capture_output=True, text=True, check=False
        )

    assert run(scan).returncode == 0
    first = (desk / "cohort" / "cases.jsonl").read_text().split('"case_id": "')[1].split('"')[0]
    for line in rest:
        done = run(line.replace("CASE_ID", first))
        assert done.returncode == 0, done.stderr[-2000:]
    assert "queried by t2" in done.stdout


def test_the_way_in_of_dicom_runs_as_it_stands(tmp_path):
    (block,) = blocks("dicom")
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "6 cases; left out: nothing" in done.stdout
    assert (tmp_path / "arrived" / "cases.jsonl").is_file()


def test_the_readme_lists_every_code_of_notes_jsonl():
    from mmvae.ingest.notes import NOTE_CODES

    text = (ROOT / "README.md").read_text()
    assert all(f"`{code}`" in text for code in NOTE_CODES)


def test_the_readme_lists_every_code_of_skipped_jsonl():
    from mmvae.ingest.skipped import SKIP_CODES

    text = (ROOT / "README.md").read_text()
    assert all(f"`{code}`" in text for code in SKIP_CODES)


def test_the_readme_opens_with_the_two_commands_and_its_picture_is_small():
    text = (ROOT / "README.md").read_text()
    assert "```sh\nmake demo\nmake test\n```" in text
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (ROOT / picture).stat().st_size < 300_000


# ---- nothing is promised that is not there ----------------------------------------------------------------------------

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
# Blocks of commands without a mark, each with what runs them.
RUN_ELSEWHERE = {
    "make demo\nmake test\n": "a person, and .ci/run",
    "pip install -e ecg\npytest ecg\nmmvae modalities\n": "test_the_ecg_of_contributing_is_built_from_the_document_and_conforms",
}


def unmarked(text: str) -> list[str]:
    """Blocks of commands before which no `<!-- run: … -->` stands."""
    marked = re.findall(r"<!-- run: [\w-]+ -->\n```sh\n(.*?)^```", text, re.M | re.S)
    return [
        b for b in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S) if b not in [*marked, *RUN_ELSEWHERE]
    ]


def test_every_block_of_commands_is_run_by_a_test():
    tests = Path(__file__).read_text()
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        assert unmarked(text) == []
        for name in re.findall(r"<!-- run: ([\w-]+) -->", text):
            assert f'blocks("{name}"' in tests
    assert unmarked("```sh\nmmvae no-such\n```\n") == ["mmvae no-such\n"]


def promised(text: str) -> tuple[set[str], set[str]]:
    """Commands of mmvae and options that a document names in code."""
    code = "\n".join(re.findall(r"`([^`\n]+)`", text) + re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S))
    return set(re.findall(r"\bmmvae ([a-z][a-z-]*)\b", code)), set(
        re.findall(r"(?<!\S)(--[a-z][\w-]*)", code)
    )


def offered() -> tuple[set[str], set[str]]:
    """Commands and options that there are, LightningCLI's by their groups."""
    import argparse

    from mmvae.cli.command_line import _parser

    parser, commands = _parser(), set()
    options = {"--model", "--data", "--trainer", "--ckpt_path", "--print_config", "--trust", "--profile"}
    for action in parser._actions:
        options |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            commands |= set(action.choices)
            for command in action.choices.values():
                options |= {option for inner in command._actions for option in inner.option_strings}
    return commands, options


# Options of other programs that the documents name: mmvae-bench's.
OTHERS = {"--work", "--results", "--seed"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_names_no_command_and_no_option_that_is_not_there(document):
    commands, options = promised((ROOT / document).read_text())
    there, known = offered()
    assert commands - there == set()
    assert options - known - OTHERS == set()
    assert promised("Say `mmvae conjure --wand x`.") == ({"conjure"}, {"--wand"})


def imported_names(text: str) -> set[str]:
    """Modules and names of mmvae that a document gives by their dotted path."""
    return set(re.findall(r"`(mmvae(?:\.\w+)+)`", text))


def exists(path: str) -> bool:
    import importlib

    for cut in range(path.count(".") + 1, 0, -1):
        module, names = ".".join(path.split(".")[:cut]), path.split(".")[cut:]
        try:
            thing = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for name in names:
            if not hasattr(thing, name):
                return False
            thing = getattr(thing, name)
        return True
    return False


def test_the_dotted_names_of_the_documents_are_there():
    """But for the left column of what moved, whose later rows are gone."""
    gone = {"mmvae.answer", "mmvae.retrieval.metrics", "mmvae.retrieval.monitor", "mmvae.latent.readout"}
    for document in DOCUMENTS:
        names = imported_names((ROOT / document).read_text())
        assert {name for name in names if not exists(name)} <= gone
    assert not exists("mmvae.model.NoSuchThing")


def test_the_version_has_an_entry_in_the_changes():
    import mmvae

    assert f"## {mmvae.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
