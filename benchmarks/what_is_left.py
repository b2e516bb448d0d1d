"""What still stands of a text after cleaning: identifiers by their parts, and the words that were taken from it.

It shares nothing with the rules. Both texts are cut into tokens (runs of letters, runs of digits, single ideographs) in a plain form
without accents and case, and aligned; a token of the text is left where the alignment keeps it, or where what replaced it holds it or
half of it. An identifier is left where

- a word of it of two letters or more is left, particles ("van der") and titles aside;
- or three digits of its number (all, of a shorter one);
- or two ideographs of its name;
- or, of a date, the same calendar day in any form of its locale, where a shifted one is none;
- or, of a birth date, any number or month at all.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass
from datetime import date
from difflib import SequenceMatcher
from functools import lru_cache

from benchmarks.written_names import LETTERS
from benchmarks.written_numbers import MONTHS, SHORT_MONTHS, date_forms
from benchmarks.written_reports import Identifier, Report

IDEOGRAPH = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
TOKEN = re.compile(rf"□|\d+|[{IDEOGRAPH}]|(?:(?![{IDEOGRAPH}\d_])\w|[\u0300-\u036f])+")
PLACEHOLDER = re.compile(r"\[[^\[\]\n]{0,40}\]|<[^<>\n]{0,40}>|\bX{2,}\b|_+")


def plain(token: str) -> str:
    """Without accents, ligatures and case."""
    decomposed = unicodedata.normalize("NFKD", token.translate(LETTERS))
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()


@dataclass(frozen=True)
class Token:
    """A token as written, in its plain form, and where it stands."""

    written: str
    plain: str
    start: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """Every word, number and ideograph of a text."""
    found = TOKEN.finditer(text)
    return [Token(unicodedata.normalize("NFC", m.group()), plain(m.group()), *m.span()) for m in found]


MONTH_NAMES = frozenset(
    plain(month) for year in (MONTHS, SHORT_MONTHS) for months in year.values() for month in months
)


class Alignment:
    """A text beside what cleaning made of it."""

    def __init__(self, text: str, cleaned: str):
        self.tokens = tokens_of(text)
        # What a rule writes in the place of a name is no rest of one, unless the text itself has it.
        output = tokens_of(PLACEHOLDER.sub(lambda m: m.group() if m.group() in text else " □ ", cleaned))
        # As written: the "le" of Le Goff is not the one before a date.
        before, after = [t.written for t in self.tokens], [t.written for t in output]
        self.kept: set[int] = set()
        self.blocks: list[tuple[int, int, list[str]]] = []  # from token, to token, what stands instead
        for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
            if tag == "equal":
                self.kept.update(range(a, b))
            else:
                self.blocks.append((a, b, [t.plain for t in output[c:d]]))

    def within(self, start: int, end: int) -> list[int]:
        """The tokens that stand in a span of the text."""
        first = bisect_right(self.tokens, start, key=lambda t: t.end)
        return list(range(first, bisect_left(self.tokens, end, key=lambda t: t.start)))

    def output_of(self, inside: list[int]) -> list[str]:
        """What stands in the place of these tokens, less what belongs to their neighbours."""
        found, held = [], set(inside)
        for a, b, instead in self.blocks:
            inserted_beside = a == b and (a in held or a - 1 in held)
            if inserted_beside or held.intersection(range(a, b)):
                others = Counter(self.tokens[n].plain for n in range(a, b) if n not in held)
                found += [(a, token) for token in instead if not _take(others, token)]
        found += [(n, self.tokens[n].plain) for n in inside if n in self.kept]
        return [token for _, token in sorted(found, key=lambda pair: pair[0])]

    def survivors(self, inside: list[int]) -> list[str]:
        """Which of these tokens are left, whole or by half."""
        rest = self.output_of([n for n in inside if n not in self.kept])
        return [
            self.tokens[n].plain
            for n in inside
            if n in self.kept or any(_holds(token, self.tokens[n].plain) for token in rest)
        ]

    def removed(self, inside: list[int]) -> list[int]:
        """Which of these tokens are gone."""
        gone, held = [], set(inside)
        for a, b, instead in self.blocks:
            counter = Counter(instead)  # a word that stands twice before and once after is gone once
            gone += [n for n in range(a, b) if n in held and not _take(counter, self.tokens[n].plain)]
        return gone


def _take(counter: Counter, token: str) -> bool:
    """Whether a token was there to be taken."""
    if counter[token] > 0:
        counter[token] -= 1
        return True
    return False


def _holds(token: str, part: str) -> bool:
    """Whether a token holds a part, or three characters and half of it in a row."""
    size = SequenceMatcher(None, token, part, autojunk=False).find_longest_match().size
    return token == part or size >= max(3, (len(part) + 1) // 2)


@lru_cache(4096)
def _date_tokens(day: date, locale: str) -> list[list[str]]:
    return [[t.plain.lstrip("0") for t in tokens_of(form)] for form in date_forms(day, locale).values()]


def is_left(identifier: Identifier, alignment: Alignment, locale: str) -> bool:
    """Whether an identifier still stands."""
    if identifier.day is not None:
        output = [
            t.lstrip("0") for t in alignment.output_of(alignment.within(identifier.start, identifier.end))
        ]
        if identifier.kind == "birth_date":
            return any(t.isdigit() or t in MONTH_NAMES for t in output)
        forms = _date_tokens(identifier.day, locale)
        return any(output[n : n + len(form)] == form for form in forms for n in range(len(output)))
    marks = [n for start, end in identifier.marks for n in alignment.within(start, end)]
    left = alignment.survivors(marks)
    digits = sum(len(alignment.tokens[n].plain) for n in marks if alignment.tokens[n].plain.isdigit())
    numbers = sum(len(t) for t in left if t.isdigit())
    ideographs = sum(1 for t in left if re.fullmatch(f"[{IDEOGRAPH}]", t))
    words = [t for t in left if len(t) > 1 and not t.isdigit()]
    return bool(words) or ideographs > 1 or (digits > 0 and numbers >= min(3, digits))


@dataclass(frozen=True)
class Outcome:
    """Of one report: which identifiers are left; how many words and numbers that identify nobody it had, and which are gone.

    `clinical_*` counts the clinical sentences alone, without labels and headings.
    """

    left: tuple[bool, ...]
    words: int
    gone: tuple[tuple[int, int], ...]
    clinical_words: int
    clinical_gone: int


def compare(report: Report, cleaned: str) -> Outcome:
    """What a cleaned report still tells, and what it lost."""
    alignment = Alignment(report.text, cleaned)
    of_identifiers = {n for i in report.identifiers for n in alignment.within(i.start, i.end)}
    words = [n for n in range(len(alignment.tokens)) if n not in of_identifiers]
    clinical = {n for start, end in report.clinical for n in alignment.within(start, end)}
    gone = alignment.removed(words)
    return Outcome(
        left=tuple(is_left(i, alignment, report.locale) for i in report.identifiers),
        words=len(words),
        gone=tuple((alignment.tokens[n].start, alignment.tokens[n].end) for n in gone),
        clinical_words=len(clinical),
        clinical_gone=len(clinical.intersection(gone)),
    )


def words_lost(text: str, cleaned: str) -> tuple[int, int]:
    """(how many are gone, all) of the words and numbers of a text that identifies nobody; XXXX is what its publisher removed."""
    alignment = Alignment(text, cleaned)
    words = [n for n, t in enumerate(alignment.tokens) if not re.fullmatch("x{2,}", t.plain)]
    return len(alignment.removed(words)), len(words)
