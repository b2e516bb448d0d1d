"""Commands as a user meets them: speed of help, refusals in one line, exit statuses."""

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import lightning.pytorch  # noqa: F401 - its log writes to the stderr of the import, which must outlive one test
import pytest

import mmvae
from mmvae.cli import main
from mmvae.cohort import Cohort
from mmvae.testing import CHECKS

BIN = Path(sys.executable).parent / "mmvae"


def seconds(command: list[str | Path]) -> float:
    """The fastest of three runs."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        taken.append(time.perf_counter() - start)
    return min(taken)


def test_help_costs_a_few_starts_of_python():
    """A second on a slow machine: ten starts of the bare interpreter, measured beside it. Importing torch costs fifty."""
    assert seconds([BIN, "--help"]) < 10 * seconds([sys.executable, "-c", "pass"])


def heavy_after(line: str) -> list[str]:
    """Packages in memory after a line, of those that take a second or more to import or that only some commands need."""
    heavy = (
        "torch",
        "lightning",
        "pyro",
        "numpy",
        "scipy",
        "sklearn",
        "torchio",
        "matplotlib",
        "pydicom",
        "nibabel",
        "jsonargparse",
    )
    code = f"import sys\ntry:\n    {line}\nexcept SystemExit:\n    pass\nprint(*[m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_help_imports_nothing_heavy():
    assert heavy_after("from mmvae.cli import main; main(['--help'])") == []
    assert "torch" in heavy_after("import mmvae.latent.gaussian")


def test_help_says_what_it_is_not_and_the_version_is_printed():
    done = subprocess.run([BIN, "--help"], capture_output=True, text=True, check=True)
    assert "not a medical device" in " ".join(done.stdout.split())
    said = subprocess.run([BIN, "--version"], capture_output=True, text=True, check=True).stdout
    assert said == f"mmvae {mmvae.__version__}\n"


def test_modalities_lists_all_and_imports_no_plugin():
    code = "import sys; from mmvae.cli import main; main(['modalities']); print([m for m in sys.modules if m.startswith('mmvae_')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *listed, imported = done.stdout.strip().splitlines()
    assert {line.split()[0] for line in listed} >= {
        "t1",
        "t2",
        "flair",
        "dwi",
        "contrast",
        "report",
        "clinical",
        "terms",
    }
    assert imported == "[]"


def run(*arguments):
    """A run from embed to search, in one process."""
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def archive(trained, phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    assert (
        run("embed", "--checkpoint", trained, "--cohort", phantom, "--out", folder / "e", "--as", "parquet")
        == 0
    )
    assert run("index", "build", folder / "e", "--out", folder / "i") == 0
    return folder


def test_search_prints_json_that_scripts_rely_on(archive, phantom, capsys):
    case = Cohort.load(phantom).cases[0]
    capsys.readouterr()
    assert run("search", "--index", archive / "i", "--case", case.case_id, "-k", 3, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["neighbours"]) == 3
    assert set(found["neighbours"][0]) == {
        "case_id",
        "distance",
        "labels",
        "label_source",
        "terms",
        "missing",
    }


def test_a_k_beyond_the_archive_shows_all_and_says_so(archive, phantom, capsys):
    case = Cohort.load(phantom).cases[0].case_id
    assert run("search", "--index", archive / "i", "--case", case, "-k", 500, "--json") == 0
    out, err = capsys.readouterr()
    assert "-k 500 is more than the" in err
    assert len(json.loads(out)["neighbours"]) <= 39


def test_index_info_add_and_remove(archive, phantom, capsys):
    case = Cohort.load(phantom).cases[5].case_id
    assert run("index", "info", "--index", archive / "i") == 0
    assert json.loads(capsys.readouterr().out)["cases"] == 40
    assert run("index", "remove", case, "--index", archive / "i") == 0
    assert run("search", "--index", archive / "i", "--case", case, "--cohort", phantom, "-k", 2) == 0
    assert run("index", "remove", case, "--index", archive / "i") == 1


def test_parquet_stands_beside_and_holds_the_means(archive):
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(archive / "e" / "embedding.parquet")
    assert table.num_rows == 40
    assert "posterior_mean" in table.column_names


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["search", "--index", "nowhere", "--case", "x"], 1, "is not an index"),
        (["embed", "--checkpoint", "no.ckpt", "--cohort", "x", "--out", "y"], 1, "there is no checkpoint"),
        (["index", "build", "x", "--out", "y"], 1, "is not an embedding"),
        (
            ["fit", "--model.modalities.t9=T9", "--data.cohort", "x"],
            1,
            "Installed modalities: clinical (Clinical)",
        ),
        (["fit", "--data.cohort", "nowhere", "--model.modalities.t2=T2"], 1, "is not a cohort"),
    ],
)
def test_refusals_are_one_line_with_their_status(arguments, status, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a fit without a folder makes one where it stands
    assert main(arguments) == status
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_a_query_with_nothing_usable_ends_with_5(archive, phantom):
    cohort = Cohort.load(phantom)
    case = next(c for c in cohort.cases if not any(a.kind == "contrast" for a in c.assets))
    assert (
        run(
            "search",
            "--index",
            archive / "i",
            "--case",
            case.case_id,
            "--cohort",
            phantom,
            "--using",
            "contrast",
        )
        == 5
    )


def test_usage_ends_with_2():
    with pytest.raises(SystemExit) as stop:
        main(["search"])
    assert stop.value.code == 2


def test_show_writes_a_page_with_each_role_decoded(trained, phantom, tmp_path, capsys):
    case = Cohort.load(phantom).split("test")[0].case_id
    assert run("show", case, "--cohort", phantom, "--checkpoint", trained, "--out", tmp_path / "s.html") == 0
    page = (tmp_path / "s.html").read_text()
    assert page.count("data:image/png") >= 4
    assert "nats" in page
    assert "not a medical device" in page
    assert run("show", case, "--cohort", phantom, "--out", tmp_path / "bare.html") == 0


def test_print_config_and_several_configs_compose(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(
        "model: {latent_dim: 7, modalities: {clinical: Clinical}}\ndata: {cohort: x}\n"
    )
    (tmp_path / "b.yaml").write_text("trainer: {max_epochs: 3}\n")
    assert (
        main(["fit", "-c", str(tmp_path / "a.yaml"), "-c", str(tmp_path / "b.yaml"), "--print_config"]) == 0
    )
    shown = capsys.readouterr().out
    assert "latent_dim: 7" in shown
    assert "max_epochs: 3" in shown


def test_the_run_folder_holds_the_resolved_yaml(trained):
    assert "latent_dim: 8" in (trained.parent / "config.yaml").read_text()


def test_wandb_on_real_patients_is_refused_unless_asked(phantom, tmp_path, capsys):
    import shutil

    shutil.copytree(phantom, tmp_path / "real", ignore=shutil.ignore_patterns(".cache"))
    card = json.loads((tmp_path / "real" / "card.json").read_text())
    (tmp_path / "real" / "card.json").write_text(json.dumps({**card, "source": "nifti"}))
    status = main(["fit", "--model.modalities.clinical=Clinical", "--data.cohort", str(tmp_path / "real"), "--trainer.logger=WandbLogger",
                   "--trainer.logger.save_dir", str(tmp_path), "--trainer.max_epochs=1", "--trainer.default_root_dir", str(tmp_path / "r")])  # fmt: skip
    assert status == 1
    assert "real patients" in capsys.readouterr().err


def test_a_new_modality_passes_conformance_as_it_stands(tmp_path):
    assert main(["new-modality", "pulse_wave", "--out", str(tmp_path / "plugin")]) == 0
    target = tmp_path / "site"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "--target",
            target,
            tmp_path / "plugin",
        ],
        check=True,
        capture_output=True,
    )
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "plugin" / "tests")],
                          env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{len(CHECKS)} passed" in done.stdout
    assert main(["new-modality", "Bad Name", "--out", str(tmp_path / "x")]) == 1


@pytest.fixture
def made(trained, phantom, tmp_path) -> dict[str, list[str]]:
    """The commands that write a folder, each with all that it needs."""
    assert (
        main(["embed", "--checkpoint", str(trained), "--cohort", str(phantom), "--out", str(tmp_path / "e")])
        == 0
    )
    both = ["--checkpoint", str(trained), "--cohort", str(phantom)]
    return {
        "embed": ["embed", *both, "--out", str(tmp_path / "embed")],
        "index": ["index", "build", str(tmp_path / "e"), "--out", str(tmp_path / "index")],
        "evaluate": ["evaluate", *both, "--out", str(tmp_path / "evaluate")],
    }


@pytest.mark.parametrize("command", ["embed", "index", "evaluate"])
def test_no_room_left_is_one_line_and_leaves_nothing(made, command, tmp_path, capsys):
    """The kernel itself refuses to let a file grow beyond 4 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = sorted(os.listdir(tmp_path))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        status = main(made[command])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert re.search("File too large|full|disk I/O error", error[-1])
    assert sorted(os.listdir(tmp_path)) == before
    assert main(made[command]) == 0  # with room it works


@pytest.mark.parametrize("command", ["embed", "index", "evaluate"])
def test_ctrl_c_ends_with_130_and_leaves_nothing(made, command, tmp_path, monkeypatch):
    before = sorted(os.listdir(tmp_path))
    place = {
        "embed": "mmvae.retrieval.embedding.shutil.copyfile",
        "index": "mmvae.retrieval.index.shutil.copyfile",
        "evaluate": "mmvae.evaluation.report.subset_curve",
    }

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(place[command], stop)
    assert main(made[command]) == 130
    assert sorted(os.listdir(tmp_path)) == before
