"""Articles cited by number: "刑法第12条", "Art. 6 GDPR", "§ 433 BGB", "s. 4(2) of the Act", to terms that name them.

A passage whose title cites an article gets a term for each word of the act's name together with the number, and one
for the whole name with it. Such terms are rare, so a query that cites the article finds it before all others, and a
query that cites none is searched as ever. Numbers are compared by value, in whatever digits they are written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from retrieval.text import cited
from retrieval.text.numeral import HAN, behind, value
from retrieval.text.raised import lowered

MARK, WHOLE = "@", "@="
PAIR = "&"  # begins a term of two words in a row
MOST = 16  # words of a name
LAWS = "lrda"  # the letters that begin the numbers of French codes
OFTEN = 6  # how often a passage has the term of its whole name: BM25 counts one that it has once for less than half
_ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SPELLED = rf"(?:{'|'.join(_TENS)})(?:[- ](?:{'|'.join(_ONES)}))?(?!\w)|(?:{'|'.join(_ONES + _TEENS)})(?!\w)"
_NUM = rf"[{HAN}\d]+(?:-\d+)?"
_SUFFIX = "bis|ter|quater|quinquies|sexies|septies|octies|novies|decies"
_CITED = re.compile(
    rf"第\s*(?P<han>{_NUM})\s*[条條](?:\s?[之のノ]\s?(?P<hansub>{_NUM}))?(?:第?{_NUM}[款项項号])*"
    rf"|(?<![{HAN}\d])(?P<bare>[{HAN}]+|\d+)\s*[条條](?:[之の](?P<baresub>{_NUM}))?"
    # From a number's first digit only, and without giving digits back: a long number is read once, not once a digit.
    r"|(?:제\s?|\s(?=\d)|(?<!\d)(?=\d))(?P<ko>\d++)\s*조(?:의\s?(?P<kosub>\d+))?"
    r"|(?:(?<!\w)(?:[ld]['’])?"
    r"(?:art(?:icle|ikel|iklar|ículo|iculo|icolo|icoli|igo|ykuł)?s?\.?|sections?|sect?\.?|ss?\.|(?<!['’])ss?(?=\s?\d)"
    r"|regulations?|rules?|pasal|madde|điều|άρθρα?|статья|статьи|статье|ст\.|المادة|ماده|סעיף|अनुच्छेद|धारा|มาตรา|ม\."
    r")|§{1,2})\s*\(?"
    rf"(?P<law>[LRDA]\*?\.?\s?(?=\d))?(?P<latin>\d+(?:[-.]\d+)*|[ivxlc]+(?!\w)|premier|1er|{SPELLED})(?:er|[ºª°])?"
    rf"(?P<letter>[a-z](?!\w)|\s[a-z](?![\w.]))?(?:[ -](?P<suffix>{_SUFFIX})(?!\w|\s*\d))?(?:\s?\(\w{{1,4}}\))*"
    r"(?:,?\s*(?:Abs\.|Absatz|Satz|S\.|Nr\.|Nummer|Buchst\.|lit\.|al\.|alinéa|paragraph|para\.|subsection|point"
    r"|apartado|inciso|comma|lid|stk\.|odst\.|ust\.)\s*\w{1,4}(?!\w))*"
    # Swedish, Finnish, Turkish and Hungarian put the number first.
    r"|(?<![\w.§])(?P<ahead>\d++)(?:\s?[a-z])?(?:\s?§(?!\s*\d)|\.\s?(?:§(?!\s*\d)|madde|maddesi)(?!\w))",
    re.IGNORECASE,
)
_SMALL_WORDS = (
    "of the a an in under to what does say is and von der des dem im nach was sagt steht del de la le les du dans que"
    " dit el en qué dice la della di cosa tell me about ff f et seq suivants ss und and zu does"
)
_SMALL = frozenset(_SMALL_WORDS.split())
_COUNTRY = re.compile("^中华人民共和国(?=.)")
_QUOTES = re.compile("[《》〈〉“”\"'「」]")
_ASKS = ("是什么", "是怎么规定的", "怎么规定", "规定了什么", "规定", "内容", "的", "说了什么", "什么", "?", "。")
_TITLE_END = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\u1680\u2028\u2029,›:"
_PARTS = re.compile(" › |, ")  # of a title
_SECTION = re.compile(r"(\d{1,3}(?:\.\d{1,3})*[a-z]?)[.)]?(?:\s|$)", re.IGNORECASE)
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


@dataclass(frozen=True, slots=True)
class Citation:
    """An article's number as a key ("12", "133.1", "9.2", "l1221.1") and the text around it, which names the act."""

    number: str
    name: str
    within: str = ""  # the article that it may be a paragraph of: 138 of "Art. 138.2"


