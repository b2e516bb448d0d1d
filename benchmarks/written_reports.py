"""Radiology reports with planted identifiers: French and English, fourteen name cultures, twenty kinds, spellings drawn by a seed.

Written and committed before the rules of de-identification that it measures, and without knowledge of them. Nobody in it exists.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from benchmarks import written_names as names
from benchmarks import written_numbers as numbers
from benchmarks.written_sentences import BORDERLESS, CLINICAL, FRAMES, HEADINGS

if TYPE_CHECKING:
    from pydicom import Dataset

KINDS = tuple(FRAMES)
CULTURES = tuple(names.CULTURES)
DATES = ("birth_date", "study_date", "earlier_date")
# kind: DICOM keyword that may hold it, how often it does.
ELEMENTS = {
    "reading_doctor": ("NameOfPhysiciansReadingStudy", 0.85), "referring_doctor": ("ReferringPhysicianName", 0.85),
    "technologist": ("OperatorsName", 0.75), "relative": ("ResponsiblePerson", 0.4), "patient_id": ("PatientID", 1.0),
    "accession": ("AccessionNumber", 1.0), "national_number": ("OtherPatientIDs", 0.5), "telephone": ("PatientTelephoneNumbers", 0.5),
    "address": ("PatientAddress", 0.6), "hospital": ("InstitutionName", 0.8), "device": ("DeviceSerialNumber", 0.8),
}  # fmt: skip
PATIENT = ("patient_name", "given_alone", "family_title", "initials_family")
TITLES = {
    "en": {"doctor": ("Dr ", "Dr. ", "Dr ", "DR ", "Prof. ", "", "Doctor "), "patient": ("Mrs ", "Mrs. ", "Ms ", "Miss ", "Ms. "), "other": ("", "", "Mr ", "Mrs ")},
    "fr": {"doctor": ("Dr ", "Dr. ", "Docteur ", "Pr ", "Dr ", "", "DR "), "patient": ("Mme ", "Madame ", "Mme. ", "Mlle ", "MME "), "other": ("", "", "M. ", "Mme ")},
}  # fmt: skip
DEGREES = ("", "", "", "", ", MD", " MD", ", M.D.", " FRCR")


@dataclass(frozen=True)
class Identifier:
    """What was planted: its span in the text, the spans in it that identify, and its calendar day where it is a date.

    `held`: an element of the study's header holds it too, in whatever spelling.
    """

    kind: str
    culture: str
    start: int
    end: int
    text: str
    marks: tuple[tuple[int, int], ...]
    held: bool
    day: date | None = None


@dataclass(frozen=True)
class Report:
    """A report, the identifying elements of its study's header by keyword, what was planted, and spans that identify nobody.

    `clinical` are the sentences of the profession, a part of what identifies nobody: all that no identifier's span covers.
    """

    text: str
    locale: str
    culture: str
    header: dict[str, str]
    identifiers: tuple[Identifier, ...]
    clinical: tuple[tuple[int, int], ...]

    @property
    def headers(self) -> list[str]:
        """The values of the header's elements that name someone, number, place or birth date."""
        return [
            value for keyword, value in self.header.items() if keyword not in ("StudyDate", *DESCRIPTIONS)
        ]

    def dataset(self) -> "Dataset":
        """The header as a DICOM data set, with a description and reasons that identify nobody beside."""
        from pydicom import Dataset

        dataset = Dataset()
        dataset.SpecificCharacterSet = "ISO_IR 192"
        for keyword, value in self.header.items():
            setattr(dataset, keyword, value)
        return dataset


# Elements that identify nobody: their words stay in a report.
DESCRIPTIONS = (
    "StudyDescription",
    "SeriesDescription",
    "ReasonForStudy",
    "PatientSex",
    "PatientAge",
    "Modality",
)


