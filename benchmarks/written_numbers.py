"""Invented dates, numbers and places of reports: as a header holds them, and as people write them."""

import itertools
import random
import re
from datetime import date

MONTHS = {
    "en": [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ],
    "fr": [
        "janvier",
        "février",
        "mars",
        "avril",
        "mai",
        "juin",
        "juillet",
        "août",
        "septembre",
        "octobre",
        "novembre",
        "décembre",
    ],
}
SHORT_MONTHS = {
    "en": ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"],
    "fr": ["janv", "févr", "mars", "avr", "mai", "juin", "juil", "août", "sept", "oct", "nov", "déc"],
}
WEEKDAYS = {
    "en": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "fr": ["lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche"],
}
STREETS = {
    "en-US": "Maple Avenue, Sycamore Drive, Jefferson Boulevard, Whispering Pines Road, Elm Street, Lakeview Terrace",
    "en-GB": "Church Lane, Station Road, Mill Hill, Victoria Crescent, Albion Street, Orchard Close",
    "fr": "rue des Lilas, avenue Jean-Jaurès, boulevard Gambetta, chemin du Moulin, impasse des Tilleuls, place de la République",
}  # fmt: skip
TOWNS = {
    "en-US": "Springfield IL 62704, Burlington VT 05401, Tucson AZ 85719, Madison, WI 53703",
    "en-GB": "Leeds LS6 2AB, Norwich NR3 1JJ, Swansea SA1 8QT, Truro TR1 3EX",
    "fr": "44000 Nantes, 67000 Strasbourg, 05100 Briançon, 29200 Brest, 13008 Marseille",
}  # fmt: skip
HOSPITALS = {
    "en-US": "Lakeview Medical Center, Saint Bernadette Hospital, Harlow Memorial Hospital, Tucson Imaging Associates",
    "en-GB": "Norwich General Hospital, St Swithin's Hospital, Royal Albion Infirmary, Truro Women's Clinic",
    "fr": "CHU de Nantes, Hôpital Saint-Anselme, Clinique des Tilleuls, Centre hospitalier de Briançon, Polyclinique Gambetta",
}  # fmt: skip
# Words of streets, places and addresses that identify nothing.
PLAIN = set(["avenue", "drive", "boulevard", "road", "street", "terrace", "lane", "hill", "crescent", "close", "station", "church", "mill", "rue", "chemin", "impasse", "place", "de", "la", "du", "des", "d", "medical", "center", "hospital", "memorial", "imaging", "associates", "general", "royal", "infirmary", "women", "s", "clinic", "st", "saint", "chu", "hôpital", "hopital", "clinique", "centre", "hospitalier", "polyclinique", "https", "http", "www", "org", "com", "net", "example", "pacs", "portal", "study", "viewer", "secretary", "radiology", "radiologie", "secretariat", "mri", "irm", "apt"])  # fmt: skip


def date_forms(day: date, locale: str) -> dict[str, str]:
    """A date as reports of a locale (en-US, en-GB, fr) write it, by form."""
    language = locale[:2]
    d, m, y = day.day, day.month, day.year
    month, short = MONTHS[language][m - 1], SHORT_MONTHS[language][m - 1]
    first, second = (m, d) if locale == "en-US" else (d, m)
    forms = {
        "slashes": f"{first:02}/{second:02}/{y}", "bare slashes": f"{first}/{second}/{y}", "short year": f"{first:02}/{second:02}/{y % 100:02}",
        "dashes": f"{first:02}-{second:02}-{y}", "ISO": f"{y}-{m:02}-{d:02}", "compact": f"{y}{m:02}{d:02}",
    }  # fmt: skip
    if locale == "en-US":
        forms |= {"name": f"{month} {d}, {y}", "short name": f"{short} {d}, {y}", "dotted name": f"{short}. {d} {y}", "capitals": f"{month.upper()} {d}, {y}"}  # fmt: skip
        return forms
    forms |= {"dots": f"{d:02}.{m:02}.{y}", "short dots": f"{d}.{m}.{y % 100:02}", "name": f"{d} {month} {y}", "capitals": f"{d} {month.upper()} {y}",
              "dashed name": f"{d:02}-{short}-{y}", "weekday": f"{WEEKDAYS[language][day.weekday()]} {d} {month} {y}", "year first": f"{y}/{m:02}/{d:02}"}  # fmt: skip
    if language == "fr":
        plain = month.translate(str.maketrans("éû", "eu"))
        return forms | {
            "without accents": f"{d} {plain} {y}", "first": f"{'1er' if d == 1 else d} {month} {y}", "short name": f"{d:02} {short}. {y}"
        }  # fmt: skip
    suffix = "th" if 10 < d < 20 else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th")
    return forms | {"ordinal": f"{d}{suffix} {month} {y}", "of": f"the {d}{suffix} of {month} {y}", "short name": f"{d} {short} {y % 100:02}"}  # fmt: skip


def write_date(day: date, locale: str, rng: random.Random, timed: bool = False) -> str:
    """A date in one of its forms, sometimes with a time of day."""
    form, text = rng.choice(list(date_forms(day, locale).items()))
    if timed and rng.random() < 0.3:
        hour, minute = rng.randrange(7, 20), rng.randrange(60)
        if form == "ISO":
            return text + rng.choice([f"T{hour:02}:{minute:02}:07", f" {hour:02}:{minute:02}"])
        if form == "compact":
            return f"{text} {hour:02}{minute:02}07"
        return text + (f" à {hour}h{minute:02}" if locale == "fr" else rng.choice([f" at {hour:02}:{minute:02}", f" {hour:02}:{minute:02} h"]))  # fmt: skip
    return text


