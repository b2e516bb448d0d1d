"""Draws a digital patient: histology, seed of the anatomy, tissue properties, true findings, O-RADS score, record."""

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from mmvae.phantom.physics import extended_tofts

MALIGNANT = ("borderline tumour", "invasive carcinoma", "metastasis")
COLUMNS = ("T1", "T2", "T2s", "ADC", "rho", "fat", "Ktrans", "ve", "vp")
CURVE_TIMES_S = np.arange(0, 241, 12.0)


@cache
def parameters() -> Mapping:
    """The committed parameters (`parameters.yaml`)."""
    return yaml.safe_load((Path(__file__).parent / "parameters.yaml").read_text())


@cache
def phantom_hash() -> str:
    """Hash of the parameters and of the syntax tree of the code that turns them into images and words, stored in every result row."""
    here, digest = Path(__file__).parent, hashlib.sha256()
    digest.update(json.dumps(parameters(), sort_keys=True).encode())
    for name in ("physics", "patient", "anatomy", "scanner", "words"):
        tree = ast.parse((here / f"{name}.py").read_text())
        for node in ast.walk(tree):  # words about the code are not the code
            if (
                isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)
                and ast.get_docstring(node) is not None
            ):
                node.body = node.body[1:]
        digest.update(ast.unparse(tree).encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Findings:
    """What a perfect reader would say about the index lesion; None if the question does not arise."""

    locules: int
    fluid: str | None
    fat: bool
    keratin: bool
    wall: str
    papillae: str
    solid: str
    solid_tissue: str | None
    curve: str | None
    ascites: bool
    nodules: bool
    size_mm: float
    premenopausal: bool

    @property
    def dark(self) -> bool:
        """Whether solid tissue is homogeneously dark on T2 and on high-b DWI."""
        return self.solid_tissue == "dark_solid"


@dataclass(frozen=True)
class Patient:
    """One digital patient; images, words and record follow from it and from `rng_seed` alone."""

    number: int
    rng_seed: int
    histology: str
    findings: Findings
    tissues: Mapping[str, Mapping[str, float]]
    record: Mapping[str, float | int | str]
    orads: int


def _pick(rng: np.random.Generator, weights: Mapping):
    keys = list(weights)
    p = np.array([weights[k] for k in keys], float)
    return keys[rng.choice(len(keys), p=p / p.sum())]


def draw_patient(seed: int, number: int, histology: str) -> Patient:
    """The patient with this number in the population of this seed; `histology` is given so that classes can be balanced."""
    rng_seed = int.from_bytes(hashlib.sha256(f"mmvae phantom {seed} {number}".encode()).digest()[:8])
    rng = np.random.default_rng(rng_seed)
    p = parameters()
    c = p["classes"][histology]
    mean, sd, low, high = c["age"]
    age = float(np.clip(rng.normal(mean, sd), low, high))
    premenopausal = bool(rng.random() < 1 / (1 + np.exp((age - 51) / 1.5)))
    solid = _pick(rng, c["solid"])
    locules = 0 if solid == "whole" else max(_pick(rng, c["locules"]), 0 if solid == "large" else 1)
    if locules == 0 and solid != "whole":
        solid = "whole"
    size_mm = float(np.clip(c["size_mm"][0] * np.exp(rng.normal(0, c["size_mm"][1])), 16, 150))
    enhances = solid != "none"
    papillae = _pick(rng, c["papillae"]) if locules else "none"
    tissue = _pick(rng, c["tissue"]) if enhances else ("borderline_solid" if papillae != "none" else None)
    curve = _pick(rng, c["curve"]) if enhances else ("intermediate" if papillae != "none" else None)
    findings = Findings(
        locules=int(locules),
        fluid=_pick(rng, c["fluid"]) if locules else None,
        fat=bool(locules and rng.random() < c["fat"]),
        keratin=bool(locules and rng.random() < c["keratin"]),
        wall=_pick(rng, c["wall"]),
        papillae=papillae,
        solid=solid,
        solid_tissue=tissue,
        curve=curve,
        ascites=bool(rng.random() < c["ascites"]),
        nodules=bool(rng.random() < c["nodules"]),
        size_mm=size_mm,
        premenopausal=premenopausal,
    )
    record = {
        "age_years": round(age, 0),
        "menopause": "pre" if premenopausal else "post",
        "ca125_u_ml": round(
            float(np.clip(c["ca125"][0] * np.exp(rng.normal(0, c["ca125"][1])), 2, 20000)), 1
        ),
        "weight_kg": round(float(np.clip(rng.normal(68, 13), 40, 140)), 0),
        "height_m": round(float(np.clip(rng.normal(1.64, 0.07), 1.4, 1.9)), 2),
        "parity": int(min(rng.poisson(1.6), 8)),
        "pain": "yes" if rng.random() < c["pain"] else "no",
    }
    record = {name: value for name, value in record.items() if rng.random() >= p["missing"]["fields"][name]}
    return Patient(number, rng_seed, histology, findings, _tissues(rng, findings), record, orads(findings))


def _tissues(rng: np.random.Generator, findings: Findings) -> dict[str, dict[str, float]]:
    """T1, T2, ADC and kinetics of every tissue of this patient."""
    p, drawn = parameters(), {}
    for name, numbers in p["tissues"].items():
        t = dict(zip(COLUMNS, map(float, numbers)))
        for column in ("T1", "T2", "ADC"):
            t[column] *= float(np.clip(1 + rng.normal(0, p["spread"]), 0.6, 1.5))
        if name in p["adc_sd"]:
            t["ADC"] = float(np.clip(rng.normal(numbers[3], p["adc_sd"][name]), 0.3, 2.6))
        drawn[name] = t
    drawn["endometriotic"]["T2"] = max(drawn["endometriotic"]["T2"], 65.0)
    if not findings.premenopausal:
        drawn["myometrium"]["ADC"] = float(np.clip(rng.normal(1.15, 0.20), 0.6, 1.9))
    drawn["myometrium"]["Ktrans"] *= float(np.exp(rng.normal(0, p["myometrium_spread"])))
    if findings.curve is not None:
        for column, centre in p["curves"][findings.curve].items():
            drawn[findings.solid_tissue][column] = float(
                np.clip(centre * np.exp(rng.normal(0, p["curve_spread"][column])), 0.0005, 0.95)
            )
    if findings.wall == "enhancing":
        drawn["wall"].update(Ktrans=0.22, ve=0.35, vp=0.05)
    for letter in "abc":
        drawn[f"mucin_{letter}"] = {**drawn["mucin"], "T1": float(rng.uniform(900, 2600))}
    return drawn


def curve_type(
    tissue: Mapping[str, float], myometrium: Mapping[str, float], noise: float, rng: np.random.Generator
) -> str:
    """How a reader rates the enhancement of a tissue relative to the myometrium, from noisy curves (PHANTOM.md, O-RADS rules).

    High: steeper than myometrium. Low: slow rise without shoulder. Intermediate: everything else.

    Args:
        tissue: Its Ktrans (per minute), ve and vp.
        myometrium: The same of the myometrium.
        noise: Standard deviation of the curves' noise, as a share of the myometrium's peak.
        rng: Draws the noise.
    """
    both = [extended_tofts(t["Ktrans"], t["ve"], t["vp"], CURVE_TIMES_S) for t in (tissue, myometrium)]
    peak = both[1].max()  # pyright: ignore[reportAttributeAccessIssue]
    mine, reference = (c + rng.normal(0, noise * peak, c.shape) for c in both)  # pyright: ignore[reportAttributeAccessIssue]
    early = slice(0, 6)  # the first minute
    slope, slope_reference = (c[early].max() for c in (mine, reference))
    if slope > slope_reference:
        return "high"
    late, shoulder = mine[-4:].mean(), mine[6:10].mean()  # about 4 and 1.5 minutes
    return "low" if late > 1.3 * shoulder or late < 0.25 * peak else "intermediate"


def orads(f: Findings) -> int:
    """O-RADS MRI score by the rules of PHANTOM.md, in their order."""
    solid = f.solid != "none" or f.papillae != "none"
    if f.nodules:
        return 5
    if (
        f.premenopausal
        and not solid
        and f.locules == 1
        and f.size_mm <= 30
        and f.fluid in ("simple", "haemorrhagic")
    ):
        return 1
    if f.fat:
        return 4 if f.solid in ("large", "whole") else 2
    if solid:
        return 2 if f.dark else {"low": 3, "intermediate": 4, "high": 5}[f.curve]  # pyright: ignore[reportArgumentType]
    if f.locules == 1 and (f.wall == "thin" or f.fluid in ("simple", "endometriotic")):
        return 2
    return 3


def population(cases: int, seed: int, prevalence: str = "balanced") -> list[Patient]:
    """A population of patients in random order, with classes balanced within every ten in a row, or as frequent as in practice."""
    rng = np.random.default_rng([seed, 7])
    names = list(parameters()["classes"])
    if prevalence == "balanced":
        classes = np.concatenate([rng.permutation(names) for _ in range(-(-cases // len(names)))])[:cases]
    else:
        weights = np.array([parameters()["prevalence"][n] for n in names], float)
        classes = list(rng.choice(names, cases, p=weights / weights.sum()))
    return [draw_patient(seed, i, str(histology)) for i, histology in enumerate(classes)]
