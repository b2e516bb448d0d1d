"""Invented people of fourteen name cultures: how a DICOM header holds a name, and how a report writes it.

The lists hold frequent names, and on purpose names that are words of reports too (White, May, Petit, Klein, An, He).
"""

import random
import re
import unicodedata
from dataclasses import dataclass

# culture: given names; family names. Of Chinese, Japanese and Korean names "latin/ideographs/phonetic".
CULTURES = {
    "english": ("Margaret, Susan, Rose, May, Grace, Emily, Dawn, Iris, Olive, Charlotte, Mary Ann, Harriet, John, Peter, Mark, Bill, Frank, Grant, Guy, Jo",
                "Smith, Brown, Young, White, Long, Small, Short, Page, Baker, Stone, Field, Head, Wright, Thompson, Cooper-Hall, Ashworth, Gray, Cross, Hand, Fox"),
    "irish": ("Siobhán, Niamh, Gráinne, Aoife, Bríd, Deirdre, Caoimhe, Éamon, Seán, Pádraig, Ciarán, Una, Orla, Rory",
              "O'Brien, O'Sullivan, McCarthy, Mac Giolla Phádraig, Ó Dónaill, Byrne, McDonagh, O'Neill, Ní Chonaill, Fitzgerald, MacNamara, D'Arcy, Kelly"),
    "french": ("Hélène, Anne-Sophie, Zoé, Claire, Blanche, Rose, Marie-Thérèse, Françoise, Aimée, Chloë, Cécile, Jean-Pierre, Benoît, Loïc, Constant, Éloïse, Léa, Guy",
               "Lefèvre, de La Tour, Petit, Le Goff, d'Aubigné, Lebœuf, Legrand, Blanc, Roux, Dupont-Moretti, Grand, Gros, Béranger, de Saint-Exupère, L'Hermitte, Châtaignier, du Plessis, Noël, Garçon, Leclerc"),
    "german": ("Jürgen, Käthe, Brigitte, Björn, Annelore, Ursula, Götz, Hans-Peter, Lieselotte, Ute, Jörg, Rosemarie, Günther, Ida",
               "Müller, Groß, Klein, Weiß, Schäfer, von Löwenstein, Lang, Kurz, Köhler, Stark, Strauß, Jäger, Meyer-Lübke, Schönfeld, zu Guttenau, Böhm, Brenner, Kühn"),
    "spanish": ("María José, Lucía, Begoña, Concepción, Íñigo, Ángeles, Rocío, Joaquín, Nuria, Iván, Pilar, Sol, Luz, Ana",
                "García Márquez, Muñoz Pérez, de la Fuente Ruiz, Ibáñez Soto, Blanco Núñez, Peña Gómez, Castaño Gil, Del Río Sáez, Rojas León, Zúñiga Cruz, Leal Vega, Paz Rubio"),
    "portuguese": ("Conceição, João, Inês, Fátima, Vitória, Lurdes, Antônio, Estêvão, Luísa, Rui, Íris, Graça, Iara",
                   "da Silva, dos Santos Araújo, Gonçalves, Magalhães Costa, de Sousa Brandão, Simões, Conceição Leitão, e Melo, Falcão, Brás, Pinto, Rocha Lima, Cunha"),
    "dutch": ("Anneke, Marijke, Joost, Daniël, Femke, Willemijn, Sjoerd, Cornelis, Ilse, Bram, Noor, Renée",
              "van der Berg, de Vries, van 't Hof, ten Brink, van den Heuvel, Jansen, de Groot, van Dijk, op den Camp, ter Horst, Klein, de Lange, 't Hart"),
    "polish_czech": ("Małgorzata, Agnieszka, Łucja, Żaneta, Zdeněk, Jiří, Božena, Václav, Bożena, Stanisław, Šárka, Ewa, Iva",
                     "Wójcik, Kowalska-Nowak, Szczepańska, Dvořák, Novotná, Łukasiewicz, Świątek, Černý, Kučerová, Żak, Říha, Grzegorzewska, Bąk, Malý"),
    "turkish": ("Ayşe, Gülşen, Işıl, İbrahim, Çağla, Özgür, Emine, Yağmur, Ümit, Şule, Can, Ece",
                "Yılmaz, Öztürk, Çelik, Şahin, Kılıç, Güneş, Aydın, Erdoğmuş, İnce, Uzun, Kısa, Küçük"),
    "arabic": ("Fatima Zahra, Khadija, Aïcha, Nour, Layla, Abd al-Rahman, Youssef, Abdelkader, Samira, Rim, Ali, Iman, Ibtissam, Sid-Ahmed",
               "al-Khatib, El Amrani, ben Salah, Haddad, bin Rashid, Abu Zayd, Bouzid, al-Tamimi, El-Sayed, Benali, Ould Brahim, Sy, Naji, Aït Lahcen"),
    "vietnamese": ("Thị Hương, Văn Đức, Ngọc Ánh, Minh An, Thị Mai, Quốc Bảo, Thu Hà, Đình Vũ, Lan, Kim Liên, Nam, Hoa",
                   "Nguyễn, Trần, Lê, Phạm, Đỗ, Hồ, Ngô, Vũ, Đặng, Bùi, Lý, Võ"),
    "chinese": ("Fang/芳, Xiaoming/晓明, Li/丽, Weimin/伟民, Yu/玉, Guoqiang/国强, An/安, Meihua/美华, Jing/静, Jianhong/建红, Bo/波, Xiu'e/秀娥",
                "Wang/王, Li/李, He/何, Wu/吴, Zhang/张, Ouyang/欧阳, Su/苏, Lü/吕, You/游, Long/龙, Xu/徐, Yang/杨"),
    "japanese": ("Tarō/太郎/たろう, Hanako/花子/はなこ, Shin'ichi/真一/しんいち, Yūko/裕子/ゆうこ, Mai/舞/まい, Kenji/健二/けんじ, Aiko/愛子/あいこ, Jun/淳/じゅん",
                 "Yamada/山田/やまだ, Satō/佐藤/さとう, Itō/伊藤/いとう, Ōno/大野/おおの, Mori/森/もり, Abe/阿部/あべ, Kobayashi/小林/こばやし, Watanabe/渡辺/わたなべ"),
    "korean": ("Min-jun/敏俊/민준, Gil-dong/吉洞/길동, Seo-yeon/瑞妍/서연, Ji-woo/智友/지우, Eun-ju/恩珠/은주, Young-hee/英姬/영희, Su-bin/秀彬/수빈",
               "Kim/金/김, Lee/李/이, Park/朴/박, Hong/洪/홍, An/安/안, No/盧/노, Choe/崔/최, Namgung/南宮/남궁"),
}  # fmt: skip
# Words of a name that identify nobody by themselves, without accents.
PARTICLES = set(["van", "der", "den", "de", "la", "le", "du", "d", "l", "da", "do", "dos", "das", "e", "del", "von", "zu", "ten", "ter", "op", "t", "o", "ni", "mac", "mc", "al", "el", "bin", "ben", "abu", "ould", "ait", "abd", "thi", "saint"])  # fmt: skip
LETTERS = str.maketrans({"ß": "ss", "œ": "oe", "Œ": "OE", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ı": "i", "æ": "ae", "ø": "o"})  # fmt: skip
UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss", "ë": "e", "ï": "i"})  # fmt: skip


@dataclass(frozen=True)
class Person:
    """One name: its Latin spelling, and where the culture has them (family, given) in ideographs and in a phonetic script."""

    culture: str
    family: str
    given: str
    ideographs: tuple[str, str] | None = None
    phonetic: tuple[str, str] | None = None


@dataclass(frozen=True)
class Written:
    """A piece of a report, and which parts of it (start, end) identify."""

    text: str
    marks: tuple[tuple[int, int], ...]


def draw_person(rng: random.Random, culture: str) -> Person:
    """Someone of a culture."""
    given, family = (rng.choice(names.split(", ")).split("/") for names in CULTURES[culture])
    groups = [pair for pair in zip(family, given)][1:]
    return Person(culture, family[0], given[0], *groups)


def without_accents(text: str) -> str:
    """ASCII as an old system keeps it: é as e, ß as ss, œ as oe, ł as l."""
    return "".join(
        c for c in unicodedata.normalize("NFD", text.translate(LETTERS)) if not unicodedata.combining(c)
    )


def header_value(person: Person, rng: random.Random) -> str:
    """The value of a PN element: components by `^`, groups by `=`, as carefully or carelessly kept as headers are."""
    family, given = person.family, person.given
    how = rng.random()
    if how < 0.35:
        family, given = without_accents(family).upper(), without_accents(given).upper()
    elif how < 0.45:
        family, given = without_accents(family.translate(UMLAUTS)), without_accents(given.translate(UMLAUTS))
    first, *middle = given.split(" ") if rng.random() < 0.5 else [given]
    latin = "^".join([family, first, *([" ".join(middle)] if middle else [])])
    if rng.random() < 0.1:
        latin += "^" * (4 - latin.count("^")) + rng.choice(["MD", "PhD"])
    if person.ideographs and rng.random() < 0.8:
        latin += "=" + "^".join(person.ideographs)
        if person.phonetic and rng.random() < 0.8:
            latin += "=" + "^".join(person.phonetic)
    return latin


def marks_of(text: str, start: int = 0) -> tuple[tuple[int, int], ...]:
    """Where the words of a written Latin name are that identify: two letters or more, and no particle unless nothing else is there."""
    words = [
        w for w in re.finditer(r"(?:[^\W\d_]|[\u0300-\u036f])+", text) if len(without_accents(w.group())) > 1
    ]
    telling = [w for w in words if without_accents(w.group()).lower() not in PARTICLES] or words
    return tuple((start + w.start(), start + w.end()) for w in telling)


def spell(name: str, rng: random.Random) -> str:
    """A name as hurried people and old systems spell it: zero to two of the usual changes."""
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        name = rng.choice(
            [without_accents, str.upper, str.lower, lambda n: n.translate(UMLAUTS), lambda n: n.translate(LETTERS),
             lambda n: n.replace("-", " "), lambda n: n.replace("-", ""), lambda n: n.replace("'", "’"),
             lambda n: n.replace("'", "").replace("’", ""), lambda n: unicodedata.normalize("NFD", n),
             lambda n: re.sub(r"\s+", "\N{NO-BREAK SPACE}", n), _attach_particles, _drop_particles, str.title]
        )(name)  # fmt: skip
    return name


def _attach_particles(name: str) -> str:
    """Vanderberg for van der Berg, Alkhatib for al-Khatib, Obrien for O'Brien."""
    words = re.split(r"[ '’-]", name)
    if len(words) < 2 or without_accents(words[0]).lower() not in PARTICLES:
        return name
    return "".join(words).capitalize()


def _drop_particles(name: str) -> str:
    """Berg for van der Berg."""
    words = name.split(" ")
    while len(words) > 1 and without_accents(words[0]).lower() in PARTICLES:
        words = words[1:]
    return " ".join(words)


def initials_of(given: str, rng: random.Random) -> str:
    """J.-P., J.P., JP or J. of Jean-Pierre."""
    first = [word[0].upper() for word in re.split(r"[ '-]", given) if word]
    return rng.choice(
        [".-".join(first) + ".", ".".join(first) + ".", "".join(first), first[0] + ".", first[0]]
    )


def write_full(person: Person, rng: random.Random) -> Written:
    """Given and family name in any order and script."""
    groups = [g for g in (person.ideographs, person.phonetic) if g]
    if groups and rng.random() < 0.4:
        text = rng.choice(["", "", " ", "\N{IDEOGRAPHIC SPACE}"]).join(rng.choice(groups))
        return Written(text, ((0, len(text)),))
    family, given = spell(person.family, rng), spell(person.given, rng)
    text = rng.choice(
        [f"{given} {family}", f"{given} {family}", f"{family}, {given}", f"{family} {given}", f"{family.upper()} {given}",
         f"{family.upper()}, {given}", f"{given} {family.upper()}", f"{family},{given}"]
    )  # fmt: skip
    return Written(text, marks_of(text))


def write_family(person: Person, rng: random.Random) -> Written:
    """The family name alone, of two families sometimes the first."""
    family = person.family
    if person.culture == "spanish" and rng.random() < 0.3:
        family = family.rsplit(" ", 1)[0]
    text = spell(family, rng)
    return Written(text, marks_of(text))


def write_given(person: Person, rng: random.Random) -> Written:
    """The given name alone."""
    text = spell(person.given, rng)
    return Written(text, marks_of(text))


def write_initials(person: Person, rng: random.Random) -> Written:
    """Initials and family name, in either order."""
    family, initials = spell(person.family, rng), initials_of(person.given, rng)
    text = rng.choice([f"{initials} {family}", f"{family} {initials}", f"{family}, {initials}"])
    start = text.index(family)
    return Written(text, marks_of(family, start))
