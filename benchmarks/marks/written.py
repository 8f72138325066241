"""150 answers in five languages, 30 each, with the citations that they are written to have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from prompt_opt.core import Principle


class Answer(NamedTuple):
    """An answer and what is in it, ids of rules or marks."""

    id: str
    rules: tuple[Principle, ...]
    text: str
    cited: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    altered: frozenset[str] = frozenset()
    unmarked: frozenset[str] = frozenset()


# language -> two rules: id, title, text, an altered form of it
RULES = {
    "en": (
        ("law-12", "Records Act, section 12", "Keep all records for ten years.", "Keep all records for five years."),
        ("law-7", "Work Act, article 7", "Notice must be given in writing before the end of the month.",
         "Notice may be given by phone before the end of the month."),
    ),
    "de": (
        ("bgb-573", "Mietgesetz, Paragraf 3", "Der Vermieter muss die Kaution binnen dreißig Tagen zurückzahlen.",
         "Der Vermieter muss die Kaution binnen neunzig Tagen zurückzahlen."),
        ("dsgvo-art-6", "Datenschutzgesetz, Artikel 6",
         "Daten dürfen nur mit Einwilligung der Person verarbeitet werden.",
         "Daten dürfen auch ohne Einwilligung der Person verarbeitet werden."),
    ),
    "fr": (
        ("code-L1221", "Code du travail, article 1221", "Le salarié a droit à vingt-cinq jours de congé par an.",
         "Le salarié a droit à trente jours de congé par an."),
        ("ecole-4", "Règlement de l'école, 4", "Les téléphones restent éteints et rangés pendant les cours.",
         "Les téléphones restent allumés et rangés pendant les cours."),
    ),
    "es": (
        ("ley-31", "Ley de arrendamiento, artículo 31", "El inquilino puede tener un gato sin pedir permiso al dueño.",
         "El inquilino puede tener tres gatos sin pedir permiso al dueño."),
        ("puerto-8", "Reglamento del puerto, 8", "Los barcos navegan en el puerto a cinco nudos como máximo.",
         "Los barcos navegan en el puerto a nueve nudos como máximo."),
    ),
    "zh": (
        ("劳动法-36", "劳动法第三十六条", "劳动者每日工作时间不得超过八小时。", "劳动者每日工作时间不得超过十小时。"),
        ("校规-5", "学校规定第五条", "学生上课期间应当关闭手机并放入书包。", "学生上课期间可以打开手机并放入书包。"),
    ),
}  # fmt: skip
QUOTES = {"en": "“”", "de": "„“", "fr": "«»", "es": "«»", "zh": "「」"}
# language -> says, and see, question, cut in two, an ordinary phrase in quotation marks, a number in brackets, a place
WORDS = {
    "en": ("The rule says", "see", "You asked", "the “old way” of doing things", "[Your Name]", "Article 99"),
    "de": ("Die Regel sagt", "siehe", "Sie fragten", "die „alte Art“ der Dinge", "[Ihr Name]", "Artikel 99"),
    "fr": ("La règle dit", "voir", "Vous demandez", "la « vieille manière » de faire", "[Votre nom]", "Article 99"),
    "es": ("La regla dice", "véase", "Usted preguntó", "la «vieja manera» de hacer", "[Su nombre]", "Artículo 99"),
    "zh": ("规定写道", "参见", "您问的是", "所谓「老办法」", "[您的姓名]", "第九十九条"),
}  # fmt: skip


Form = tuple[str, dict[str, list[str]]]


def answers() -> Iterator[Answer]:
    """All of them; those of an even number are to tune on."""
    for language, rows in RULES.items():
        rules = tuple(Principle(ident, text, title, index="law") for ident, title, text, _ in rows)
        for at, row in enumerate(rows):
            for number, (answer, has) in enumerate(_forms(language, *row, rows[1 - at][0])):
                named = {kind: frozenset(value) for kind, value in has.items()}
                yield Answer(f"{language}-{at}-{number}", rules, answer, **named)


def _forms(language: str, ident: str, title: str, text: str, wrong: str, other: str) -> list[Form]:
    """Fifteen ways of citing one rule, right and wrong."""
    says, see, asked, idle, blank, place = WORDS[language]
    left, right = QUOTES[language]
    stop = "。" if language == "zh" else "."
    bare, bad = text.rstrip(".。"), wrong.rstrip(".。")
    first, second = bare[: len(bare) // 2], bare[len(bare) // 2 :]
    if " " in bare:
        words = bare.split()
        first, second = " ".join(words[:3]), " ".join(words[-3:])
    strange = other.rstrip("0123456789") + "999"
    quote, twisted = f"{left}{bare}{right}", f"{left}{bad}{right}"
    return [
        (f"{says}: {quote} [{ident}]{stop}", {"cited": [ident]}),
        (f"{says}: {twisted} [{ident}]{stop}", {"cited": [ident], "altered": [ident]}),
        (f"{bare} [{ident}]{stop} {says} {idle}{stop}", {"cited": [ident]}),
        (f"{bare} [{strange}]{stop}", {"unknown": [strange]}),
        (f"{bare} [{ident}, {strange}]{stop}", {"cited": [ident], "unknown": [strange]}),
        (f"{says}: {quote}{stop}", {"unmarked": [ident]}),
        (f"[{ident.upper()}] {says}: {twisted}{stop}", {"cited": [ident], "altered": [ident]}),
        (f"{bare} ({see} {ident}){stop} {blank}", {"cited": [ident]}),
        (f"> {wrong}\n\n[{ident}]", {"cited": [ident], "altered": [ident]}),
        (f"- [{ident}] {title}: {text}\n- [{other}]", {"cited": [ident, other]}),
        (f"- [{ident}] {title}: {wrong}\n", {"cited": [ident], "altered": [ident]}),
        (f"{bare} [{place}]{stop}", {"unknown": [place]}),
        (f"{says}: {left}{first} […] {second}{right} 【{ident}】{stop}", {"cited": [ident]}),
        (f"{says}: {quote} [{other}]{stop}", {"cited": [other], "altered": [other]}),
        (f"{asked} {left}{title}?{right} {bare}{stop} [1]({see}) x[0]", {}),
    ]
