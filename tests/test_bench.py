"""The suite: the smallest grid end to end, resumed after a kill, re-run from a row; thinned cohorts; the report's arithmetic."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks import benches, joined, polymnist, resolve, speed, twins
from benchmarks.__main__ import main
from benchmarks.baseline import knn
from benchmarks.benches import BENCHES
from benchmarks.cell import Cell, series_of, thinned
from benchmarks.curves import pooled
from benchmarks.report import write
from benchmarks.sections import ratio_interval
from benchmarks.suite import Suite, claimed
from benchmarks.table import markdown
from benchmarks.units import GROUP, load, save
from mmvae.cli import main as mmvae
from mmvae.cohort import Cohort
from mmvae.latent.fusion import Hellinger, MomentMatched
from mmvae.latent.gaussian import Gaussian, Posterior
from mmvae.latent.objective import ELBO, Alignment, Sum
from mmvae.metrics.estimates import PerPatient
from mmvae.metrics.scores import Scores
from mmvae.model import MMVAE
from mmvae.phantom.cohort import write_phantom_cohort

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "benchmarks" / "suites" / "smoke.yaml"
WANTED = {"cell", "config", "seed", "versions", "hardware", "threads", "splits", "phantom", "supervision", "weights", "metrics",
          "samples_per_second", "seconds", "validation_mAP"}  # fmt: skip


@pytest.fixture(scope="module")
def work(phantom, tmp_path_factory):
    """A work folder whose cohort is the small phantom, with the smoke grid run."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "cohort-phantom-1-24-6-10").symlink_to(phantom)  # the small phantom that other tests have made
    assert main(["run", str(SMOKE), "--work", str(folder), "--results", str(folder / "smoke")]) == 0
    return folder


def rows_of(work):
    return [json.loads(line) for line in (work / "smoke.jsonl").read_text().splitlines()]


def test_a_grid_leaves_one_full_row_a_run_with_as_many_trials_for_each_rule(work):
    rows = rows_of(work)
    assert all(set(row) >= WANTED for row in rows)
    suite = Suite.read(SMOKE)
    assert [row["part"] for row in rows].count("grid") == len(suite.cells) == 5
    fusions = [row["config"]["fusion"]["class_path"] for row in rows if row["part"] == "tuning"]
    assert {f: fusions.count(f) for f in fusions} == dict.fromkeys(fusions, 2)
    for row in rows:
        assert row["phantom"] and row["weights"]["terms"] == 3000
        assert 0 <= row["metrics"]["group/images"]["mAP"]["value"] <= 1


def test_what_is_there_is_not_run_again_and_a_dead_process_claims_nothing(work, capsys):
    units = sorted((work / "units").glob("*.json"))
    stamps = {path: path.stat().st_mtime_ns for path in units}
    gone = next(path for path in units if "MoE" in path.name and "lr" not in path.name)
    before = load(gone)
    gone.unlink()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone.with_suffix(".claim").write_text(str(dead.pid))
    assert main(["run", str(SMOKE), "--work", str(work)]) == 0
    assert all(path.stat().st_mtime_ns == stamps[path] for path in units if path != gone)
    after = load(gone)
    for key, row in before[0].items():
        np.testing.assert_array_equal(
            row.value.table, after[0][key].value.table
        )  # the same seed, the same run


def test_a_unit_file_of_an_earlier_release_loads_and_is_saved_as_it_was(tmp_path):
    content = {
        "rows": {GROUP: {"patients": ["p1", "p2"], "value": [[1.0, 0.2, 0.1, 0.5, 0.25], [0.0, 0.0, 0.0, float("nan"), 1.0]],
                         "chance": [[0.1] * 5, [0.2] * 5]}},
        "validation_mAP": 0.4, "seconds": 3.5,
    }  # fmt: skip
    (tmp_path / "old.json").write_text(json.dumps(content))
    rows, extra = load(tmp_path / "old.json")
    assert rows[GROUP].patients == ("p1", "p2")
    assert rows[GROUP].value["nDCG@10"].tolist() == [0.25, 1.0]
    assert extra == {"validation_mAP": 0.4, "seconds": 3.5}
    save(tmp_path / "new.json", rows, extra)
    assert (tmp_path / "new.json").read_bytes() == (tmp_path / "old.json").read_bytes()


def test_a_unit_that_another_process_makes_is_left_to_it(tmp_path):
    path = tmp_path / "units" / "x.json"
    path.parent.mkdir()
    path.with_suffix(".claim").write_text(str(os.getppid()))
    with claimed(path) as mine:
        assert not mine
    path.with_suffix(".claim").unlink()
    with claimed(path) as mine, claimed(path) as again:
        assert mine and not again
    assert not path.with_suffix(".claim").exists()


