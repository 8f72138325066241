"""The facts of a prompt that a rewrite must keep: links, code, quotes, names, dates, numbers and demands on the form.

A fact has a key, equal for every way of writing it ("5" and "five", "3 May" and "2025-05-03"), and the text that shows
it. Each kind is looked for where the ones before it left something: a number inside a link is a part of the link.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from prompt_opt.gate.dates import dates, take
from prompt_opt.gate.language import CJK, Lexicon, bare, lexicons, plain, unaccented
from prompt_opt.gate.names import names

Facts = Mapping[str, str]  # key -> the text that shows it
_LINK = re.compile(
    r"(?:https?://|www\.)[^\s<>\"'`，。；：！？、）】」』《》]+|[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+|(?<![\w&])[@#][A-Za-z]\w+"
)
_FENCED = re.compile(r"(```|~~~)[^\n]*\n(.*?)(?:\1|\Z)", re.DOTALL)
_SPAN = re.compile(  # mathematics as pandoc tells it from sums of money
    r"(?<!`)(`{1,2})(?!`)([^\n]+?)\1(?!`)|\$(?=\S)([^$\n]{1,200})(?<=\S)\$(?!\d)"
)
_WRITTEN = re.compile(  # identifiers, calls, placeholders, options, LaTeX
    r"\b[A-Za-z][A-Za-z0-9]{0,32}_\w+|\b[a-z]{2,32}[A-Z]\w*|\b[A-Za-z_][\w.]{0,64}\(\)|\{\{?\w+\}?\}|</?[A-Za-z][\w-]*>"
    r"|(?<!\S)--?[a-z][\w-]+|\\[a-z]+"
)
_LINE = re.compile(  # a line of code that stands in the text without a fence
    r"^[^\S\n]*+(?:(?:def|class|import|from|for|while|if|return|print|public|private|var|let|const|function|#include|SELECT)\b"
    r".*[;:(){}=].*|.*[;{}]|[^\n=<>+]{0,80}\w\([^)\n]*\)[^\n=<>+]{0,80}[=<>+].*)[^\S\n]*$",
    re.MULTILINE,
)
_KEYWORD = re.compile(r"\s*(?:def|class|import|from|for|while|if|return|print|public|private|var|let|const|function)\b")
_QUOTES = re.compile(
    r"“([^“”]{1,400})”|«\s?([^«»]{1,400}?)\s?»|„([^„“”]{1,400})[“”]|「([^「」]{1,400})」|『([^『』]{1,400})』"
    r"|《([^《》]{1,200})》|\"([^\"\n]{1,400})\"|(?<![\w’'])['‘](?=\S)([^'‘’\n]{2,200})(?<=\S)['’](?!\w)"
)
_OPERAND = r"\(*(?:\d[\d.,]{0,30}[A-Za-z]?|[A-Za-z])\)*"
_CALCULATION = re.compile(rf"(?<![\w.,]){_OPERAND}(?:(?:\s?[+*/^=×÷]\s?|\s-\s){_OPERAND})+(?!\w)")
_NUMBER = re.compile(r"(?<![\d.,])\d+(?:[.,]\d+)*(?:\s?[万亿])?")
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?!\d)")  # 1 640
_MARKER = re.compile(r"^[^\S\n]*+\d{1,2}[.)](?=\s)", re.MULTILINE)
_ZH_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"两": 2}
_ZH_COUNT = re.compile(
    "[二两三四五六七八九十百]+(?=[个种点条道位本天年月岁名句行段次项章部首篇只张件家节步层倍周字元人口份类小度摄])"
)
_FORMATS = re.compile(r"(?<![A-Za-z])(JSON|XML|YAML|CSV|HTML|Markdown|LaTeX|SQL|TSV)(?![A-Za-z])", re.IGNORECASE)
CONTAINERS = frozenset({"JSON", "XML", "YAML", "CSV", "TSV", "HTML", "a table"})


_UNITS = {
    name: names[0]
    for names in (
        ["kg", "kilo", "kilos", "kilogram", "kilograms", "kilogramm", "公斤", "千克"],
        ["g", "grams", "gramm", "grammes"],
        ["lb", "lbs", "pounds of"], ["oz", "ounces"], ["km", "kilometers", "kilometres", "kilometer", "公里"],
        ["miles", "mile", "meilen"], ["m", "meters", "metres", "meter", "米"], ["cm", "厘米"], ["mm"], ["ft", "feet"],
        ["inches", "inch"], ["$", "dollar", "dollars", "usd", "美元"], ["€", "euro", "euros", "eur", "欧元"],
        ["£", "gbp"], ["¥", "yuan", "元"], ["%", "percent", "prozent", "pour cent", "por ciento"], ["°c"], ["°f"],
        ["minutes", "minute", "min", "minuten", "minutos", "分钟"],
        ["hours", "hour", "h", "stunden", "stunde", "heures", "heure", "horas", "hora", "小时"],
        ["days", "day", "tage", "tagen", "tag", "jours", "jour", "días", "día", "dias", "天"],
        ["weeks", "week", "wochen", "woche", "semaines", "semaine", "semanas", "semana", "周"],
        ["months", "month", "monate", "monaten", "monat", "mois", "meses", "mes", "个月"],
        ["years", "year", "jahre", "jahren", "jahr", "ans", "an", "años", "año", "年"],
    )
    for name in names
}  # fmt: skip
_UNIT = re.compile(
    rf"([$€£¥])?\s?(?<![\d.,])(\d+(?:[.,]\d+)*)[\s-]?"
    rf"({'|'.join(re.escape(u) for u in sorted(_UNITS, key=len, reverse=True))})?(?![A-Za-zÀ-ÿ])",
    re.IGNORECASE,
)


def squeeze(text: str) -> str:
    """Without any white space."""
    return re.sub(r"\s+", "", text)


def even(text: str) -> str:
    """With single blanks for all white space."""
    return " ".join(text.split())


@lru_cache(maxsize=64)
def facts(text: str, lex: Lexicon) -> Mapping[str, Facts]:
    """The facts of a text by rule: link, code, quote, name, date, number, format."""
    out: dict[str, dict[str, str]] = {
        rule: {} for rule in ("link", "code", "quote", "name", "date", "number", "format")
    }
    source = text
    text = _code(text, source, out["code"], fenced=True)

    def link(m: re.Match[str]) -> bool:
        found = m[0].rstrip(".,;:!?)")
        out["link"][found] = found
        return True

    text = take(text, _LINK, link)
    text = _code(text, source, out["code"], fenced=False)

    def quote(m: re.Match[str]) -> bool:
        inner = next(group for group in m.groups() if group)
        out["quote"][folded(inner)] = inner
        return bool(folded(inner))

    text = plain(take(text, _QUOTES, quote))
    out["format"] = demands(text, lex)
    out["name"] = {key: shown for key, shown in names(text, lex).items() if not _FORMATS.fullmatch(shown)}
    text = dates(text, out["date"])
    for m in _CALCULATION.finditer(text):
        if re.search(r"\d", m[0]):
            out["number"][squeeze(m[0])] = m[0]
    for m in _NUMBER.finditer(_MARKER.sub("", text)):
        out["number"] |= {value(n): n for n in split(m[0])}
    out["number"] |= {str(n): word for word, n in _number_words(text, lex)}
    return MappingProxyType(out)


def folded(text: str) -> str:
    """A quote without what a rewrite may change: case, spacing, accents and punctuation that were left out."""
    return unaccented(bare(text)) or squeeze(text)


def _code(text: str, source: str, out: dict[str, str], *, fenced: bool) -> str:
    """Blank out code. Positions are those of `source`, where earlier finds still stand; `out` gets the code whole."""

    def add(shown: str) -> bool:
        if even(shown):
            out[even(shown)] = shown.strip()
        return True

    if fenced:
        text = take(text, _FENCED, lambda m: add(m[2]))
        return take(text, _SPAN, lambda m: add(m[2] or m[3]))
    text = take(text, _LINE, lambda m: add(_bare(source[m.start() : m.end()])))
    return take(text, _WRITTEN, lambda m: add(m[0]))


def _bare(line: str) -> str:
    """A line of code without the prose before and after it."""
    signed = [m for m in re.finditer(r"\S+", line) if re.search(r"[()\[\]{}=;]", m[0])]
    if not signed:
        return line
    return line[0 if _KEYWORD.match(line) else signed[0].start() : signed[-1].end()]


def split(written: str) -> list[str]:
    """ "3,14" and "1,250,000" are one number each, "3,7,19" and "9.8.2024" are several."""
    if len(re.findall("[.,]", written)) < 2 or re.fullmatch(r"\d{1,3}(?:([.,])\d{3})(?:\1\d{3})*(?:[.,]\d+)?", written):
        return [written]
    return re.findall(r"\d+", written)


def value(number: str) -> str:
    """A number's value as text: "12,500", "12.500" and "12500" are one, so are "2,40" and "2.4"."""
    number, unit = (number[:-1].strip(), number[-1]) if number[-1] in "万亿" else (number, "")
    if re.fullmatch(r"\d{1,3}([.,]\d{3})+", number):
        number = re.sub("[.,]", "", number)
    number = number.replace(",", ".")
    if number.count(".") > 1:
        return number
    number = number.rstrip("0").rstrip(".") if "." in number else number
    if unit:
        return str(round(float(number) * (10**4 if unit == "万" else 10**8)))
    whole, dot, part = number.partition(".")
    return (whole.lstrip("0") or "0") + dot + part


