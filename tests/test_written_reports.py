"""The invented reports hold what they say, and the measure finds what a cleaning leaves and takes. No rule of mmvae takes part."""

import random
import re
import tarfile
import unicodedata
from datetime import date, timedelta
from io import BytesIO

import pydicom
import pytest

from benchmarks import written_names, written_numbers
from benchmarks.deidentification import openi_texts
from benchmarks.left_shares import Measured, check_measure, share
from benchmarks.what_is_left import compare, words_lost
from benchmarks.written_reports import CULTURES, KINDS, Identifier, Report, write_report, write_reports


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    return list(write_reports(300, 7))


def blanked(report: Report, kept=()) -> str:
    """The text with every identifier but those kept replaced by a placeholder."""
    text = report.text
    for i in sorted(report.identifiers, key=lambda i: -i.start):
        text = text if i in kept else text[: i.start] + "[removed]" + text[i.end :]
    return text


def one(text: str, planted: str, kind: str, day: date | None = None, locale: str = "en-GB") -> Report:
    """A report with one identifier, every word of which identifies."""
    start = text.index(planted)
    marks = () if day else written_names.marks_of(planted, start)
    identifier = Identifier(kind, "english", start, start + len(planted), planted, marks, True, day)
    return Report(text, locale, "english", {}, (identifier,), ())


def test_a_report_is_drawn_again_by_its_seed_and_number(reports):
    assert write_report(7, 123) == reports[123]
    assert write_report(8, 123).text != reports[123].text


def test_every_planted_span_holds_its_text_and_its_marks(reports):
    for report in reports:
        for i in report.identifiers:
            assert report.text[i.start : i.end] == i.text
            assert i.day or i.marks
            assert all(i.start <= a < b <= i.end for a, b in i.marks)


def test_no_clinical_sentence_overlaps_an_identifier(reports):
    assert not [
        (i.text, start)
        for report in reports
        for i in report.identifiers
        for start, end in report.clinical
        if i.start < end and i.end > start
    ]


def test_every_kind_culture_and_language_occurs(reports):
    assert len(KINDS) == 20 and len(CULTURES) >= 12
    assert {i.kind for r in reports for i in r.identifiers} == set(KINDS)
    assert (
        {r.culture for r in reports} == {i.culture for r in reports for i in r.identifiers} == set(CULTURES)
    )
    assert {r.locale for r in reports} == {"fr", "en-GB", "en-US"}


def test_the_kinds_of_spelling_occur(reports):
    names = [i.text for r in reports for i in r.identifiers if i.kind == "patient_name"]
    assert any(unicodedata.normalize("NFC", n) != n for n in names), "decomposed"
    assert any("’" in n for n in names), "curly apostrophe"
    assert any(re.search("[\u4e00-\u9fff]", n) for n in names), "ideographs"
    assert any(n.isupper() for n in names) and any("," in n for n in names)


def test_every_header_is_written_and_read_as_dicom(reports):
    for report in reports[:60]:
        file = BytesIO()
        pydicom.dcmwrite(file, report.dataset(), implicit_vr=False, little_endian=True)
        again = pydicom.dcmread(BytesIO(file.getvalue()), force=True)
        assert {k: str(again[k].value) for k in report.header} == report.header


def test_the_headers_hold_no_description_and_no_study_date(reports):
    for report in reports[:60]:
        assert report.header["StudyDescription"] not in report.headers
        assert (
            report.header["PatientName"] in report.headers
            and report.header["PatientBirthDate"] in report.headers
        )


def test_everything_planted_is_found_in_the_text_as_it_is_and_nothing_in_blanks(reports):
    as_they_are = [compare(r, r.text) for r in reports]
    blanks = [compare(r, "") for r in reports]
    raw, blank = (
        [Measured(r, o, o) for r, o in zip(reports, outcomes)] for outcomes in (as_they_are, blanks)
    )
    assert check_measure(raw, blank) == {"found in the texts as they are": 1, "found in blanks": 0}
    with pytest.raises(ValueError, match=r"the measure finds 0\.0 of what was planted"):
        check_measure(blank, blank)


def test_the_one_identifier_that_a_cleaning_leaves_is_caught_and_no_other(reports):
    for report in reports[:100]:
        for kept in report.identifiers:
            outcome = compare(report, blanked(report, [kept]))
            assert [i for i, left in zip(report.identifiers, outcome.left) if left] == [kept]
            assert not outcome.gone


def test_a_cleaning_without_fault_leaves_nothing_and_takes_nothing(reports):
    for report in reports:
        outcome = compare(report, blanked(report))
        assert not any(outcome.left) and not outcome.gone and not outcome.clinical_gone


