"""A query by example: a case of the archive, a case of a cohort, or a folder with a DICOM study."""

import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmvae.case import Case, Lesion, PointMM, Value
from mmvae.cohort import Cohort
from mmvae.errors import EmptyQuery, InputError, NoCases
from mmvae.identity.vault import Vault
from mmvae.ingest.claims import claims_here
from mmvae.ingest.scan import scan_studies
from mmvae.model import MMVAE
from mmvae.retrieval.archive import UNNAMED, Archive
from mmvae.retrieval.embed import embed
from mmvae.retrieval.experts import Experts


@dataclass(frozen=True)
class Query:
    """The experts of one case, and the patient whose cases are excluded from its neighbours (None excludes nobody)."""

    experts: Experts
    patient: str | None = None


def query_from_archive(archive: Archive, case_id: str) -> Query:
    """The query by a case that the archive holds.

    Raises:
        InputError: if the archive does not hold it.
    """
    if case_id not in archive.experts.case_ids:
        raise InputError(
            f"the index holds no case {case_id!r} (it holds {len(archive)}); name the cohort to query by a case of it",
            "case",
        )
    row = archive.experts.case_ids.index(case_id)
    return Query(archive.experts.rows(np.array([row])), archive.facts[row].patient)


def query_from_cohort(archive: Archive, model: MMVAE, cohort: Cohort, case: Case) -> Query:
    """The query by a case of a cohort, which the archive need not hold.

    Args:
        archive: Where neighbours will be searched.
        model: The index's own model.
        cohort: The cohort that the case is from.
        case: The query case.

    Raises:
        InputError: if the model is not the one behind the archive's vectors.
    """
    refuse_another_model(archive, model)
    return Query(embed(model, cohort, [case]), case.patient)


def refuse_another_model(archive: Archive, model: MMVAE) -> None:
    """Raises an InputError if the archive's vectors are not this model's: a point of one space says nothing in another.

    It happens where an index is rebuilt with another model after its snapshot was taken. An index of release 0.1 computed
    fingerprints otherwise; of it, the space and the roles are compared.
    """
    provenance = archive.provenance
    same_space = (model.space, model.roles) == (provenance.space, provenance.roles)
    of_release_0_1 = archive.build == UNNAMED and same_space
    if model.fingerprint() != provenance.fingerprint and not of_release_0_1:
        raise InputError(
            "the model is not the one behind the archive's vectors; the index was rebuilt with another model meanwhile, or the "
            "model is another index's. Load the index's model.ckpt and ask again"
        )


def query_from_folder(
    archive: Archive,
    model: MMVAE,
    folder: Path,
    lesion: PointMM | None = None,
    report: Path | None = None,
    record: Mapping[str, Value] = {},
    jobs: int = 1,
) -> Query:
    """The query by a DICOM study in a folder, scanned under a temporary pseudonym key (FORMATS: Identity).

    Args:
        archive: Where neighbours will be searched.
        model: The index's own model.
        folder: Folder that holds one study.
        lesion: Position of the lesion in patient LPS mm.
        report: File with the report's text, UTF-8.
        record: Fields to add to those from the header.
        jobs: Number of processes that read files.

    Raises:
        EmptyQuery: if nothing in the folder can be used.
        InputError: if the folder holds several studies, the report cannot be read, or the model is not the archive's.
    """
    refuse_another_model(archive, model)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "query"
        if report is not None:
            _refuse_unreadable(report)
        vault = Vault(Path(temporary), secrets.token_bytes(32))
        try:  # the model has already loaded torch into this process, so the plugins can claim series here
            scan_studies(folder, root, jobs=jobs, vault=vault, reports=report, ask=claims_here)
        except NoCases as error:
            raise EmptyQuery(f"nothing in the study folder can be used: {error}", "case") from error
        cohort = Cohort.load(root)
        if len({case.case_id.split("-")[0] for case in cohort.cases}) > 1:
            raise InputError(f"the folder holds {len(cohort.cases)} studies; expected one", "case")
        case = cohort.cases[0]
        if lesion is not None:
            case = replace(case, lesion=Lesion(lesion), frame_mm=lesion, frame_from="lesion")
        case = replace(case, record={**case.record, **record})
        return query_from_cohort(archive, model, replace(cohort, cases=(case,)), case)


def _refuse_unreadable(report: Path) -> None:
    try:
        report.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{report.name}: not readable UTF-8 text ({type(error).__name__})", "report"
        ) from error
