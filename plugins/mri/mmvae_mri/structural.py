"""T1, T2 and FLAIR: one volume each; they differ only in the header facts that they claim."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmvae.batch import Observation
from mmvae_mri.grid import OnGrid, codes, is_mr_volume


@dataclass(frozen=True)
class Structural(OnGrid):
    """One channel: the first volume of the stack."""

    @property
    def channels(self) -> int:
        return 1

    def measure(self, volumes: Sequence[Observation], facts: Sequence[Mapping]) -> Observation:
        return Observation(volumes[0].value[:1], volumes[0].mask[:1])


def _plain_volume(facts: Mapping) -> bool:
    """Whether it is a volume without b-values or phases, which other modalities claim."""
    derived = {"ADC", "FA", "SUB", "MIP", "PROJECTION", "LOCALIZER", "PHASE", "P", "PHASE_MAP"} & set(
        facts.get("ImageType", ())
    )
    many = len(facts.get("PhaseTime_s", ())) >= 4 or facts.get("repetitions", 1) > 2
    planar = "EP" in codes(facts, "ScanningSequence")
    return (
        is_mr_volume(facts) and not derived and not many and not planar and not facts.get("DiffusionBValue")
    )


def _with_description(claim: float, facts: Mapping, word: str, against: Sequence[str]) -> float:
    """A claim from the timing, raised a little if the description agrees, and lowered much if it says otherwise."""
    description = set(facts.get("described_as", ()))
    if word in description:
        return min(0.98, claim + 0.05) if claim else 0.0
    return 0.4 * claim if description & set(against) else claim


def _suppressed_fluid(facts: Mapping) -> bool:
    low_field = facts.get("AcquisitionContrast") == "FLUID_ATTENUATED"
    inverted = 1500 <= facts.get("InversionTime", 0) <= 2900 and facts.get("RepetitionTime", 0) >= 4000
    return facts.get("EchoTime", 0) > 70 and (low_field or inverted)


@dataclass(frozen=True)
class T1(Structural):
    """T1-weighted volume; with `contrast_agent: true` it takes the series after contrast agent."""

    def claims(self, facts: Mapping) -> float:
        """Spin echo TE ≤ 30, TR ≤ 900; gradient echo TR < 10 with flip 8–20°, or inversion-prepared (DICOM.md)."""
        if not _plain_volume(facts):
            return 0.0
        against = ("t2_weighted", "fluid_attenuated", "diffusion", "proton_density", "field_map")
        return _with_description(_t1_weighted(facts), facts, "t1_weighted", against)


def _t1_weighted(facts: Mapping) -> float:
    """The claim of T1 weighting from the timing."""
    te, tr, flip = facts.get("EchoTime"), facts.get("RepetitionTime"), facts.get("FlipAngle")
    if facts.get("AcquisitionContrast") == "T1" and (te is None or te <= 30):
        return 0.85
    if te is None or tr is None:
        return 0.0
    spoiled = tr < 15 and te < 6
    if codes(facts, "ScanningSequence") & {"GR", "RM"} or spoiled:
        if 300 <= facts.get("InversionTime", 0) <= 1300 and te < 8:
            return 0.85
        if spoiled and flip is None:
            return 0.6
        return 0.85 if spoiled and flip is not None and 8 <= flip <= 30 else 0.0
    return 0.9 if te <= 30 and 100 <= tr <= 900 else 0.0


@dataclass(frozen=True)
class T2(Structural):
    """T2-weighted volume."""

    def claims(self, facts: Mapping) -> float:
        """Spin echo with TE ≥ 70 and TR ≥ 2000 that is not FLAIR (DICOM.md)."""
        if not _plain_volume(facts) or _suppressed_fluid(facts):
            return 0.0
        long = facts.get("EchoTime", 0) >= 70 and facts.get("RepetitionTime", 0) >= 2000
        spin = not codes(facts, "ScanningSequence") or codes(facts, "ScanningSequence") & {"SE", "RM"}
        return (
            _with_description(
                0.9, facts, "t2_weighted", ("t1_weighted", "fluid_attenuated", "diffusion", "proton_density")
            )
            if long and spin
            else 0.0
        )


@dataclass(frozen=True)
class FLAIR(Structural):
    """T2-weighted volume with suppressed fluid."""

    def claims(self, facts: Mapping) -> float:
        """TE > 70 with an inversion time of 1800–2800 ms or a little beyond (DICOM.md), or with the header's own code for it."""
        if not _plain_volume(facts):
            return 0.0
        return (
            _with_description(0.9, facts, "fluid_attenuated", ("t1_weighted", "diffusion"))
            if _suppressed_fluid(facts)
            else 0.0
        )