class _Study:
    """Everyone and every number of one study, and how a slot of a frame writes them."""

    def __init__(self, rng: random.Random, culture: str, locale: str):
        self.rng, self.culture, self.locale = rng, culture, locale
        self.patient = names.draw_person(rng, culture)
        self.people = {
            kind: names.draw_person(rng, culture if rng.random() < 0.4 else rng.choice(CULTURES))
            for kind in ("reading_doctor", "referring_doctor", "technologist")
        }
        relative = names.draw_person(rng, culture)
        family = self.patient if rng.random() < 0.5 else relative
        self.people["relative"] = names.Person(culture, family.family, relative.given)
        self.birth_date = date(1930, 1, 1) + timedelta(days=rng.randrange(365 * 75))
        self.study_date = date(2012, 1, 1) + timedelta(days=rng.randrange(365 * 13))
        self.values = {kind: numbers.draw_number(kind, locale, self.birth_date, rng)
                       for kind in ("patient_id", "accession", "device", "telephone", "national_number")}  # fmt: skip
        self.values["address"] = numbers.draw_address(locale, rng)
        self.values["hospital"] = rng.choice(numbers.HOSPITALS[locale].split(", "))
        self.header = self._header()

    def _header(self) -> dict[str, str]:
        rng = self.rng
        header = {
            "PatientName": names.header_value(self.patient, rng),
            "PatientBirthDate": f"{self.birth_date:%Y%m%d}",
            "StudyDate": f"{self.study_date:%Y%m%d}",
        }
        for kind, (keyword, share) in ELEMENTS.items():
            if rng.random() < share:
                person = self.people.get(kind)
                header[keyword] = names.header_value(person, rng) if person else self.values[kind]
        fr = self.locale == "fr"
        header["StudyDescription"] = "IRM PELVIENNE kyste ovarien" if fr else "MRI PELVIS ovarian cyst"
        header["SeriesDescription"] = rng.choice(
            ["T2 SAG", "T1 white matter", "DWI b1000 petit champ", "AX LONG"]
        )
        header["ReasonForStudy"] = (
            "douleur, épanchement du Douglas" if fr else "pain, brown discharge, free fluid"
        )
        return header | {"PatientSex": "F", "Modality": "MR"}

    def held(self, kind: str) -> bool:
        """Whether the header holds what this kind of slot writes."""
        if kind in (*PATIENT, "birth_date", "study_date"):
            return True
        return kind in ELEMENTS and ELEMENTS[kind][0] in self.header

    def write(self, kind: str) -> tuple[names.Written, date | None]:
        """A kind in one of its spellings, with the calendar date where it is one."""
        rng, title = self.rng, TITLES[self.locale[:2]]
        if kind in DATES:
            day = self.earlier() if kind == "earlier_date" else getattr(self, kind)
            text = numbers.write_date(day, self.locale, rng, timed=kind == "study_date")
            return names.Written(text, ()), day
        if kind in PATIENT:
            written = {"patient_name": names.write_full, "given_alone": names.write_given, "family_title": names.write_family,
                       "initials_family": names.write_initials}[kind](self.patient, rng)  # fmt: skip
            titled = kind == "family_title" or (kind == "patient_name" and rng.random() < 0.3)
            return _between(rng.choice(title["patient"]) if titled else "", written, ""), None
        if kind in self.people:
            forms = [names.write_full, names.write_full, names.write_initials]
            doctor = kind.endswith("doctor")
            before = rng.choice(title["doctor" if doctor else "other"])
            if before and kind != "relative":
                forms.append(names.write_family)
            if kind == "relative":
                forms = [names.write_full, names.write_given]
            after = rng.choice(DEGREES) if doctor and self.locale != "fr" else ""
            return _between(before, rng.choice(forms)(self.people[kind], rng), after), None
        return self._write_value(kind), None

    def earlier(self) -> date:
        """A date of an earlier examination."""
        return self.study_date - timedelta(days=self.rng.randrange(20, 3000))

    def _write_value(self, kind: str) -> names.Written:
        """A number, place or link."""
        rng = self.rng
        if kind == "url":
            text = rng.choice(
                [
                    "https://pacs.{}.example.org/study/{}",
                    "http://www.{}.example/viewer?acc={}",
                    "portal.{}.example.com/{}",
                ]
            )
            text = text.format(_plain_word(self.values["hospital"].split(" ")[-1]), self.values["accession"])
            return names.Written(text, numbers.place_marks(text))
        if kind == "email":
            person = self.people["referring_doctor"]
            given, family = _plain_word(person.given), _plain_word(person.family)
            local = rng.choice(
                [
                    f"{given}.{family}",
                    f"{given[0]}.{family}",
                    f"{family}{rng.randrange(10, 99)}",
                    f"{given}_{family}",
                ]
            )
            text = f"{local}@{rng.choice(['example.org', 'mail.example.com', 'chu.example.net'])}"
            return names.Written(text, tuple(m.span() for m in re.finditer(r"[^\W\d_]{2,}", local)))
        value = self.values[kind]
        if kind in ("address", "hospital"):
            text = (
                numbers.write_address(value, rng)
                if kind == "address"
                else rng.choice([value, value, value.upper()])
            )
            return names.Written(text, numbers.place_marks(text))
        text = numbers.write_number(kind, value, rng)
        return names.Written(text, numbers.number_marks(text))


def _between(before: str, written: names.Written, after: str) -> names.Written:
    """A name with its title and degree, which belong to its span but do not identify."""
    marks = tuple((a + len(before), b + len(before)) for a, b in written.marks)
    return names.Written(before + written.text + after, marks)


def _plain_word(text: str) -> str:
    return re.sub(r"[^a-z]", "", names.without_accents(text).lower()) or "x"


