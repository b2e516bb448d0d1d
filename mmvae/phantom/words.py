"""Writes what a reader says about a patient: findings as controlled terms, and a report in varied words, never from the class."""

from dataclasses import replace

import numpy as np

from mmvae.phantom.patient import MALIGNANT, Findings, Patient, curve_type, parameters

# Questions with their answers; silence on a question is missing, not "no". No answer is possible for one class only.
QUESTIONS = {
    "locularity": ("unilocular", "multilocular", "solid"),
    "fluid on T1": ("low", "high"),
    "fluid on T2": ("high", "intermediate"),
    "fluid on fat-saturated T1": ("low", "high"),
    "fat": ("present", "absent"),
    "solid tissue": ("none", "small", "large"),
    "solid tissue on T2": ("dark", "intermediate"),
    "solid tissue on high-b DWI": ("low", "high"),
    "curve": ("low", "intermediate", "high"),
    "wall": ("thin", "enhancing"),
    "septa": ("none", "few", "many"),
    "papillae": ("none", "few", "many"),
    "ascites": ("present", "absent"),
    "peritoneal nodules": ("present", "absent"),
    "size": ("up to 3 cm", "3 to 10 cm", "over 10 cm"),
}
TERMS = tuple({"name": f"{q}: {a}", "parent": q} for q, answers in QUESTIONS.items() for a in answers)


def reading(patient: Patient, rng: np.random.Generator) -> Findings:
    """The findings as one reader sees them: the curve from the true curves plus noise, other answers wrong in 3 % of questions."""
    p, f = parameters(), patient.findings
    if f.curve is not None:
        seen = curve_type(
            patient.tissues[f.solid_tissue],  # pyright: ignore[reportArgumentType]
            patient.tissues["myometrium"],
            p["reader_noise"],
            rng,
        )
        f = replace(f, curve=seen)
    wrong = lambda: rng.random() < p["findings"]["wrong"]  # noqa: E731
    if wrong() and f.locules:
        f = replace(f, locules=1 if f.locules > 1 else 3)
    if wrong() and f.fluid:
        f = replace(f, fluid=str(rng.choice(["simple", "endometriotic", "haemorrhagic", "mucin"])))
    if wrong():
        f = replace(f, wall="thin" if f.wall == "enhancing" else "enhancing")
    if wrong() and f.locules:
        f = replace(f, fat=not f.fat)
    if wrong() and f.solid_tissue:
        f = replace(f, solid_tissue="borderline_solid" if f.dark else "dark_solid")
    if wrong() and f.solid == "small":
        f = replace(f, solid="none", papillae="none", curve=None, solid_tissue=None)
    if wrong() and f.locules:
        f = replace(f, papillae=str(rng.choice(["none", "few"])))
        if f.papillae != "none" and f.curve is None:
            f = replace(f, curve="intermediate", solid_tissue="borderline_solid")
    if wrong():
        f = replace(f, ascites=not f.ascites)
    if rng.random() < p["findings"]["wrong"] / 2:
        f = replace(f, nodules=not f.nodules)
    return replace(f, size_mm=f.size_mm * float(np.exp(rng.normal(0, 0.06))))


def answers(f: Findings) -> dict[str, str]:
    """The findings as answers to the questions that arise."""
    said = {
        "locularity": "solid" if f.locules == 0 else "unilocular" if f.locules == 1 else "multilocular",
        "fat": "present" if f.fat else "absent",
        "solid tissue": {"whole": "large"}.get(f.solid, f.solid),
        "wall": f.wall,
        "papillae": f.papillae,
        "ascites": "present" if f.ascites else "absent",
        "peritoneal nodules": "present" if f.nodules else "absent",
        "size": "up to 3 cm" if f.size_mm <= 30 else "3 to 10 cm" if f.size_mm <= 100 else "over 10 cm",
    }
    if f.fluid:
        bright = f.fluid in ("endometriotic", "haemorrhagic")
        said["fluid on T1"] = "high" if bright or f.fat else "low"
        said["fluid on T2"] = "intermediate" if f.fluid == "endometriotic" else "high"
        said["fluid on fat-saturated T1"] = "high" if bright else "low"
        said["septa"] = "none" if f.locules == 1 else "few" if f.locules <= 4 else "many"
    if f.solid_tissue and f.solid != "none":
        said["solid tissue on T2"] = "dark" if f.dark else "intermediate"
        said["solid tissue on high-b DWI"] = "low" if f.dark else "high"
    if f.curve:
        said["curve"] = f.curve
    return said


