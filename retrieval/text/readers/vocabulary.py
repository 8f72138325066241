"""The XML vocabularies of law, a row each: which elements are articles, which name and number them.

Element names are compared without their namespaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_LETTERS = {
    "eng": "en", "fra": "fr", "fre": "fr", "deu": "de", "ger": "de", "ita": "it", "spa": "es", "por": "pt",
    "nld": "nl", "dut": "nl", "pol": "pl", "swe": "sv", "dan": "da", "fin": "fi", "ell": "el", "ces": "cs",
    "hun": "hu", "ron": "ro", "bul": "bg", "ara": "ar", "zho": "zh", "jpn": "ja", "kor": "ko", "rus": "ru",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One vocabulary. A set of `units` is tried in order; one that holds units of another name is a chapter."""

    roots: frozenset[str]
    units: tuple[frozenset[str], ...]
    number: frozenset[str]
    heading: frozenset[str]
    titles: tuple[str, ...]  # elements that hold the act's name, the best first
    skipped: frozenset[str]
    region: str = ""
    country: Mapping[str, str] = field(default_factory=dict)  # element: attribute with the region
    language: Mapping[str, str] = field(default_factory=dict)  # element: attribute ("": its text)
    floating: str = ""  # an element that heads what follows it, instead of holding it
    wrapper: str = ""  # an element around a unit that has the unit's heading
    names: Mapping[str, str] = field(default_factory=dict)  # what a bare number is called, by language
    dates: tuple[str, str] = ("", "")  # attributes of a unit: first and last day in force


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


AKOMA_NTOSO = Vocabulary(
    _set("akomaNtoso"), (_set("article section rule"), _set("paragraph hcontainer")),
    _set("num"), _set("heading subheading"), ("docTitle", "shortTitle", "FRBRalias", "longTitle"),
    _set("meta coverPage toc notes remark authorialNote conclusions del"), country={"FRBRcountry": "value"},
    language={"FRBRlanguage": "language"}, names={"article": "Article", "section": "Section", "rule": "Rule"},
)  # fmt: skip
USLM = Vocabulary(
    _set("uscDoc lawDoc pLaw bill resolution statutesAtLarge uslm"), (_set("section courtRule"),), _set("num enum"),
    _set("heading header"), ("shortTitle", "short-title", "officialTitle", "official-title", "title"),
    _set("meta metadata form toc notes note sourceCredit preface legislativeHistory endnote footnote signatures"
         " deletedText"), "US",
    language={"language": ""}, names={"section": "Section"},
)  # fmt: skip
FORMEX = Vocabulary(
    _set("ACT ANNEX CONS.ACT CONS.ANNEX AGR PROT DECISION GENERAL RECOMMENDATION LETTER"), (_set("ARTICLE"),),
    _set("TI.ART"), _set("STI.ART"), ("TITLE",),
    _set("BIB.INSTANCE BIB.DATA TOC NOTE INFO.CONSLEG INFO.PROD FAM.COMP SIGNATURE"),
    "EU", language={"LG.DOC": "", "LG": ""},
)  # fmt: skip
CANADA = Vocabulary(
    _set("Statute Regulation"), (_set("Section"),), _set("Label"), _set("MarginalNote"),
    ("ShortTitle", "LongTitle"), _set("Identification HistoricalNote RecentAmendments Footnote Note RelatedProvisions"
                                      " RelatedOrNotInForce"),
    "Canada", floating="Heading", names={"en": "Section", "fr": "Article"},
    dates=("inforce-start-date", "inforce-end-date"),
)  # fmt: skip
UNITED_KINGDOM = Vocabulary(
    _set("Legislation"), (_set("P1"),), _set("Pnumber Number"), _set("Title"), ("title",),
    _set("Metadata Contents Commentaries Commentary CommentaryRef Footnotes MarginNotes Resources Versions"),
    "United Kingdom", wrapper="P1group", names={"P1": "Section"}, dates=("RestrictStartDate", "RestrictEndDate"),
)  # fmt: skip
TABLE = (AKOMA_NTOSO, USLM, FORMEX, CANADA, UNITED_KINGDOM)


def vocabulary(root: str) -> Vocabulary | None:
    """The row of the vocabulary whose documents have this root element."""
    return next((row for row in TABLE if root in row.roots), None)


def two_letters(language: str) -> str:
    """ISO 639-1 for the commonest of 639-2 ("ita" is it); a tag like en-GB in small letters."""
    return _LETTERS.get(language.lower(), language.lower())