def test_every_word_of_a_clinical_sentence_that_goes_is_counted(reports):
    rng = random.Random(1)
    for report in reports[:100]:
        start, end = rng.choice(report.clinical)
        words = re.findall(r"\d+|[^\W\d_]+", report.text[start:end])
        outcome = compare(report, report.text[:start] + report.text[end:])
        assert len(outcome.gone) == outcome.clinical_gone == len(words)


@pytest.mark.parametrize(
    "rest", ["Lefèvre", "LEFEVRE", "Lefe", "Lef\u0065\u0300vre", "[name] Lefèvre", "Hélène", "xLefevre"]
)
def test_what_remains_of_a_name_is_left(rest):
    report = one("Signed by Hélène Lefèvre after review.", "Hélène Lefèvre", "reading_doctor")
    assert compare(report, f"Signed by {rest} after review.").left == (True,)


@pytest.mark.parametrize("rest", ["", "[NAME]", "H.", "XXXX", "someone", "[removed] [removed]"])
def test_what_is_no_rest_of_a_name_is_not_left(rest):
    report = one("Signed by Hélène Lefèvre after review.", "Hélène Lefèvre", "reading_doctor")
    assert compare(report, f"Signed by {rest} after review.").left == (False,)


def test_a_word_that_is_also_the_name_is_not_mistaken_for_it():
    report = one("Mrs White has normal white matter.", "White", "family_title")
    assert compare(report, "Mrs [name] has normal white matter.").left == (False,)
    assert compare(report, "Mrs White has normal matter.").left == (True,)
    assert len(compare(report, "Mrs [name] has normal matter.").gone) == 1


@pytest.mark.parametrize("form", ["12/03/2021", "2021-03-12", "12 March 2021", "20210312", "12.3.21"])
def test_a_date_is_left_in_any_form(form):
    report = one("Comparison: 12/03/2021, no change.", "12/03/2021", "earlier_date", date(2021, 3, 12))
    assert compare(report, f"Comparison: {form}, no change.").left == (True,)


@pytest.mark.parametrize("form", ["14/06/2021", "[date]", "12/04/2021", "2021", "03/12/2021"])
def test_a_shifted_or_removed_date_is_not_left(form):
    report = one("Comparison: 12/03/2021, no change.", "12/03/2021", "earlier_date", date(2021, 3, 12))
    assert compare(report, f"Comparison: {form}, no change.").left == (False,)


@pytest.mark.parametrize("form", ["12/03/1965", "14/06/1965", "1965", "March"])
def test_a_birth_date_may_not_even_be_shifted(form):
    report = one("Born 12/03/1965, female.", "12/03/1965", "birth_date", date(1965, 3, 12))
    assert compare(report, f"Born {form}, female.").left == (True,)
    assert compare(report, "Born [date], female.").left == (False,)


def test_every_form_of_a_date_is_found_as_that_date():
    for locale in ("fr", "en-GB", "en-US"):
        for n in range(0, 400, 7):
            day = date(2020, 1, 1) + timedelta(days=n)
            for form in written_numbers.date_forms(day, locale).values():
                report = one(f"of {form} here", form, "study_date", day, locale)
                assert compare(report, report.text).left == (True,)


def test_numbers_are_left_by_three_of_their_digits():
    text = "Call 01 99 00 12 34 at once."
    start = text.index("01")
    marks = tuple((start + a, start + b) for a, b in written_numbers.number_marks("01 99 00 12 34"))
    phone = Identifier("telephone", "french", start, start + 14, "01 99 00 12 34", marks, True)
    report = Report(text, "fr", "french", {}, (phone,), ())
    assert compare(report, "Call 01 99 at once.").left == (True,)
    assert compare(report, "Call 01 at once.").left == (False,)


def test_words_lost_of_a_real_report_leave_out_what_its_publisher_removed():
    assert words_lost("XXXX is a 3 cm cyst.", "is a cyst.") == (2, 5)
    assert words_lost("XXXX is a 3 cm cyst.", "") == (5, 5)


def test_an_interval_covers_the_share_and_has_a_width_where_nothing_is_found():
    some = share([(n % 2, 2) for n in range(200)])
    assert some["low"] < some["share"] == 0.25 < some["high"]
    assert share([(0, 5)] * 200) == {"share": 0, "low": 0, "high": 0.003, "of": 1000}


def test_the_sections_of_every_real_report_are_read(tmp_path):
    xml = "<e><Abstract><AbstractText Label='FINDINGS'>Clear &amp; normal.</AbstractText><AbstractText Label='IMPRESSION'/></Abstract></e>"
    (tmp_path / "openi_reports").mkdir()
    (tmp_path / "1.xml").write_text(xml)
    with tarfile.open(tmp_path / "openi_reports" / "ecgen-radiology-dev.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "1.xml", "ecgen-radiology/1.xml")
    assert openi_texts(tmp_path) == ["FINDINGS: Clear & normal."]