def terms_of(seen: Findings, rng: np.random.Generator) -> list[str]:
    """The controlled terms of a reading: each question is left out at the committed rate, and a few of the others are wrong."""
    p, listed = parameters()["findings"], []
    for question, answer in answers(seen).items():
        if rng.random() < p["left_out"]:
            continue
        if question not in ("curve",) and rng.random() < p["wrong"] / 2:
            answer = str(rng.choice(QUESTIONS[question]))
        listed.append(f"{question}: {answer}")
    return listed


_SENTENCES = {
    ("locularity", "unilocular"): ("There is a unilocular cyst of the {side} adnexa.", "A single-chamber cystic lesion lies in the {side} adnexal region.", "{Side} adnexal cyst, unilocular."),
    ("locularity", "multilocular"): ("A multilocular cystic lesion arises from the {side} adnexa.", "The {side} adnexal mass consists of several locules.", "{Side} adnexal mass, multilocular."),
    ("locularity", "solid"): ("A solid mass occupies the {side} adnexa.", "The {side} adnexal lesion is solid without a cystic portion.", "Solid {side} adnexal mass."),
    ("fluid on T1", "low"): ("Its content is dark on T1.", "The fluid has low T1 signal."),
    ("fluid on T1", "high"): ("Its content is bright on T1.", "The content shows high T1 signal.", "T1 hyperintense content."),
    ("fluid on T2", "high"): ("The content is bright on T2.", "Fluid-like high T2 signal."),
    ("fluid on T2", "intermediate"): ("T2 shading is seen.", "The content loses signal on T2 with a shaded appearance."),
    ("fluid on fat-saturated T1", "high"): ("The bright content persists on fat-saturated T1.", "High signal remains after fat saturation."),
    ("fluid on fat-saturated T1", "low"): ("No bright content on fat-saturated T1.",),
    ("fat", "present"): ("A fatty portion loses its signal with fat saturation.", "Macroscopic fat is present."),
    ("fat", "absent"): ("No fat.", "No fatty component is seen."),
    ("solid tissue", "none"): ("No enhancing solid tissue.", "There is no solid component."),
    ("solid tissue", "small"): ("A small mural solid nodule enhances.", "There is a small enhancing solid component."),
    ("solid tissue", "large"): ("A large solid component is present.", "Much of the lesion is solid tissue."),
    ("solid tissue on T2", "dark"): ("The solid tissue is homogeneously dark on T2.", "Low T2 signal of the solid part, like muscle."),
    ("solid tissue on T2", "intermediate"): ("The solid tissue has intermediate T2 signal.",),
    ("solid tissue on high-b DWI", "low"): ("It is dark on high-b diffusion images.", "No restricted diffusion."),
    ("solid tissue on high-b DWI", "high"): ("It is bright on high-b diffusion images.", "Diffusion is restricted in the solid part."),
    ("curve", "low"): ("The solid tissue enhances slowly and without shoulder.", "Low-risk time-intensity curve."),
    ("curve", "intermediate"): ("Enhancement is moderate with a plateau, less steep than the myometrium.", "Intermediate-risk time-intensity curve."),
    ("curve", "high"): ("Enhancement is steeper than that of the myometrium.", "High-risk time-intensity curve."),
    ("wall", "thin"): ("The wall is thin.",),
    ("wall", "enhancing"): ("The wall enhances smoothly.", "There is smooth wall enhancement."),
    ("septa", "none"): ("No septa.",),
    ("septa", "few"): ("Few thin septa.", "Several septations are seen."),
    ("septa", "many"): ("Numerous septa divide the lesion.",),
    ("papillae", "none"): ("No papillary projection.", "Papillary projections are absent."),
    ("papillae", "few"): ("A few papillary projections arise from the wall.",),
    ("papillae", "many"): ("Many papillary projections line the wall.", "Florid papillary projections."),
    ("ascites", "present"): ("There is ascites.", "Free fluid exceeds the physiological amount."),
    ("ascites", "absent"): ("No ascites.", "No free fluid."),
    ("peritoneal nodules", "present"): ("Peritoneal nodules are seen.", "Nodularity of the peritoneum."),
    ("peritoneal nodules", "absent"): ("No peritoneal nodule.", "The peritoneum is smooth."),
}  # fmt: skip
_OPENINGS = (
    "MRI of the pelvis with T1, T2, diffusion and contrast series.",
    "Pelvic MRI, multiparametric protocol.",
    "Technique: axial T1 with and without fat saturation, T2, DWI and contrast-enhanced imaging.",
)


