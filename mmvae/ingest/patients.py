"""Who a study's patient is: its PatientID, or the study itself where that names nobody."""

import re
from collections import Counter
from collections.abc import Sequence

from mmvae.identity.vault import Vault
from mmvae.ingest.reading import Study

# PatientIDs that name nobody: the study then counts as the patient.
NOBODY = re.compile(
    r"(|0+|anon.*|unknown|none|null|n/?a|test|phantom|dicom2nifti|deidentified|de-identified|x+)",
    re.IGNORECASE,
)
MANY_STUDIES = 30


def patients_of(studies: Sequence[Study], vault: Vault) -> tuple[dict[str, str], list[str]]:
    """By study the pseudonym of its PatientID; the study's own where that names nobody, several, or too many studies.

    Beside it sentences for the person who scans.
    """
    shared = Counter(name for study in studies for name in study.patients)
    patients, several, nobody = {}, 0, 0
    for study in studies:
        name = next(iter(study.patients)) if len(study.patients) == 1 else ""
        alone = bool(NOBODY.fullmatch(name.strip()))
        several += len(study.patients) > 1
        nobody += alone and len(study.patients) == 1
        own = alone or shared[name] > MANY_STUDIES
        patients[study.uid] = vault.patient(f"study {study.uid}" if own else name)
    notes = []
    if several:
        notes.append(f"{several} studies hold several PatientIDs; each is kept as a patient of its own")
    if nobody:
        notes.append(f"{nobody} studies have a PatientID that names nobody; each counts as a patient")
    return patients, notes
