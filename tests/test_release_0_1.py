"""What release 0.1 wrote keeps loading: a cohort, a checkpoint, an embedding and an index of it lie in tests/fixtures."""

import json
import sqlite3

import numpy as np
import pytest

from mmvae.cli import main
from mmvae.cohort import Cohort
from mmvae.errors import InputError
from mmvae.latent.fusion import TemperedPoE
from mmvae.latent.objective import ELBO
from mmvae.model import MMVAE
from mmvae.retrieval.embed import embed
from mmvae.retrieval.embedding import Embedding
from mmvae.retrieval.index import Index


def test_the_cohort_loads_with_its_record_relevance_and_splits(release_0_1):
    cohort = Cohort.load(release_0_1 / "cohort")
    lines = [json.loads(line) for line in (release_0_1 / "cohort" / "cases.jsonl").read_text().splitlines()]
    assert [dict(case.record) for case in cohort.cases] == [line["record"] for line in lines]
    assert [list(case.terms) for case in cohort.cases] == [line["terms"] for line in lines]
    assert cohort.card.relevance[0].same == ("histology",)
    assert cohort.card.fields["menopause"].values == ("post", "pre")
    assert len(cohort.split("train")) == 8


def test_the_checkpoint_is_the_same_model(release_0_1):
    model = MMVAE.load_from_checkpoint(release_0_1 / "model.ckpt")
    assert model.rule == TemperedPoE() and model.objective == ELBO(beta=0.5)
    assert model.space.readout.exponent == 1.5 and model.space.distance == "cosine"
    embedding, cohort = Embedding.load(release_0_1 / "embedding"), Cohort.load(release_0_1 / "cohort")
    experts = embed(model, cohort, cohort.cases)
    np.testing.assert_array_equal(experts.present, embedding.experts.present)
    np.testing.assert_allclose(experts.mean, embedding.experts.mean, atol=1e-6)
    points = experts.points(model.space, experts.having(experts.query_roles))
    np.testing.assert_allclose(points, embedding.points, atol=1e-6)


def test_a_run_of_it_is_resumed_and_another_objective_refused(release_0_1, monkeypatch):
    monkeypatch.chdir(release_0_1)
    more = ["--ckpt_path", "model.ckpt", "--trainer.max_epochs", "3", "--trainer.default_root_dir", "run"]
    assert main(["fit", "-c", "fit.yaml", *more]) == 0
    assert (release_0_1 / "run" / "last.ckpt").is_file()
    assert main(["fit", "-c", "fit.yaml", *more, "--model.objective.init_args.beta", "0.7"]) == 1


def test_the_index_answers_as_it_did(release_0_1, capsys):
    answers = json.loads((release_0_1 / "answers.json").read_text())
    for key, before in answers.items():
        case_id, archive = key.split("/")
        command = [
            "search",
            "--index",
            release_0_1 / "index",
            "--case",
            case_id,
            "-k",
            5,
            "--archive",
            archive,
            "--json",
        ]
        assert main([str(word) for word in command]) == 0
        now = json.loads(capsys.readouterr().out)
        for neighbour, earlier in zip(now["neighbours"], before["neighbours"], strict=True):
            assert neighbour.pop("distance") == pytest.approx(earlier.pop("distance"), abs=1e-6)
            assert neighbour == earlier
        assert now["using"] == before["using"]


def test_learned_powers_serve_every_subset_of_the_roles(release_0_1, capsys):
    """Release 0.1 handed powers of all roles to experts of some, and ended in a traceback."""
    case_id = Index.open(release_0_1 / "index").snapshot().facts[0].case_id
    command = ["search", "--index", release_0_1 / "index", "--case", case_id, "--using", "clinical", "--json"]
    assert main([str(word) for word in command]) == 0
    assert len(json.loads(capsys.readouterr().out)["neighbours"]) == 10


def test_it_takes_new_cases_once_it_is_migrated(release_0_1, capsys):
    cohort, index = release_0_1 / "cohort", release_0_1 / "index"
    assert main(["embed", "--checkpoint", str(release_0_1 / "model.ckpt"), "--cohort", str(cohort), "--out", str(release_0_1 / "new")]) == 0  # fmt: skip
    before = Index.open(index).snapshot()
    Index.open(index).remove([before.facts[3].case_id])
    with pytest.raises(InputError, match="after `mmvae migrate`"):
        Index.open(index).add(Embedding.load(release_0_1 / "new"))
    assert main(["migrate", str(index)]) == 0
    assert main(["migrate", str(release_0_1 / "embedding")]) == 0
    capsys.readouterr()
    assert main(["migrate", str(index)]) == 0
    assert "nothing to migrate" in capsys.readouterr().out
    with pytest.raises(InputError, match="already holds case"):  # the fingerprint is no longer in the way
        Index.open(index).add(Embedding.load(release_0_1 / "new"))
    with pytest.raises(InputError, match="already holds case"):
        Index.open(index).add(Embedding.load(release_0_1 / "embedding"))
    after = Index.open(index).snapshot()
    np.testing.assert_array_equal(after.points_of_all, np.delete(before.points_of_all, 3, 0))


def test_a_checkpoint_of_another_model_is_not_taken_for_the_index_s(release_0_1):
    index = Index.open(release_0_1 / "index")
    with sqlite3.connect(index.root / "index.sqlite") as db:
        meta = json.loads(db.execute("SELECT value FROM meta WHERE key = 'fusion'").fetchone()[0])
        meta["init_args"]["exponent"] = 2.0
        db.execute("UPDATE meta SET value = ? WHERE key = 'fusion'", (json.dumps(meta),))
    db.close()
    assert main(["migrate", str(index.root)]) == 1


def test_what_is_nothing_of_ours_is_refused(tmp_path):
    (tmp_path / "x").write_text("")
    assert main(["migrate", str(tmp_path / "x")]) == 1


def test_cohort_and_vault_of_it_take_a_new_key(release_0_1):
    before = Cohort.load(release_0_1 / "cohort")
    assert main(["rekey", "--cohort", str(release_0_1 / "cohort")]) == 0
    after = Cohort.load(release_0_1 / "cohort")
    assert len(after.cases) == 16 and not {c.case_id for c in after.cases} & {c.case_id for c in before.cases}
