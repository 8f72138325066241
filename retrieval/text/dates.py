"""Dates as people, programs and official journals write them, to ISO dates.

A date whose day and month could be either is refused: 03/04/2025 is no date, 13/04/2025 is one.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import date, datetime

from retrieval.text.numeral import HAN, han

# By month; those of one language are found by their whole name or its first letters as written in dates.
_NAMES = (
    "january jan januar janvier enero gennaio januari janeiro stycznia styczeń ledna leden január ianuarie января"
    " январь січня ocak ιανουαρίου ιανουάριος يناير janeiro tammikuuta",
    "february feb februar février fév févr febrero febbraio februari fevereiro lutego luty února únor február februarie"
    " февраля февраль лютого şubat φεβρουαρίου فبراير helmikuuta",
    "march mar mär märz maart mars marzo março marca marzec března březen március marec martie марта март березня mart"
    " μαρτίου مارس maaliskuuta maret",
    "april apr avril avr abril abr aprile kwietnia kwiecień dubna duben április aprilie апреля апрель квітня nisan"
    " απριλίου أبريل huhtikuuta",
    "may mai mayo maggio mei maio maja maj května květen május mai мая май травня mayıs μαΐου مايو toukokuuta máj",
    "june jun juni juin junio giugno junho czerwca czerwiec června červen június iunie июня июнь червня haziran ιουνίου"
    " يونيو kesäkuuta jún",
    "july jul juli juillet juil julio luglio julho lipca lipiec července červenec július iulie июля июль липня temmuz"
    " ιουλίου يوليو heinäkuuta júl",
    "august aug août agosto augustus augusti sierpnia sierpień srpna srpen augusztus august августа август серпня"
    " ağustos αυγούστου أغسطس elokuuta agustus",
    "september sep sept septembre septiembre settembre setembro września wrzesień září szeptember septembrie сентября"
    " сентябрь вересня eylül σεπτεμβρίου سبتمبر syyskuuta",
    "october oct okt oktober octobre octubre ottobre outubro października październik října říjen október octombrie"
    " октября октябрь жовтня ekim οκτωβρίου أكتوبر lokakuuta",
    "november nov novembre noviembre novembro listopada listopad listopadu noiembrie ноября ноябрь листопада"
    " kasım νοεμβρίου نوفمبر marraskuuta",
    "december dec dez déc dezember décembre diciembre dicembre dezembro grudnia grudzień prosince prosinec december"
    " decembrie декабря декабрь грудня aralık δεκεμβρίου ديسمبر joulukuuta desember",
)
_MONTHS = {name: month for month, names in enumerate(_NAMES, 1) for name in names.split()}
_ERAS = {"明治": 1867, "大正": 1911, "昭和": 1925, "平成": 1988, "令和": 2018, "民國": 1911, "民国": 1911}
_OPEN_ENDS = (  # what is said of an end that is not set
    "- – — n/a na none null nil open ongoing indefinite unlimited unbefristet unbegrenzt illimité indefinido 无 無 长期"
    " 永久 なし 없음"
)
_OPEN = frozenset(_OPEN_ENDS.split())

_CLOCK = r"(?:[T\s,].*)?"
_YEAR_FIRST = re.compile(rf"(\d{{4}})\s?[-/.年년]\s?(\d{{1,2}})\s?[-/.月월]\s?(\d{{1,2}})\s?[日号號일.]?{_CLOCK}")
_ERA = re.compile(rf"({'|'.join(_ERAS)})\s?(\d{{1,3}}|元)\s?年\s?(\d{{1,2}})\s?月\s?(\d{{1,2}})\s?日")
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})")
_DOTTED = re.compile(rf"(\d{{1,2}})\.\s?(\d{{1,2}})\.\s?(\d{{4}})\.?(?:\s?[гrр]\.)?{_CLOCK}")  # the day comes first
_EITHER = re.compile(rf"(\d{{1,2}})[-/](\d{{1,2}})[-/](\d{{4}}){_CLOCK}")
_NAMED = re.compile(
    r"(?:[^\W\d]+\.?,?\s+){0,2}(\d{1,2})(?:st|nd|rd|th|er|[.°]|[oa](?=\s))?(?:\s+(?:de|of|di)\s+|[\s-]+)([^\W\d_]+)\.?,?"
    rf"(?:\s+(?:de|of|del)\s+|[\s-]+)(\d{{4}})(?:\s?[гrр]\.|\s?року|\s?года)?{_CLOCK}"
)
_NAMED_FIRST = re.compile(rf"(?:[^\W\d]+day,?\s+)?([^\W\d_]+)\.?\s+(\d{{1,2}})(?:st|nd|rd|th)?,?\s+(\d{{4}}){_CLOCK}")
_VIETNAMESE = re.compile(r"(?:ngày\s+)?(\d{1,2})\s+tháng\s+(\d{1,2})\s+năm\s+(\d{4})")


def iso_date(value: object, name: str) -> str:
    """A date like 2026-01-31 from how people and files write it; "" for none, or for an end that is left open.

    Raises:
        ValueError: it is no date, or day and month cannot be told apart (03/04/2025).
    """
    if isinstance(value, datetime):
        return value.date().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    text = str(value).strip()
    if not text or text.lower() in _OPEN:
        return ""
    try:
        parts = _parts(_digits(text))
        return date(*parts).isoformat() if parts else date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError(f"{name} is not a date like 2026-01-31: {text!r}") from None


def _digits(text: str) -> str:
    """The digits of any script as ASCII, and Han numbers before 年, 月 and 日 as digits."""
    text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in unicodedata.normalize("NFKC", text))
    return re.sub(rf"[{HAN}]+(?=\s?[年月日号號])", lambda found: str(han(found[0])), text)


def _parts(text: str) -> tuple[int, int, int] | None:
    """Year, month and day."""
    if found := _YEAR_FIRST.fullmatch(text) or _COMPACT.fullmatch(text):
        return int(found[1]), int(found[2]), int(found[3])
    if found := _ERA.fullmatch(text):
        return _ERAS[found[1]] + (1 if found[2] == "元" else int(found[2])), int(found[3]), int(found[4])
    if found := _DOTTED.fullmatch(text) or _VIETNAMESE.fullmatch(text):
        return int(found[3]), int(found[2]), int(found[1])
    if found := _EITHER.fullmatch(text):
        return _told_apart(int(found[1]), int(found[2]), int(found[3]))
    if (found := _NAMED.fullmatch(text)) and (month := _month(found[2])):
        return int(found[3]), month, int(found[1])
    if (found := _NAMED_FIRST.fullmatch(text)) and (month := _month(found[1])):
        return int(found[3]), month, int(found[2])
    return None


def _told_apart(first: int, second: int, year: int) -> tuple[int, int, int]:
    if first > 12 or first == second:
        return year, second, first
    if second > 12:
        return year, first, second
    raise ValueError("day or month?")


def _month(name: str) -> int | None:
    return _MONTHS.get(unicodedata.normalize("NFC", name.lower()))