@lru_cache(maxsize=64)  # asked for in each language of an index, and when something was found
def citations(text: str) -> tuple[Citation, ...]:
    """The articles that a text cites: each number of "§§ 433, 434" or "Articles 5 to 7" is one.

    A lone citation has the whole rest of the text for its name, one of several what stands next to it.
    """
    text = _normal(text)
    places = [place for place in cited.places(text, _CITED.finditer(text), _key) if place.numbers]
    named = zip(places, cited.names(text, places), strict=True)
    return tuple(Citation(number, name, place.within) for place, name in named for number in place.numbers)


def title_terms(title: str, words: Callable[[str], list[str]]) -> list[str]:
    """Terms of the article that a passage's title names last; `words` makes search terms of a name."""
    text = _normal(title)
    found = list(_CITED.finditer(text))
    number = _key(found[-1]) if found else ""
    if not number:
        return []
    name = _name(text, found[-1])
    act = _PARTS.split(name)[0]  # a title's other parts may be chapters, or belong to the name
    made: dict[str, None] = {}
    for key in dict.fromkeys([number, number.lstrip(LAWS)]):  # "article 1221-1" asks for L1221-1 too
        made |= dict.fromkeys([*_terms(Citation(key, name), words), *_whole_terms(Citation(key, act))])
    return [term for term in made for _ in range(OFTEN if term.startswith(WHOLE) else 1)]


def _name(title: str, found: re.Match[str]) -> str:
    """What stands before a title's number, or behind it where nothing does."""
    return title[: found.start()].rstrip(_TITLE_END) or title[found.end() :].strip(" ,:–-")


def elsewhere(query: str, titles: Iterable[str]) -> bool:
    """Whether a query asks for nothing but an article that is not there, in an act of which there are others.

    `titles` are of the passages that it found. Another article of the act is then no answer: see `answers`.
    """
    wanted = citations(query)
    if not wanted:
        return False
    numbers, words, here = _numbers(wanted), _words(wanted), False
    for title in titles:
        number = _titled(title)
        if {number, number.lstrip(LAWS)} & numbers or (
            not number and _counted(title) in numbers and _has(title, words)
        ):
            return False
        here = here or bool(number and words and _has(title, words))
    return here


def answers(query: str, title: str, text: str) -> bool:
    """Whether a passage answers a query for nothing but an article that is not there.

    It does where it is about the act and of no article itself, or where its text cites the article.
    """
    wanted = citations(query)
    if not _has(f"{title} {text}", _words(wanted)):
        return False
    numbers = _numbers(wanted)
    return not _titled(title) or any(_key(found) in numbers for found in _CITED.finditer(_normal(text)))


def _numbers(wanted: Iterable[Citation]) -> set[str]:
    return {number for found in wanted for number in (found.number, found.within)} - {""}


def _words(wanted: Iterable[Citation]) -> set[str]:
    return {word for found in wanted for word in _asked_for(found)}


def _titled(title: str) -> str:
    """The number of the article that a title cites last, or ""."""
    found = list(_CITED.finditer(_normal(title)))
    return _key(found[-1]) if found else ""


def _counted(title: str) -> str:
    """The number of a section that a title ends in: 4 of "Handbook › 4 Leave"."""
    found = _SECTION.match(_PARTS.split(_normal(title))[-1])
    return ".".join(str(behind(part)) for part in re.findall(r"\d+|[a-z]", found[1].lower())) if found else ""