def test_a_cell_runs_again_from_its_row(work, tmp_path, capsys):
    name = "cohort-phantom-1-24-6-10"
    (tmp_path / name).symlink_to((work / name).resolve())
    rows = rows_of(work)
    line = next(n for n, row in enumerate(rows, 1) if row["part"] == "grid")
    assert main(["rerun", f"{work / 'smoke.jsonl'}:{line}", "--work", str(tmp_path)]) == 0
    value = rows[line - 1]["metrics"]["group/images"]["mAP"]["value"]
    printed = capsys.readouterr().out
    assert f"group/images: row {value}" in printed
    assert f"now {value}" in printed


def test_the_report_says_first_what_is_missed_and_refreshes_the_readme_between_its_markers(work, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("above\n<!-- mmvae-bench: begin -->\nold\n<!-- mmvae-bench: end -->\nbelow\n")
    write(work, tmp_path / "results", readme)
    text = (tmp_path / "results" / "report.md").read_text()
    assert text.splitlines()[2].startswith(("Bars missed:", "No bar that was measured"))
    assert "| cell | trainings |" in text
    page = (tmp_path / "results" / "report.html").read_text()
    assert "<table>" in page and "data:image/png;base64," in page
    written = readme.read_text()
    assert written.startswith("above\n") and written.endswith("below\n") and "old" not in written
    assert "| visibility |" in written


def test_a_bar_missed_on_another_phantom_is_named_first(work, tmp_path):
    value = lambda v: {"value": v, "low": v, "high": v, "chance": 0.1, "n": 9}  # noqa: E731
    row = lambda name, v: {"row": name, "seeds": 1, "metrics": {GROUP: {"mAP": value(v), "P@5": value(v)}}}  # noqa: E731
    rows = [row("ours, report+findings", 0.4), row("ours, labels", 0.5), row("supervised ceiling", 0.5)]
    (tmp_path / "headline-7.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))
    write(work, tmp_path, None)
    text = (tmp_path / "report.md").read_text()
    missed, met = text.split("Bars met:")
    assert "phantom of seed 7, images, report+findings, at least 0.90 of the ceiling's mAP: 0.800" in missed
    assert "phantom of seed 7, images, labels, at least 0.95 of the ceiling's mAP: 1.000" in met
    assert "## The same on a phantom of seed 7" in met


def test_a_thinned_cohort_lacks_so_many_training_series_and_leaves_the_others_whole(phantom, tmp_path):
    before = Cohort.load(phantom)
    for incomplete in ("kept", "discarded"):
        after = Cohort.load(thinned(phantom, 0.5, incomplete, tmp_path))
        training, count = set(before.splits.fold(None).train), {"before": 0, "after": 0}
        for a, b in zip(before.cases, after.cases):
            if a.patient not in training:
                assert a.assets == b.assets
                continue
            volumes = [sum(series_of(x) is not None for x in case.assets) for case in (a, b)]
            assert volumes[1] >= 1
            count["before"], count["after"] = count["before"] + volumes[0], count["after"] + volumes[1]
        assert 0.35 < count["after"] / count["before"] < 0.65
        kept = after.splits.fold(None).train
        assert len(kept) == len(training) if incomplete == "kept" else len(kept) < len(training)
        assert after.splits.fold(None).test == before.splits.fold(None).test


def test_names_in_a_suite_are_what_fit_would_make():
    assert resolve.fusion("Hellinger") == Hellinger()
    assert resolve.fusion({"class_path": "mmvae.latent.fusion.MomentMatched"}) == MomentMatched(Hellinger())
    both = {"class_path": "Sum", "init_args": {"terms": ["ELBO", {"class_path": "Alignment", "init_args": {"weight": 3.0}}]}}  # fmt: skip
    assert resolve.objective(both) == Sum((ELBO(), Alignment(3.0)))
    assert resolve.short(both, "objective") == "Sum(terms=ELBO + Alignment(weight=3.0))"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"cohort": "brats"}, "cohort 'brats': expected one of"),
        ({"visibility": "all"}, "visibility 'all': expected one of"),
        ({"supervision": "love"}, "supervision 'love': phantom has"),
        ({"fuson": "PoE"}, "a cell has no \\['fuson'\\]"),
    ],
)
def test_an_unknown_name_is_refused_with_what_there_is(cell, message):
    with pytest.raises(ValueError, match=message):
        Cell.of(cell)