def draw_number(kind: str, locale: str, born: date, rng: random.Random) -> str:
    """A number as its header holds it."""
    if kind == "patient_id":
        return rng.choice(["{:08}", "PAT-{:07}", "H{:07}", "{:010}", "MR{:06}"]).format(rng.randrange(10_000, 999_999)) if rng.random() < 0.8 else str(rng.randrange(10_000, 99_999))  # fmt: skip
    if kind == "accession":
        return rng.choice(["RX2021{:06}", "A{:08}", "{:09}", "21-{:07}", "E{:06}.1"]).format(
            rng.randrange(1000, 999_999)
        )
    if kind == "device":
        return rng.choice(["{:06}", "SN{:07}", "{:05}"]).format(rng.randrange(20_000, 99_999))
    if kind == "telephone":
        number = rng.randrange(10_000)
        return {"en-US": f"(555) 013-{number:04}", "en-GB": f"020 7946 {number:04}", "fr": f"01 99 00 {number // 100:02} {number % 100:02}"}[locale]  # fmt: skip
    if locale == "en-US":
        return f"{rng.randrange(100, 660)}-{rng.randrange(10, 99)}-{rng.randrange(1000, 9999)}"
    if locale == "fr":
        number = f"2{born.year % 100:02}{born.month:02}{rng.randrange(10, 95)}{rng.randrange(1, 999):03}{rng.randrange(1, 999):03}"
        return number + f"{97 - int(number) % 97:02}"
    return _nhs_number(rng)


def _nhs_number(rng: random.Random) -> str:
    """Ten digits, the last a check digit modulo 11."""
    while True:
        digits = [4, *(rng.randrange(10) for _ in range(8))]
        check = 11 - sum(d * (10 - n) for n, d in enumerate(digits)) % 11
        if check != 10:
            return "".join(map(str, digits)) + str(check % 11)


def write_number(kind: str, value: str, rng: random.Random) -> str:
    """A number as people copy it: leading zeros lost, other separators, another country prefix."""
    if kind == "telephone":
        digits = re.sub(r"\D", "", value)
        if digits.startswith("0"):
            code = "+44" if digits.startswith("02") else "+33"
            pairs = " ".join(digits[n : n + 2] for n in range(0, len(digits), 2))
            return rng.choice([value, digits, pairs.replace(" ", "."), pairs, f"{code} {value[1:]}", f"{code}{digits[1:]}", f"{code} (0){value[1:]}"])  # fmt: skip
        return rng.choice([value, value.replace("(", "").replace(") ", "-"), f"+1 {value}", digits, value.replace("(", "").replace(") ", ".").replace("-", ".")])  # fmt: skip
    if kind == "national_number":
        digits = re.sub(r"\D", "", value)
        if len(digits) == 15:
            cut = [0, 1, 3, 5, 7, 10, 13, 15]
        elif "-" in value:
            cut = [0, 3, 5, 9]
        else:
            cut = [0, 3, 6, 10]
        return rng.choice([value, digits, " ".join(digits[a:b] for a, b in itertools.pairwise(cut))])
    how = rng.random()
    if how < 0.5:
        return value
    prefix, digits, rest = re.fullmatch(r"(\D*)(\d+)(.*)", value).groups()  # pyright: ignore[reportOptionalMemberAccess]
    if how < 0.65:
        digits = digits.lstrip("0")
    elif how < 0.8:
        groups = [digits[max(0, n - 3) : n] for n in range(len(digits), 0, -3)][::-1]
        digits = rng.choice([" ", "-", "."]).join(groups)
    elif how < 0.9:
        prefix = prefix.lower()
    else:
        prefix = prefix.rstrip("-") + (rng.choice(["-", " ", "/"]) if prefix else "")
    return prefix + digits + rest


def number_marks(text: str) -> tuple[tuple[int, int], ...]:
    """Where the digits of a number stand."""
    return tuple(m.span() for m in re.finditer(r"\d+", text))


def place_marks(text: str) -> tuple[tuple[int, int], ...]:
    """The words and numbers of a place, an address or a link that identify it."""
    return tuple(
        m.span()
        for m in re.finditer(r"\d+|[^\W\d_]+", text)
        if (len(m.group()) > 1 and m.group().lower() not in PLAIN)
    )


def draw_address(locale: str, rng: random.Random) -> str:
    """House, street, town and postcode."""
    street, number = (
        rng.choice(STREETS[locale].split(", ")),
        rng.randrange(11, 4999 if locale == "en-US" else 199),
    )
    town = rng.choice(re.split(r", (?![A-Z]{2} )", TOWNS[locale]))
    return f"{number}{rng.choice([',', ' bis', '']) if locale == 'fr' else ''} {street}, {town}"


def write_address(value: str, rng: random.Random) -> str:
    """An address with other case or fewer commas."""
    return rng.choice([value, value, value.upper(), value.replace(",", ""), value.replace(", ", " - ")])