def _number_words(text: str, lex: Lexicon) -> list[tuple[str, int]]:
    if lex.language == "zh":
        return [(m[0], _zh_number(m[0])) for m in _ZH_COUNT.finditer(text)]
    return [(word, lex.numbers[small]) for word, small in _words(text) if small in lex.numbers]


@lru_cache(maxsize=64)
def _words(text: str) -> tuple[tuple[str, str], ...]:
    """Each word as it stands, and in small letters."""
    return tuple((word, word.lower()) for word in re.findall(r"[^\W\d_]+", text))


def _zh_number(text: str) -> int:
    """二 to 九百九十九."""
    hundreds, _, rest = text.rpartition("百")
    tens, ten, ones = rest.rpartition("十")
    total = 100 * _ZH_DIGITS.get(hundreds[-1:], 1) if "百" in text else 0
    return total + (10 * _ZH_DIGITS.get(tens[-1:], 1) if ten else 0) + _ZH_DIGITS.get(ones[-1:], 0)


@lru_cache(maxsize=64)
def all_numbers(text: str, lex: Lexicon) -> frozenset[str]:
    """The value of every number that stands in a text as a word of its own."""
    text = plain(text)
    found = {value(n) for m in re.finditer(r"\d+(?:[.,]\d+)*(?:\s?[万亿])?", text) for n in split(m[0])}
    found |= {re.sub(r"\s", "", m[0]) for m in _SPACED.finditer(text)}
    found |= {str(n) for other in {lex, *lexicons()} for _, n in _number_words(text, other)}
    ones = {"en": r"\bone\b", "de": r"\beine?[mnrs]?\b", "fr": r"\bune?\b", "es": r"\buna?\b", "zh": "一"}
    return frozenset(found | ({"1"} if re.search(ones.get(lex.language, "(?!)"), text, re.IGNORECASE) else set()))


