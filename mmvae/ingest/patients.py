"""Decides the patient of each study: its PatientID, or the study itself if the PatientID identifies nobody."""

import re
from collections import Counter
from collections.abc import Sequence

from mmvae.identity.vault import Vault
from mmvae.ingest.reading import Study

# PatientIDs that identify nobody: the study then counts as its own patient.
NOBODY = re.compile(
    r"(|0+|anon.*|unknown|none|null|n/?a|test|phantom|dicom2nifti|deidentified|de-identified|x+)",
    re.IGNORECASE,
)
MANY_STUDIES = 30


def patients_of(studies: Sequence[Study], vault: Vault) -> tuple[dict[str, str], list[str]]:
    """The patient's pseudonym by study, and remarks for the user.

    A study counts as its own patient if its PatientID identifies nobody, if it has several, or if too many studies share it.
    """
    shared = Counter(name for study in studies for name in study.patients)
    patients, ambiguous, anonymous = {}, 0, 0
    for study in studies:
        name = next(iter(study.patients)) if len(study.patients) == 1 else ""
        alone = bool(NOBODY.fullmatch(name.strip()))
        ambiguous += len(study.patients) > 1
        anonymous += alone and len(study.patients) == 1
        own = alone or shared[name] > MANY_STUDIES
        patients[study.uid] = vault.patient(f"study {study.uid}" if own else name)
    remarks = []
    if ambiguous:
        remarks.append(f"{ambiguous} studies hold several PatientIDs; each is kept as a patient of its own")
    if anonymous:
        remarks.append(f"{anonymous} studies have a PatientID that names nobody; each counts as a patient")
    return patients, remarks
