"""Search: the formula by nested loops, filters first, own patient and answers left out, and one moment of the index."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmvae.cohort import Cohort
from mmvae.errors import EmptyQuery, InputError
from mmvae.latent.fusion import MoE, PoE
from mmvae.latent.space import Readout, RetrievalSpace
from mmvae.model import MMVAE
from mmvae.retrieval.embedding import Embedding, write_embedding
from mmvae.retrieval.filter import parse_where
from mmvae.retrieval.index import Index
from mmvae.retrieval.query import Query, query_from_archive, query_from_cohort, query_from_folder
from mmvae.retrieval.search import search


def spaces():
    rng = np.random.default_rng(4)
    matrix, offset = tuple(map(tuple, rng.normal(size=(5, 8)).tolist())), tuple(rng.normal(size=5).tolist())
    return {
        "as it is": RetrievalSpace(PoE()),
        "by distance": RetrievalSpace(PoE(), distance="euclidean"),
        "through a readout": RetrievalSpace(PoE(), readout=Readout(matrix, offset)),
        "through a raised readout": RetrievalSpace(PoE(), readout=Readout(matrix, offset, 1.5)),
    }


@pytest.fixture(params=spaces())
def seen_through(request, embedding, tmp_path):
    """The embedding in a space of its own, and the index of it."""
    provenance = replace(embedding.provenance, space=spaces()[request.param])
    write_embedding(
        tmp_path / "e", provenance, embedding.experts, embedding.facts, embedding.root / "model.ckpt"
    )
    return Index.build(Embedding.load(tmp_path / "e"), tmp_path / "index").snapshot()


def point_by_loops(experts, n, using, readout):
    """The product of the prior and of the experts that case n has, coordinate by coordinate in float64."""
    dimensions = experts.mean.shape[2]
    precision, weighted, count = np.ones(dimensions), np.zeros(dimensions), 0
    for m, role in enumerate(experts.roles):
        if role in using and experts.present[n, m]:
            p = np.exp(-experts.logvar[n, m].astype(float))
            precision, weighted, count = precision + p, weighted + p * experts.mean[n, m], count + 1
    z = weighted / precision
    if readout is not None:
        u = np.array(readout.matrix) @ z + np.array(readout.offset)
        z = np.sign(u) * abs(u) ** readout.exponent
    return z if count else None


def distance_by_loops(a, b, metric):
    return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) if metric == "cosine" else np.linalg.norm(a - b)


def test_matched_search_is_the_formula_by_nested_loops(seen_through, embedding):
    archive, experts = seen_through, embedding.experts
    query = query_from_archive(archive, experts.case_ids[0])
    using = [
        r for r, here in zip(experts.roles, experts.present[0]) if here and r not in experts.answer_roles
    ]
    result = search(archive, query, k=5)
    assert sorted(result.using) == sorted(using)
    readout, metric = archive.space.readout, archive.space.distance
    q, distances = point_by_loops(experts, 0, using, readout), {}
    for n in range(1, len(experts.case_ids)):
        a = point_by_loops(experts, n, using, readout)
        if a is not None:
            distances[experts.case_ids[n]] = distance_by_loops(q, a, metric)
    oracle = sorted(distances, key=distances.get)[:5]
    assert [n.case_id for n in result.neighbours] == oracle
    np.testing.assert_allclose(
        [n.distance for n in result.neighbours], [distances[c] for c in oracle], atol=1e-5
    )


def test_a_query_s_own_patient_is_never_a_neighbour_and_answers_are_not_in_the_query(index, embedding):
    archive = index.snapshot()
    for case_id in embedding.experts.case_ids[:5]:
        result = search(archive, query_from_archive(archive, case_id), k=100)
        assert case_id not in [n.case_id for n in result.neighbours]
        assert not set(result.using) & {"report", "terms"}


def test_the_nearest_of_the_allowed_are_found_and_the_rest_left_out(index, embedding):
    """Filters go first: the three neighbours are the three nearest of those that pass, in the order without a filter."""
    archive = index.snapshot()
    query = query_from_archive(archive, embedding.experts.case_ids[0])
    result = search(archive, query, k=3, where=parse_where("age_years > 40 and not menopause == 'pre'"))
    records = {facts.case_id: facts.record for facts in embedding.facts}
    allowed = {
        c
        for c, r in records.items()
        if r.get("age_years", 0) > 40 and r.get("menopause") not in (None, "pre")
    }
    assert 3 < result.left_by_filter == len(allowed) < 40
    everybody = [n.case_id for n in search(archive, query, k=1000).neighbours]
    assert [n.case_id for n in result.neighbours] == [case_id for case_id in everybody if case_id in allowed][
        :3
    ]


def test_refusals_name_what_was_found(index, embedding):
    archive = index.snapshot()
    query = query_from_archive(archive, embedding.experts.case_ids[0])
    with pytest.raises(InputError, match=r"leaves none of the archive's 40"):
        search(archive, query, where=parse_where("age_years > 500"))
    with pytest.raises(InputError, match=r"'t9' is not a role"):
        search(archive, query, using=["t9"])
    with pytest.raises(InputError, match=r"k is 0") as refused:
        search(archive, query, k=0)
    assert refused.value.field == "k"
    empty = replace(query.experts, present=np.zeros_like(query.experts.present))
    with pytest.raises(EmptyQuery, match="the query has none of"):
        search(archive, Query(empty))
    with pytest.raises(InputError, match="holds no case 'x'"):
        query_from_archive(archive, "x")
    assert len(search(archive, query, k=1000).neighbours) <= 39


def test_usearch_answers_like_exact_search_and_follows_removals(index, embedding):
    archive = index.snapshot()
    query = query_from_archive(archive, embedding.experts.case_ids[0])
    exact = search(archive, query, k=5, archive_roles="joint", engine="exact")
    fast = search(archive, query, k=5, archive_roles="joint", engine="usearch")
    assert [n.case_id for n in fast.neighbours] == [n.case_id for n in exact.neighbours]
    gone = fast.neighbours[0].case_id
    index.remove([gone])
    after = search(index.snapshot(), query, k=5, archive_roles="joint", engine="usearch")
    assert gone not in [n.case_id for n in after.neighbours]
    assert [n.case_id for n in after.neighbours][:4] == [n.case_id for n in fast.neighbours][1:]
    with pytest.raises(InputError, match="cannot filter"):
        search(archive, query, where=parse_where("age_years > 1"), engine="usearch")


def test_a_case_of_another_cohort_finds_itself_nearest(index, phantom):
    cohort = Cohort.load(phantom)
    model, archive = MMVAE.load_from_checkpoint(index.checkpoint), index.snapshot()
    query = query_from_cohort(archive, model, cohort, cohort.cases[3])
    result = search(archive, replace(query, patient=None), k=1)
    assert result.neighbours[0].case_id == cohort.cases[3].case_id


def test_a_model_is_refused_that_is_not_the_one_behind_the_archive(index, phantom):
    """As where an index is rebuilt with another model between its snapshot and the loading of its checkpoint."""
    cohort, archive = Cohort.load(phantom), index.snapshot()
    model = MMVAE.load_from_checkpoint(index.checkpoint)
    model.choose_space(None, "euclidean" if archive.space.distance == "cosine" else "cosine")
    with pytest.raises(InputError, match="not the one behind the archive's vectors"):
        query_from_cohort(archive, model, cohort, cohort.cases[3])
    with pytest.raises(InputError, match="not the one behind the archive's vectors"):
        query_from_folder(archive, model, phantom)


def test_points_of_a_mixture_are_the_mixture_s_mean(embedding):
    """Of a mixture of experts: the plain average of the means of the roles that a case has."""
    experts = embedding.experts
    points = experts.points(RetrievalSpace(MoE()), experts.present)
    for n in range(len(experts.case_ids)):
        np.testing.assert_allclose(points[n], experts.mean[n][experts.present[n]].mean(0), atol=1e-5)


def _add_and_remove(root: Path, parts: list[Path], started, stop) -> None:
    """Changes an index without end: cases come and go, so that rows shift."""
    index, embeddings = Index.open(root), [Embedding.load(path) for path in parts]
    while not stop.is_set():
        for embedding in embeddings:
            index.add(embedding)
            started.set()
        for embedding in embeddings:
            index.remove(list(embedding.experts.case_ids))


def test_a_thousand_searches_beside_a_writer_never_give_a_case_another_s_distance(embedding, part, tmp_path):
    experts = embedding.experts
    index = Index.build(Embedding.load(part([*range(10), *range(25, 40)], "base")), tmp_path / "index")
    context = multiprocessing.get_context("spawn")
    started, stop = context.Event(), context.Event()
    parts = [part(list(range(10 + 5 * n, 15 + 5 * n)), f"part{n}") for n in range(3)]
    writer = context.Process(target=_add_and_remove, args=(index.root, parts, started, stop), daemon=True)
    writer.start()
    assert started.wait(60)
    row_of = {case_id: n for n, case_id in enumerate(experts.case_ids)}
    using, space = ["t2", "contrast", "clinical"], embedding.provenance.space
    points = [point_by_loops(experts, n, using, space.readout) for n in range(40)]
    moments, count_of_distances = set(), 0
    try:
        for attempt in range(1000):
            archive = index.snapshot()
            moments.add(archive.moment)
            asked = archive.facts[attempt % 10].case_id
            query = query_from_archive(archive, asked)
            assert experts.having(using)[row_of[asked]].sum() == len(
                using
            )  # fewer would give other distances
            neighbours = search(archive, query, k=40, using=using).neighbours
            assert len(neighbours) > 20
            for neighbour in neighbours:
                count_of_distances += 1
                own = distance_by_loops(
                    points[row_of[asked]], points[row_of[neighbour.case_id]], space.distance
                )
                assert neighbour.distance == pytest.approx(own, abs=1e-5)
                assert neighbour.record == embedding.facts[row_of[neighbour.case_id]].record
    finally:
        stop.set()
        writer.join(30)
    assert writer.exitcode == 0
    assert count_of_distances > 20_000
    assert len(moments) > 20, "the index hardly changed while it was searched: the test would prove nothing"