@lru_cache(maxsize=64)
def compounds(text: str, lex: Lexicon) -> frozenset[tuple[str, str]]:
    """What may be a number in a German compound, and the rest of the word: "11", "jahrig"; "8", "en" of "achten"."""
    if lex.language != "de":
        return frozenset()
    words = [small for _, small in _words(plain(text))]
    return frozenset(
        (str(n), unaccented(small[len(word) :]))
        for small in words for word, n in lex.numbers.items() if small.startswith(word) and small != word
    )  # fmt: skip


def in_compound(number: str, shown: str, original: str, rewrite: str, lex: Lexicon) -> bool:
    """Whether a compound of the rewrite holds a number of the original and what is counted by it: "elf Jahre alt" is in
    "elfjährig", "acht Wochen" is not in "achten". Where nothing is counted ("mein Sohn (8)"), any compound will do."""
    rests = [rest for n, rest in compounds(rewrite, lex) if n == number and len(rest) > 2]
    if not rests:
        return False
    counted = re.findall(rf"(?<!\w){re.escape(shown)}[\s-]*([^\W\d_]{{3,}})", plain(original), re.IGNORECASE)
    return not counted or any(rest.startswith(unaccented(word.lower())[:4]) for word in counted for rest in rests)


@lru_cache(maxsize=64)
def units(text: str) -> Mapping[str, set[str]]:
    """Value -> the units and currencies that the number stands with."""
    out: dict[str, set[str]] = {}
    for m in _UNIT.finditer(plain(text)):
        if unit := (m[1] or m[3] or "").lower():
            out.setdefault(value(m[2]), set()).add(_UNITS[unit])
    return out


def demands(text: str, lex: Lexicon) -> dict[str, str]:
    """What a text demands of the answer's form: a format, a limit, an order, a language."""
    out = {m[1].upper(): m[0] for m in _FORMATS.finditer(text)}
    for what, pattern in lex.demands:
        if m := pattern.search(text):
            out[what] = m[0]
    out |= {f"in language {lex.tongues[m[1].lower()]}": m[0] for m in lex.into.finditer(text)}
    return out


def holds(text: str, part: str) -> bool:
    """Whether `part` stands in a text, not within a word (of letters that need blanks between words)."""
    letter = f"[^\\W{CJK}]"
    before = rf"(?<!{letter})" if re.match(letter, part) else ""
    after = rf"(?!{letter})" if re.match(letter, part[-1:]) else ""
    return re.search(before + re.escape(part) + after, text) is not None


def code_share(text: str) -> float:
    """How much of a text is code: fenced, or lines that look like it."""
    fenced = sum(len(m[0]) for m in _FENCED.finditer(text))
    rest = _FENCED.sub("", text)
    return (fenced + sum(len(m[0]) for m in _LINE.finditer(rest))) / max(1, len(text))
