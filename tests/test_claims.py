"""A scan asks the plugins in a process of their own: torch is imported neither by the scan nor by its workers."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmvae.errors import InputError
from mmvae.ingest.claims import ClaimProcess, claims_here
from mmvae.ingest.workers import Workers
from mmvae.phantom.dicom import write_phantom_studies

SCAN = """
import sys
from pathlib import Path
{planted}
from mmvae.ingest.scan import scan_studies
if __name__ == "__main__":
    summary = scan_studies(Path(sys.argv[1]), Path(sys.argv[2]), jobs=1)
    print(summary.cases, [name for name in ("torch", "lightning", "mmvae_mri") if name in sys.modules])
"""


def modules_after_a_scan(source: Path, folder: Path, planted: str) -> str:
    """What a process of its own says after a whole scan: number of cases, and which heavy modules it holds."""
    folder.mkdir()
    script = folder / "scan.py"
    script.write_text(SCAN.format(planted=planted))
    done = subprocess.run(
        [sys.executable, script, source, folder / "cohort"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def loaded(_: str) -> list[str]:
    return [name for name in ("torch", "lightning") if name in sys.modules]


def test_a_whole_scan_imports_no_torch_and_a_planted_import_is_found(tmp_path):
    write_phantom_studies(1, 4, tmp_path / "source", jobs=1)
    studies = tmp_path / "source" / "studies"
    assert modules_after_a_scan(studies, tmp_path / "a", "") == "1 []"
    assert modules_after_a_scan(studies, tmp_path / "b", "import torch") == "1 ['torch']"
    cases = [(tmp_path / name / "cohort" / "cases.jsonl").read_text() for name in "ab"]
    assert '"kind": "t2"' in cases[0] or '"kind": "t1"' in cases[0]  # the plugins were asked all the same


def test_a_worker_imports_no_torch():
    from mmvae.ingest.reading import inspect
    from mmvae.ingest.study_files import write_study

    code = f"import sys, {inspect.__module__}, {write_study.__module__}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


FACTS = [
    {"type": "volume", "Modality": "MR", "DiffusionBValue": [0.0, 800.0], "ScanningSequence": ["EP"], "series": "s1"},
    {"type": "image", "Modality": "DX", "series": "s2"},
    {"type": "volume", "Modality": "CT", "EchoTime": 90.0, "RepetitionTime": 4000.0},
]  # fmt: skip


def test_the_process_answers_as_the_plugins_do_and_remembers():
    with ClaimProcess() as ask:
        first = ask(FACTS)
        ask._workers.jobs = 0  # what is asked again must not need a process
        ask._workers.__exit__()
        again = ask([{**FACTS[1], "series": "another"}, FACTS[0]])
    assert first == claims_here(FACTS)
    assert again == [first[1], first[0]]
    best = [claims[0] for claims in first]
    assert [kind for _, kind in best[:2]] == ["dwi", "radiograph"]
    assert best[2][0] == 0.0  # no installed modality claims CT


def _refuse(_: list) -> InputError:
    return InputError("install acme-mri", "map")


def test_a_plugin_s_refusal_keeps_its_words(monkeypatch):
    monkeypatch.setattr("mmvae.ingest.claims._claims_or_refusal", _refuse)
    with ClaimProcess() as ask, pytest.raises(InputError, match="install acme-mri"):
        ask(FACTS[:1])


def _break(_: list) -> list:
    raise ImportError("libfoo.so.1 of /home/somebody")


def test_a_plugin_that_breaks_is_reported_without_its_words(monkeypatch):
    monkeypatch.setattr("mmvae.ingest.claims._claims_or_refusal", _break)
    with ClaimProcess() as ask, pytest.raises(InputError, match=r"gave no claims \(ImportError\)") as refusal:
        ask(FACTS[:1])
    assert "somebody" not in str(refusal.value)


def test_workers_give_the_answer_of_each_item():
    with Workers(1) as workers:
        assert list(workers.run(loaded, [("x", 0)], lambda _: 60.0)) == [("x", [])]