def _has(text: str, words: Iterable[str]) -> bool:
    """Whether all the words stand in a text as they are; scripts without blanks have them in longer ones."""
    text = _normal(text).lower()
    whole = set(re.findall(r"\w+", text))
    return all(word in whole or (bool(_UNSPACED.search(word)) and word in text) for word in words)


def _asked_for(found: Citation) -> list[str]:
    return [word for word in re.findall(r"\w+", _bare(found.name).lower()) if word not in _SMALL]


def references(title: str, text: str) -> Iterator[Citation]:
    """The articles that a passage's text refers to; the name of each is a query that cites it.

    One without a quoted act's name before it is of the act that the passage's own title names.
    """
    own = list(_CITED.finditer(_normal(title)))
    if not own:
        return
    title, text = _normal(title), _normal(text)
    act = title[: own[-1].start()].rstrip(_TITLE_END)
    seen = {(act, _key(own[-1]))}
    for match in _CITED.finditer(text):
        quoted = re.search(r"《([^》]{2,60})》\s*$", text[max(0, match.start() - 80) : match.start()])
        name, number = (quoted[1] if quoted else act), _key(match)
        if number and (name, number) not in seen:
            seen.add((name, number))
            yield Citation(number, f"{name} {match[0].strip()}")


def same(wanted: Citation, title: str) -> bool:
    """Whether a passage's title names the article that a reference does."""
    text = _normal(title)
    found = list(_CITED.finditer(text))
    if not found or _key(found[-1]) != wanted.number:
        return False
    names = (_CITED.sub(" ", wanted.name), text[: found[-1].start()])
    return set(_whole_terms(Citation("", names[0]))) == set(_whole_terms(Citation("", names[1])))


def query_terms(text: str, words: Callable[[str], list[str]]) -> list[str]:
    """Terms of the articles that a query cites."""
    return [term for found in citations(text) for term in _terms(found, words)]


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", lowered(text))


def _terms(found: Citation, words: Callable[[str], list[str]]) -> Iterator[str]:
    yield f"{MARK}:{found.number}"
    names = dict.fromkeys(
        w for w in words(_bare(found.name)) if len(w) > 1 and w not in _SMALL and w[0] not in ("=", "~", PAIR)
    )
    for word in list(names)[:MOST]:
        yield f"{MARK}{word}:{found.number}"
    yield from _whole_terms(found)


def _whole_terms(found: Citation) -> Iterator[str]:
    """The name as a whole, by its words alone."""
    words = _asked_for(found)
    if words:
        yield f"{WHOLE}{''.join(words)[:60]}:{found.number}"


def _bare(name: str) -> str:
    """A name without quotes, what every act of the country is called, and the words of a question around it."""
    name = _COUNTRY.sub("", _QUOTES.sub("", name).strip())
    end = len(name)
    while asked := next((ending for ending in _ASKS if name.endswith(ending, 0, end)), ""):
        end -= len(asked)
    return name[:end]


def _key(match: re.Match[str]) -> str:
    first = next((match[name] for name in ("han", "bare", "ko", "latin", "ahead") if match[name]), "")
    sub = next((match[name] for name in ("hansub", "baresub", "kosub", "letter", "suffix") if match[name]), "")
    spelled = _spelled(first.lower())
    parts = [spelled] if spelled else [value(part) for part in re.split("[-.]", first)]
    if any(part is None for part in parts):
        return ""
    if sub:
        parts.append(_sub(sub.strip().lower()))
    return (match["law"] or "")[:1].lower() + ".".join(map(str, parts))


def _spelled(text: str) -> int:
    """The number that English words are, up to ninety-nine; 0 for others."""
    first, _, second = text.replace("-", " ").partition(" ")
    if first in _TENS:
        return 10 * (_TENS.index(first) + 2) + (_ONES.index(second) + 1 if second in _ONES else 0)
    return (_ONES + _TEENS).index(text) + 1 if text in _ONES + _TEENS else 0


def _sub(sub: str) -> int:
    latin = _SUFFIX.split("|")
    if sub in latin:
        return latin.index(sub) + 2
    return behind(sub) or 0
