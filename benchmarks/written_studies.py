"""The people, dates and numbers of one invented study: as its header holds them, and as a report writes them."""

import random
import re
from datetime import date, timedelta

from benchmarks import written_names as names
from benchmarks import written_numbers as numbers

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
# Elements that identify nobody: their words stay in a report.
DESCRIPTIONS = (
    "StudyDescription",
    "SeriesDescription",
    "ReasonForStudy",
    "PatientSex",
    "PatientAge",
    "Modality",
)


class Study:
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