def test_every_suite_reads_and_no_two_cells_share_a_file():
    for path in (ROOT / "benchmarks" / "suites").glob("*.yaml"):
        ids = [cell.id for cell in Suite.read(path).cells]
        assert len(ids) == len(set(ids)) > 0


def test_a_table_in_which_nothing_is_relevant_says_undefined_and_sorts_by_map():
    estimate = lambda v: {"value": v, "low": v, "high": v, "chance": v, "n": 9 if v else 0}  # noqa: E731

    def line(name, v):
        return {"row": name, "seeds": 1, "metrics": {GROUP: {"mAP": estimate(v), "P@5": estimate(v)}}}

    rows = [line("ours, labels", 0.5), line("ours, report+findings", None), line("supervised ceiling", None)]
    text = markdown(rows)
    assert "| ours, report+findings | 1 | undefined | undefined |" in text
    assert text.index("supervised ceiling") < text.index("| ours, labels | 1 | 0.500 (0.500–0.500) |")
    rows[2] = line("supervised ceiling", 0.4)
    assert markdown(rows).startswith("Of the ceiling: ours, labels 1.25.\n")


def test_pooling_and_ratios_by_loops():
    rng = np.random.default_rng(0)
    a = PerPatient(("x", "y"), Scores(rng.random((2, 5))), Scores(rng.random((2, 5))))
    b = PerPatient(("y", "z"), Scores(rng.random((2, 5))), Scores(rng.random((2, 5))))
    both = pooled([a, b])
    assert both.patients == ("x", "y", "z")
    first, second = a.value.table, b.value.table
    np.testing.assert_allclose(both.value.table, [first[0], (first[1] + second[0]) / 2, second[1]])
    ratio, low, high = ratio_interval(a, b)
    assert ratio == pytest.approx(first[1, 3] / second[0, 3])
    assert low == pytest.approx(high) == pytest.approx(ratio)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Sixty made-up gliomas in the layout of glioma_radiomics, scanned by the experiment's own MAP."""
    folder, rng = tmp_path_factory.mktemp("tables"), np.random.default_rng(0)
    (folder / "source").mkdir()
    views = ("T1", "T1Gd", "T2", "FLAIR")
    names = [f"HISTO_ET_{v}_Bin{n}" for v in views for n in range(3)] + [f"INTENSITY_{v}" for v in views]
    lines = [",".join(["ID", "cohort", "Date", *names])]
    for n in range(60):
        grade = n % 2
        cells = [f"{x + 2 * grade:.4f}" for x in rng.normal(size=len(names))]
        cells[n % len(names)] = ("", "inf", "#DIV/0!")[n % 3]
        lines.append(",".join([f"TCGA-{n:02d}", ("GBM", "LGG")[grade], f"1999.0{n % 9 + 1}.12", *cells]))
    (folder / "source" / "radiomics.csv").write_text("\n".join(lines) + "\n")
    assert mmvae(["scan", str(folder / "source"), "--map", str(ROOT / "experiments/glioma_radiomics/map.yaml"), "--records",
                  str(folder / "source" / "radiomics.csv"), "--folds", "5", "--jobs", "1", "--out", str(folder / "cohort")]) == 0  # fmt: skip
    return folder / "cohort"


def test_tables_become_views_without_dates_and_both_model_and_neighbours_find_a_planted_class(
    tables, tmp_path, monkeypatch
):
    cohort = Cohort.load(tables)
    assert len(cohort.cases) == 60 and "Date" not in cohort.card.fields
    assert "1999" not in (tables / "card.json").read_text()
    assert sum(len(case.record) for case in cohort.cases) == 60 * 16 - 60
    bench = BENCHES["glioma_radiomics"]
    monkeypatch.setattr(benches.Bench, "cohort", lambda self, work, seed, sizes=(): tables)
    rows, chosen = knn(cohort, bench)
    assert np.nanmean(rows["cohort|best"].value.mAP) > 0.9  # chance is about .5
    assert len(chosen["chosen"]["cohort"]) == 5
    cell = Cell(cohort="glioma_radiomics", supervision="none", epochs=10)
    rows, extra = cell.run(tmp_path)
    assert np.nanmean(rows["group/images"].value.mAP) > 0.8
    assert len(rows["group/images"].patients) == 60 and extra["supervision"] == "none"


