"""T1, T2 and FLAIR: one volume each; they differ in which header facts they claim."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmvae.batch import Observation
from mmvae_mri.grid import OnGrid


@dataclass(frozen=True)
class Structural(OnGrid):
    """One channel: the first volume of the stack."""

    @property
    def channels(self) -> int:
        return 1

    def measure(self, volumes: Sequence[Observation], facts: Sequence[Mapping]) -> Observation:
        return Observation(volumes[0].value[:1], volumes[0].mask[:1])


def _plain_volume(facts: Mapping) -> bool:
    """A volume without b-values or phases, which other modalities claim."""
    derived = {"ADC", "SUB", "MIP", "PROJECTION", "LOCALIZER"} & set(facts.get("ImageType", ()))
    many = len(facts.get("PhaseTime_s", ())) >= 4
    return facts.get("type") == "volume" and not derived and not many and not facts.get("DiffusionBValue")


@dataclass(frozen=True)
class T1(Structural):
    """T1-weighted volume; `contrast_agent: true` makes a role of the series after contrast agent."""

    def claims(self, facts: Mapping) -> float:
        """Spin echo TE ≤ 30, TR ≤ 900; gradient echo TR < 10 with flip 8–20° (DICOM.md)."""
        if not _plain_volume(facts):
            return 0.0
        if facts.get("weighting") == "t1":
            return 0.8
        te, tr, flip = facts.get("EchoTime"), facts.get("RepetitionTime"), facts.get("FlipAngle", 0)
        if te is None or tr is None:
            return 0.0
        if facts.get("ScanningSequence") == "GR" and tr < 10 and 8 <= flip <= 20:
            return 0.85
        return 0.9 if te <= 30 and tr <= 900 and facts.get("ScanningSequence") != "EP" else 0.0


@dataclass(frozen=True)
class T2(Structural):
    """T2-weighted volume."""

    def claims(self, facts: Mapping) -> float:
        """Spin echo with TE ≥ 70 and TR ≥ 2000 that is no FLAIR (DICOM.md)."""
        if not _plain_volume(facts) or 1800 <= facts.get("InversionTime", 0) <= 2800:
            return 0.0
        if facts.get("weighting") == "t2":
            return 0.8
        long = facts.get("EchoTime", 0) >= 70 and facts.get("RepetitionTime", 0) >= 2000
        return 0.9 if long and facts.get("ScanningSequence") in ("SE", "RM", None) else 0.0


@dataclass(frozen=True)
class FLAIR(Structural):
    """T2-weighted volume with suppressed fluid."""

    def claims(self, facts: Mapping) -> float:
        """Inversion time 1800–2800 ms with TE > 70 (DICOM.md)."""
        if not _plain_volume(facts):
            return 0.0
        if facts.get("weighting") == "flair":
            return 0.8
        return (
            0.95 if 1800 <= facts.get("InversionTime", 0) <= 2800 and facts.get("EchoTime", 0) > 70 else 0.0
        )