def guess(f: Findings, rng: np.random.Generator) -> str:
    """The diagnosis that the findings alone suggest to a reader, by rules of thumb, without knowledge of the histology."""
    if f.nodules or (f.curve == "high" and f.solid in ("large", "whole")):
        return str(rng.choice(["invasive carcinoma", "metastasis"], p=[0.6, 0.4]))
    if f.fat:
        return "mature teratoma"
    if f.solid == "whole":
        return "fibroma" if f.dark else "metastasis"
    if f.papillae != "none" or (f.solid != "none" and not f.dark):
        return "borderline tumour"
    if f.solid != "none":
        return "cystadenofibroma"
    if f.fluid == "endometriotic":
        return "endometrioma"
    if f.locules > 1:
        return "mucinous cystadenoma"
    return "functional cyst" if f.premenopausal and f.size_mm < 45 else "serous cystadenoma"


def report_of(seen: Findings, side: str, rng: np.random.Generator) -> str:
    """A report of one reading, with varied wording, negations, omissions and a few errors; half of the reports suggest a diagnosis."""
    p = parameters()["report"]
    lines = [str(rng.choice(_OPENINGS))]
    for question, answer in answers(seen).items():
        if question == "size":
            a, b = seen.size_mm / 10, seen.size_mm / 10 * rng.uniform(0.6, 0.95)
            lines.append(
                str(rng.choice([f"It measures {a:.1f} x {b:.1f} cm.", f"Largest diameter {a:.1f} cm."]))
            )
            continue
        if rng.random() < p["omitted"]:
            continue
        if rng.random() < p["wrong"]:
            answer = str(rng.choice(QUESTIONS[question]))
        sentence = str(rng.choice(_SENTENCES[question, answer]))
        lines.append(sentence.format(side=side, Side=side.capitalize()))
    if rng.random() < p["suggests"]:
        suggestion = guess(seen, rng)
        if rng.random() < p["suggests_wrongly"]:
            suggestion = str(rng.choice([c for c in parameters()["classes"] if c != suggestion]))
        form = str(
            rng.choice(
                [
                    "Impression: appearance compatible with {}.",
                    "Impression: {} is favoured.",
                    "Most likely {}.",
                ]
            )
        )
        lines.append(form.format(suggestion))
    elif rng.random() < 0.5:
        lines.append(
            str(
                rng.choice(
                    [
                        "Impression: adnexal lesion, see above.",
                        "Discussion at the gynaecological conference is advised.",
                    ]
                )
            )
        )
    return " ".join(lines)


def malignant(histology: str) -> str:
    """The label of graded relevance: malignant (borderline included) or benign."""
    return "malignant" if histology in MALIGNANT else "benign"