def test_a_digit_s_picture_is_the_texture_where_there_is_no_ink_and_its_inverse_under_it():
    rng = np.random.default_rng(3)
    texture = rng.random((40, 50, 3))
    ink = np.zeros((28, 28))
    ink[5:9, 7:20] = 1.0
    composed = polymnist.compose(ink, texture, np.random.default_rng(0))
    whole = polymnist.compose(np.zeros((28, 28)), texture, np.random.default_rng(0))
    places = [
        (i, j) for i in range(13) for j in range(23) if np.array_equal(texture[i : i + 28, j : j + 28], whole)
    ]
    assert len(places) == 1  # one patch of the texture, as it is
    for i in range(28):
        for j in range(28):
            wanted = 1 - whole[i, j] if ink[i, j] else whole[i, j]
            np.testing.assert_allclose(composed[i, j], wanted)


def test_importance_samples_give_the_known_evidence_of_a_linear_gaussian_model():
    # x = z + e, both standard normal in each of 3 dimensions: p(x) = N(0, 2); the exact posterior N(x/2, 1/2) needs one draw.
    x = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.0, -0.5]], dtype=torch.float64)
    score = lambda z: stats.norm.logpdf(x.numpy(), z.numpy()).sum(-1)  # noqa: E731
    evidence = stats.norm.logpdf(x.numpy(), 0, np.sqrt(2)).sum(-1)
    one = torch.zeros(2, 1, dtype=torch.float64)
    exact = Posterior(Gaussian(x[:, None] / 2, torch.full_like(x[:, None], np.log(0.5))), one)
    found = polymnist.log_likelihood(exact, lambda z: torch.from_numpy(score(z)), draws=1)
    np.testing.assert_allclose(found, evidence, atol=1e-9)
    # A mixture of two wide components that miss the middle: many draws come near from below, few stay below.
    apart = torch.stack([x / 2 - 0.5, x / 2 + 0.5], 1)
    mixture = Posterior(
        Gaussian(apart, torch.zeros_like(apart)), torch.full_like(one, np.log(0.5)).expand(2, 2)
    )
    torch.manual_seed(0)
    many = polymnist.log_likelihood(mixture, lambda z: torch.from_numpy(score(z)), draws=4000)
    np.testing.assert_allclose(many, evidence, atol=0.06)


def test_five_views_of_a_digit_are_trained_and_judged(tmp_path, real_data):
    cell = Cell(cohort="polymnist", sizes=(40, 20, 20), supervision="none", epochs=1, visibility="classical")
    rows, extra = cell.run(tmp_path)
    measured = extra["measured"]
    assert set(measured["coherence by inputs"]) == set("1234")
    assert set(measured["linear classification by inputs"]) == set("12345")
    assert measured[f"log-likelihood, {polymnist.DRAWS} importance samples"] < 0
    assert 0 <= measured["joint coherence"] <= 1
    cohort = Cohort.load(tmp_path / "cohort-polymnist-1-40-20-20")
    pixels = np.load(cohort.root / polymnist.PIXELS)
    assert pixels.shape == (80, 5, 28, 28, 3)
    assert len({case.labels["digit"] for case in cohort.cases}) == 10
    assert "group/images" in rows


def test_the_joined_table_has_a_patient_s_features_from_both_files_and_none_where_one_lacks_them(tmp_path):
    (tmp_path / "glioma_radiomics").mkdir()
    (tmp_path / "tcga_lgg_mri").mkdir()
    (tmp_path / "glioma_radiomics" / "radiomics.csv").write_text(
        "ID,cohort,Date,VOLUME_ET,TEXTURE_ET_T1_Mean,TEXTURE_ET_T1Gd_Mean\nTCGA-AA-0001,LGG,1999.01.01,5,1.5,#DIV/0!\nTCGA-BB-0002,GBM,1999.01.01,6,2.5,3\n"
    )
    (tmp_path / "tcga_lgg_mri" / "clinical.csv").write_text(
        "patient,gender\nTCGA_AA_0001,1\nTCGA_CC_0003,2\n"
    )
    both = joined.write_source(tmp_path, ROOT / "experiments" / "tcga_lgg" / "map.yaml", tmp_path / "joined")
    assert both == 1
    lines = (tmp_path / "joined" / "table.csv").read_text().split()
    assert lines[0] == "patient,gender,TEXTURE_ET_T1_Mean,TEXTURE_ET_T1Gd_Mean"
    assert lines[1:] == ["TCGA_AA_0001,1,1.5,#DIV/0!", "TCGA_CC_0003,2,,"]


def test_a_second_draw_of_folds_keeps_the_pseudonyms(tables, tmp_path, monkeypatch):
    monkeypatch.setenv("MMVAE_DATA", str(tmp_path))
    (tmp_path / "cohort-glioma_radiomics-1").symlink_to(tables)
    first, second = (Cohort.load(BENCHES["glioma_radiomics"].cohort(tmp_path, seed)) for seed in (1, 2))
    assert [case.patient for case in first.cases] == [case.patient for case in second.cases]
    assert first.splits.sha256 != second.splits.sha256
    assert {p for fold in second.splits.folds for p in fold.test} == {case.patient for case in first.cases}


