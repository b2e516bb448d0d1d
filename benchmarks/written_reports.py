"""Radiology reports with planted identifiers: French and English, fourteen name cultures, twenty kinds, spellings drawn by a seed.

Written and committed before the rules of de-identification that it measures, and without knowledge of them. Nobody in it exists.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from benchmarks.written_sentences import BORDERLESS, CLINICAL, FRAMES, HEADINGS
from benchmarks.written_studies import CULTURES, DESCRIPTIONS, Study

if TYPE_CHECKING:
    from pydicom import Dataset

KINDS = tuple(FRAMES)


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

    def __init__(self, study: Study):
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
    study = Study(rng, CULTURES[number % len(CULTURES)], locale)
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


def _draw_frames(study: Study, language: str) -> list[str]:
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
