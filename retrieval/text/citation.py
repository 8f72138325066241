"""Articles cited by number: "刑法第12条", "Art. 6 GDPR", "§ 433 BGB", "s. 4(2) of the Act", to terms that name them.

A passage whose title cites an article gets a term for each word of the act's name together with the number, and one
for the whole name with it. Such terms are rare, so a query that cites the article finds it before all others, and a
query that cites none is searched as ever. Numbers are compared by value, in whatever digits they are written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from retrieval.text.numeral import HAN, value
from retrieval.text.raised import lowered

MARK, WHOLE = "@", "@="
PAIR = "&"  # begins a term of two words in a row
MOST = 16  # words of a name
OFTEN = 6  # how often a passage has the term of its whole name: BM25 counts one that it has once for less than half
_NUM = rf"[{HAN}\d]+(?:-\d+)?"
_SUFFIX = "bis|ter|quater|quinquies|sexies|septies|octies|novies|decies"
_CITED = re.compile(
    rf"第\s*(?P<han>{_NUM})\s*[条條](?:\s?[之のノ]\s?(?P<hansub>{_NUM}))?(?:第?{_NUM}[款项項号])*"
    rf"|(?<![{HAN}\d])(?P<bare>[{HAN}]+|\d+)\s*[条條](?:[之の](?P<baresub>{_NUM}))?"
    # From a number's first digit only, and without giving digits back: a long number is read once, not once a digit.
    r"|(?:제\s?|\s(?=\d)|(?<!\d)(?=\d))(?P<ko>\d++)\s*조(?:의\s?(?P<kosub>\d+))?"
    r"|(?:(?<!\w)(?:[ld]['’])?"
    r"(?:art(?:icle|ikel|ículo|iculo|icolo|igo|ykuł)?\.?|sections?|sect?\.?|ss?\.|regulation|rule|pasal|madde"
    r"|điều|статья|статьи|статье|ст\.|المادة)|§{1,2})\s*"
    r"(?P<law>[LRDA]\*?\.?\s?(?=\d))?(?P<latin>\d+(?:[-.]\d+)*|[ivxlc]+(?!\w)|premier|1er)(?:er|[ºª°])?"
    rf"(?P<letter>\s?[a-z](?!\w))?(?:[ -](?P<suffix>{_SUFFIX})(?!\w))?(?:\s?\(\w{{1,4}}\))*"
    r"(?:,?\s*(?:Abs\.|Absatz|Satz|S\.|Nr\.|Nummer|Buchst\.|lit\.|al\.|alinéa|paragraph|para\.|subsection|point"
    r"|apartado|comma)\s*\w{1,4}(?!\w))*",
    re.IGNORECASE,
)
_SMALL_WORDS = (
    "of the a an in under to what does say is and von der des dem im nach was sagt steht del de la le les du dans que"
    " dit el en qué dice la della di cosa tell me about"
)
_SMALL = frozenset(_SMALL_WORDS.split())
_COUNTRY = re.compile("^中华人民共和国(?=.)")
_QUOTES = re.compile("[《》〈〉“”\"'「」]")
_ASKS = re.compile("(?:是什么|是怎么规定的|怎么规定|规定了什么|规定|内容|的|说了什么|什么|？|\\?|。)+$")
_TITLE_END = re.compile(r"[\s,，›:：]+$")


@dataclass(frozen=True, slots=True)
class Citation:
    """An article's number as a key ("12", "133.1", "9.2") and the text around it, which names the act."""

    number: str
    name: str


def citations(text: str) -> Iterator[Citation]:
    """The articles that a text cites; each has the whole rest of the text for its name."""
    text = _normal(text)
    found = list(_CITED.finditer(text))
    rest = _CITED.sub(" ", text)
    for match in found[:4]:
        number = _key(match)
        if number:
            yield Citation(number, rest)


def title_terms(title: str, words: Callable[[str], list[str]]) -> list[str]:
    """Terms of the article that a passage's title names last; `words` makes search terms of a name."""
    text = _normal(title)
    found = list(_CITED.finditer(text))
    number = _key(found[-1]) if found else ""
    if not number:
        return []
    name = _TITLE_END.sub("", text[: found[-1].start()])
    act = re.split(r" › |, ", name)[0]  # a title's other parts may be chapters, or belong to the name
    made = dict.fromkeys([*_terms(Citation(number, name), words), *_whole_terms(Citation(number, act))])
    return [term for term in made for _ in range(OFTEN if term.startswith(WHOLE) else 1)]


def references(title: str, text: str) -> Iterator[Citation]:
    """The articles that a passage's text refers to; the name of each is a query that cites it.

    One without a quoted act's name before it is of the act that the passage's own title names.
    """
    own = list(_CITED.finditer(_normal(title)))
    if not own:
        return
    title, text = _normal(title), _normal(text)
    act = _TITLE_END.sub("", title[: own[-1].start()])
    seen = {(act, _key(own[-1]))}
    for match in _CITED.finditer(text):
        quoted = re.search(r"《([^》]{2,60})》$", text[: match.start()].rstrip())
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
    return [term for cited in citations(text) for term in _terms(cited, words)]


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", lowered(text))


def _terms(cited: Citation, words: Callable[[str], list[str]]) -> Iterator[str]:
    yield f"{MARK}:{cited.number}"
    found = dict.fromkeys(
        w for w in words(_bare(cited.name)) if len(w) > 1 and w not in _SMALL and w[0] not in ("=", "~", PAIR)
    )
    for word in list(found)[:MOST]:
        yield f"{MARK}{word}:{cited.number}"
    yield from _whole_terms(cited)


def _whole_terms(cited: Citation) -> Iterator[str]:
    """The name as a whole, by its words alone."""
    words = [word for word in re.findall(r"\w+", _bare(cited.name).lower()) if word not in _SMALL]
    if words:
        yield f"{WHOLE}{''.join(words)[:60]}:{cited.number}"


def _bare(name: str) -> str:
    """A name without quotes, what every act of the country is called, and the words of a question around it."""
    return _ASKS.sub("", _COUNTRY.sub("", _QUOTES.sub("", name).strip()))


def _key(match: re.Match[str]) -> str:
    first = next((match[name] for name in ("han", "bare", "ko", "latin") if match[name]), "")
    sub = next((match[name] for name in ("hansub", "baresub", "kosub", "letter", "suffix") if match[name]), "")
    parts = [value(part) for part in re.split("[-.]", first)]
    if any(part is None for part in parts):
        return ""
    if sub:
        parts.append(_sub(sub.strip().lower()))
    return ".".join(map(str, parts))


def _sub(sub: str) -> int:
    latin = _SUFFIX.split("|")
    if sub in latin:
        return latin.index(sub) + 2
    return value(sub) or ord(sub[0]) - 96