def test_lists_correlate_without_the_patient_herself_and_only_where_both_rank():
    a = np.array([0.0, 0.1, 0.2, 0.3, 0.4, np.inf])
    b = np.array([0.9, 0.1, 0.2, 0.4, 0.3, 0.0])
    ranks_a, ranks_b = np.array([1, 2, 3, 4]), np.array([1, 2, 4, 3])  # cases 1 to 4
    by_hand = 1 - 6 * ((ranks_a - ranks_b) ** 2).sum() / (4 * 15)
    assert twins.correlation(a, b, own=0) == pytest.approx(by_hand)


def test_twins_are_the_test_patients_on_other_scanners_and_agree_with_themselves(phantom, trained, tmp_path):
    cohort = Cohort.load(phantom)
    sizes = tuple(len(getattr(cohort.splits.fold(None), n)) for n in ("train", "validation", "test"))
    again = twins.write_twins(cohort, sizes, cohort.splits.seed, tmp_path / "twins")
    assert {case.patient for case in again.cases} == {case.patient for case in cohort.split("test")}
    first, second = cohort.split("test")[0], again.cases[0]
    assert (first.patient, first.terms, first.labels) == (second.patient, second.terms, second.labels)
    assert first.assets[0].sha256 != second.assets[0].sha256  # scanned anew
    found = twins.agreement(MMVAE.load_from_checkpoint(trained), cohort, again)
    itself = twins.agreement(MMVAE.load_from_checkpoint(trained), cohort, cohort)
    assert itself["rank correlation with the twin's list"]["value"] == pytest.approx(1)
    assert found["rank correlation with the twin's list"]["value"] < 1


def test_operations_of_a_step_are_counted_forward_and_backward():
    """By hand: two operations a multiplication, forward and again for the gradient of the weights."""
    layer, x = torch.nn.Linear(7, 11, bias=False), torch.randn(5, 7)
    assert speed.operations(lambda: layer(x).sum().backward()) == 2 * (2 * 5 * 7 * 11)
    layer, x = torch.nn.Conv3d(3, 5, 3, padding=1), torch.randn(2, 3, 4, 6, 8)
    assert speed.operations(lambda: layer(x).sum().backward()) == 2 * (2 * 2 * 5 * 4 * 6 * 8 * 3 * 27)


class OneLayer(torch.nn.Module):
    """A model whose step takes 2 · 5 · 7 · 11 operations forward and as many for the gradient of its weights."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(7, 11, bias=False)

    def bound(self, batch):
        return SimpleNamespace(loss=self.layer(batch).sum())


@pytest.mark.parametrize("share", [0.37, 0.8])
def test_a_steps_share_is_its_operations_by_hand_over_its_time_and_the_rate_of_a_matrix_product(
    monkeypatch, share
):
    by_hand, rate = (
        2 * (2 * 5 * 7 * 11),
        2 * 1024**3 / 0.5,
    )  # a product of 1,024 rows and columns in half a second
    seconds = {"step": by_hand / rate / share, "product": 0.5}
    clock = lambda tasks, rounds: {name: [seconds[task.__name__]] * rounds for name, task in tasks.items()}  # noqa: E731
    monkeypatch.setattr(speed, "interleaved", clock)
    monkeypatch.setattr(speed, "built", lambda *_: OneLayer())
    monkeypatch.setattr(speed, "whole_batch", lambda *_: torch.randn(5, 7))
    measured = speed.share_of_the_machine(None, "2 cores", 3, torch.device("cpu"), None, False)
    assert measured["share"] == pytest.approx(share, abs=1e-4)
    assert measured["matrix rate, TFLOP/s"] == pytest.approx(rate / 1e12, abs=1e-3)


def test_a_step_on_twice_as_many_cases_takes_twice_the_operations(tmp_path):
    write_phantom_cohort(6, 1, tmp_path / "cohort", (4, 1, 1), jobs=1)
    cohort = Cohort.load(tmp_path / "cohort")
    model = speed.built(cohort, "PoE")
    batches = [speed.whole_batch(cohort, model, size) for size in (2, 4)]
    counts = [
        speed.operations(speed.stepper(model, lambda b=batch: model.bound(b).loss, None)) for batch in batches
    ]
    assert counts[1] == 2 * counts[0] > 0