# A month first is an American habit, and so is this spelling: what a reader has to go by.
AMERICAN = (("haem", "hem"), ("tumour", "tumor"), ("gynaec", "gynec"), ("Tumour", "Tumor"))


def _american(sentence: str) -> str:
    for british, american in AMERICAN:
        sentence = sentence.replace(british, american)
    return sentence


def _measures(sentence: str, rng: random.Random, locale: str) -> str:
    """A clinical sentence with its measurements drawn."""
    fr, mm = locale == "fr", [rng.randrange(3, 95) for _ in range(3)]
    cross = rng.choice([" x ", "x", " × "])
    sides = ("droit", "gauche") if fr else ("right", "left")
    written = sentence.format(
        mm=mm[0],
        two=cross.join(map(str, mm[:2])),
        three=cross.join(map(str, mm)),
        n=rng.randrange(11, 999),
        cm=f"{rng.randrange(11, 19)}{',' if fr else '.'}{rng.randrange(10)}",
        side=rng.choice(sides),
    )
    return _american(written) if locale == "en-US" else written


class _Page:
    """A text that grows, with what was planted in it."""

    def __init__(self, study: _Study):
        self.study, self.text = study, ""
        self.identifiers: list[Identifier] = []
        self.clinical: list[tuple[int, int]] = []

    def say(self, sentence: str) -> None:
        self.clinical.append((len(self.text), len(self.text) + len(sentence)))
        self.text += sentence

    def plant(self, frame: str) -> None:
        """A frame with its slots written."""
        for piece in re.split(r"(\{\w+\})", frame):
            if not piece.startswith("{"):
                self.text += piece
                continue
            kind, start = piece[1:-1], len(self.text)
            written, day = self.study.write(kind)
            person = self.study.people.get(
                "referring_doctor" if kind == "email" else kind, self.study.patient
            )
            marks = tuple((start + a, start + b) for a, b in written.marks)
            self.text += written.text
            self.identifiers.append(
                Identifier(kind, person.culture, start, len(self.text), written.text, marks, self.study.held(kind), day)
            )  # fmt: skip


def write_report(seed: int, number: int) -> Report:
    """Report `number` of a seed: the same text wherever it is drawn."""
    rng = random.Random(f"{seed}-{number}")
    locale = rng.choice(["fr", "fr", "en-GB", "en-US"])
    language = locale[:2]
    study = _Study(rng, CULTURES[number % len(CULTURES)], locale)
    frames = _draw_frames(study, language)
    page = _Page(study)
    for frame in (f[1:] for f in frames if f[0] == "^"):
        page.plant(frame)
        page.text += rng.choice(["\n", "\n", "\n", "   "])
    sentences: list[tuple[str, bool]] = [(f, True) for f in frames if f[0] not in "^$"]
    sentences += [
        (_measures(s, rng, locale), False) for s in rng.sample(CLINICAL[language], rng.randrange(7, 15))
    ]
    rng.shuffle(sentences)
    breaks = sorted(rng.sample(range(len(sentences)), 2))
    for n, (sentence, planted) in enumerate(sentences):
        if n == 0 or n in breaks:
            heading = HEADINGS[language][min(2, breaks.index(n) + 1 if n in breaks else 0)]
            page.text += (
                ("" if page.text.endswith("\n") or not page.text else "\n")
                + heading
                + rng.choice([":\n", ": ", "\n"])
            )
        page.plant(sentence) if planted else page.say(sentence)
        page.text += rng.choice([" ", " ", "\n"])
    for frame in (f[1:] for f in frames if f[0] == "$"):
        page.text += (
            "" if rng.random() < 0.25 or page.text.endswith("\n") else "\n"
        )  # a signature may follow in the line
        page.plant(frame)
        page.text += "\n"
    return Report(
        page.text, locale, study.culture, study.header, tuple(page.identifiers), tuple(page.clinical)
    )


def _draw_frames(study: _Study, language: str) -> list[str]:
    """Five to ten frames of different kinds."""
    rng = study.rng
    kinds, weights = list(KINDS), [FRAMES[kind][0] for kind in KINDS]
    chosen: list[str] = []
    for _ in range(rng.randrange(5, 11)):
        (kind,) = rng.choices(kinds, weights)
        at = kinds.index(kind)
        kinds.pop(at), weights.pop(at)
        chosen.append(rng.choice(FRAMES[kind][1 if language == "en" else 2]))
    if study.culture in BORDERLESS and rng.random() < 0.15:
        chosen.append(rng.choice(BORDERLESS[study.culture]))
    return chosen


def write_reports(count: int, seed: int) -> Iterator[Report]:
    """The first reports of a seed."""
    return (write_report(seed, number) for number in range(count))
