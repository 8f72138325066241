"""One line of a statute: is it the head of an article or of a chapter, and of which?

A line that opens with a reference ("Section 3 of this Act applies", 第一条规定的…) is no head: what follows the
number must be a separator, a bracket, the line's end, or a word that begins a sentence. What one line cannot tell,
`outline` decides by its neighbours.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from typing import Literal

from retrieval.text.numeral import HAN, behind, ordinals, value
from retrieval.text.raised import DIGITS

LED = 200  # characters of a line's end in which a leader is looked for: all of a long line takes its square
LAST = 9999  # the number of provisions that follow the articles without one
Kind = Literal["article", "part"]


@dataclass(frozen=True, slots=True)
class Head:
    """`word` groups what counts in one sequence ("article", "section", "§"); `number` sorts within it."""

    kind: Kind
    word: str
    label: str  # as written: "Article 6 bis"
    number: tuple[int, ...]
    rest: str = ""  # the line's text behind the label
    alone: bool = False  # nothing follows, or a separator or bracket stands between


_NUM = rf"[{HAN}\d０-９]+(?:[-－]\d+)?"
_SUFFIX = r"(?:bis|ter|quater|quinquies|sexies|septies|octies|novies|nonies|decies|undecies|duodecies)"
_LATIN = (
    rf"(?:(?:[LRDA][.*]{{0,2}}[ ]?)?\d+(?:[-–.:]\d+)*[{DIGITS}]*(?:er|re|ère)?(?:\.?[ºª°])?"
    r"(?:-?[A-Za-zА-яΑ-ω]{1,2})?(?!\w)"
    rf"(?:[ -]{_SUFFIX}(?!\w))?(?:\(\w{{1,4}}\))*"
    r"|[IVXLCDM]+(?:er|re|-?[A-Z])?(?!\w)"
    r"|(?:premier|première|unique|único|única|unico|primero|primo|préliminaire|liminaire"
    r"|(?:One|Two|Three|Four|Five|Six|Seven|Eight|Nine|Ten|ONE|TWO|THREE|FOUR|FIVE|SIX|SEVEN|EIGHT|NINE|TEN))(?!\w)"
    rf"(?:[ -]{_SUFFIX})?)"
)
_ARTICLE = (
    "Article|Art.|Art|Artikel|Artículo|Articulo|Articolo|Artigo|Artykuł|Articolul|Статья|Стаття|Член|Чл.|Члан|Neni|Artikolu|Airteagal|Perkara|Čl.|Článek"
    "|Článok|Članak|Člen|Artikkeli|Artikla|Madde|Pasal|Điều|Άρθρο|Kifungu cha|Maddə|Artikulo"
)
_SECTION = "Section|Sec.|Sect."
_OTHERS = "Regulation|Reg.|Rule|Clause|Principle|Guideline|Standard|Paragraph"
_PARTS = (
    "Part|Chapter|Title|Division|Subdivision|Subpart|Subchapter|Subtitle|Schedule|Annex|Appendix|Book|Partie|Livre"
    "|Titre|Sous-titre|Chapitre|Sous-section|Annexe|Teil|Buch|Kapitel|Abschnitt|Unterabschnitt|Titel|Untertitel"
    "|Anlage|Anhang|Título|Capítulo|Libro|Sección|Subsección|Anexo|Titolo|Capo|Sezione|Allegato|Livro|Seção|Secção"
    "|Subseção|Глава|Раздел|Часть|Подраздел|Розділ|Глава|Dział|Rozdział|Oddział|Księga|Tytuł|Část|Hlava|Díl|Kapittel|Hoofdstuk|Afdeling|Bijlage|Bölüm|Kısım|Bab"
    "|Bagian|Chương|Mục|Phần|Κεφάλαιο|Μέρος|Τμήμα|الباب|الفصل|القسم|פרק|סימן|חלק|فصل|باب|หมวด|ลักษณะ|ภาค"
)
_TO = r"(?:\s*[-–—]\s*|\s*,\s*|\s(?:bis|und|to|and|à|et|a|y|e|и)\s)"
_GONE = r"(?:[.:]?\s*[(\[（]|[.:]?\s*(?:[Rr]epealed|[Aa]brogés?|[Dd]erogados?|[Ww]eggefallen|[Aa]ufgehoben))"
_ORDINAL = r"(?:Erst|Zweit|Dritt|Viert|Fünft|Sechst|Siebent|Siebt|Acht|Neunt|Zehnt)(?:er|es|e)"


def _words(names: str) -> str:
    """Each with a capital, or in capitals throughout: in small letters it stands in a sentence."""
    found = {form for name in names.split("|") for form in (name, name.upper())}
    return "|".join(sorted(map(re.escape, found), key=len, reverse=True))


_PATTERNS: tuple[tuple[Kind, str, re.Pattern[str]], ...] = (
    ("article", "条", re.compile(rf"第\s*{_NUM}\s*[条條](?:\s?[之のノ]\s?{_NUM})*")),
    ("article", "조", re.compile(r"제\s*\d+\s*조(?:의\s*\d+)*")),
    ("article", "article", re.compile(rf"(?:{_words(_ARTICLE)})\s*{_LATIN}")),
    ("article", "article", re.compile(
        r"(?:المادة|مادة|ماده|دفعہ|סעיף|มาตรา|अनुच्छेद|धारा|ধারা|অনুচ্ছেদ|მუხლი|Հոդված)\s*\(?\s*"
        rf"(?:\d+[{DIGITS}]*(?:[/.-]\d+)?|[^\W\d_]{{4,9}}(?:\s(?:عشرة|عشر|والعشرون|والثلاثون|والأربعون|والخمسون))?)(?:\s*\))?")),
    ("article", "clause", re.compile(rf"(?:{_words('Cláusula|Clausula')})\s+(?:{_LATIN}|[^\W\d_]+(?=\s*[.:–—-]))")),
    # "1 straipsnis", "2. pants", "3. člen", "4-бап": the number comes first.
    ("article", "article", re.compile(
        rf"\d+[{DIGITS}]*\s?[.-]?[ ]?(?:straipsnis|STRAIPSNIS|pants|člen|cikk|artikla|artikulua|бап|берене|modda"
        r"|(?:дугаар|дүгээр)[ ]зүйл)(?!\w)")),
    ("article", "article", re.compile(
        rf"(?P<late>GEÇİCİ|EK|Geçici|Ek)[ ](?:MADDE|[Mm]adde)\s*{_LATIN}")),
    ("article", "article", re.compile(
        r"(?:Disposición (?:adicional|transitoria|derogatoria|final)"
        r"|DISPOSICIÓN (?:ADICIONAL|TRANSITORIA|DEROGATORIA|FINAL))"
        r"(?:\s[^\W\d_]+(?=[.\s]*$|[.]))?")),
    ("article", "§", re.compile(rf"§\s*\d+[{DIGITS}]*[a-z]{{0,2}}(?!\w)(?:[-–.]\d+[a-z]?)*")),
    ("article", "§", re.compile(rf"\d+[{DIGITS}]*(?:/[A-Z]|\s?[a-z])?\s?\.?\s?§(?![§\s]*\d)")),
    # What was repealed at one go: "§§ 2 bis 4 (weggefallen)", "Sections 5 to 7 [Repealed]".
    ("article", "§", re.compile(rf"§§\s*\d+[a-z]?{_TO}\d+[a-z]?(?P<gone>)(?=\s*{_GONE})")),
    ("article", "article", re.compile(rf"(?:{_words('Articles|Art.|Artikel|Artículos|Articoli|Artigos|Статьи')})"
                                      rf"\s*\d+[a-z]?{_TO}\d+[a-z]?(?P<gone>)(?=\s*{_GONE})")),
    ("article", "section", re.compile(rf"(?:{_words('Sections|Secs.')})\s*"
                                      rf"\d+[A-Za-z]?{_TO}\d+[A-Za-z]?(?P<gone>)(?=\s*{_GONE})")),
    ("article", "section", re.compile(rf"(?:{_words(_SECTION)})\s*{_LATIN}")),
    *(("article", name.lower().strip("."), re.compile(rf"(?:{_words(name)})\s+{_LATIN}"))
      for name in _OTHERS.split("|")),
    ("article", "article", re.compile(r"[LRDA]\*?\.?[ ]?\d{1,4}(?:-\d+)+(?!\w)")),
    ("part", "", re.compile(rf"第\s*{_NUM}\s*(?P<word>分编|分編|[编編篇章节節])(?:[之の]{_NUM})*")),
    ("part", "", re.compile(r"제\s*\d+\s*(?P<word>[편장절관])(?:의\s*\d+)?")),
    ("part", "", re.compile(
        rf"(?P<word>{_words('Annex|Schedule|Appendix|Annexe|Anlage|Anhang|Allegato|Anexo|Bijlage|Приложение')})[.:]?$")),
    ("part", "", re.compile(
        rf"(?P<word>{_words(_PARTS)})\s+(?:{_LATIN}|[A-Z](?!\w)|(?:PRIMER|SEGUND|TERCER|PRELIMINAR|ÚNIC)\w*|ال\w+)")),
    ("part", "", re.compile(
        rf"(?P<word>附\s*[則则]|附\s*件|附\s*[录錄]|附\s*表|[別别]\s*表|부\s*칙)(?:\s*第?{_NUM})?(?=[\s　:：]|$)")),
    # The number comes first: "1 kap.", "II fejezet", "BİRİNCİ BÖLÜM".
    ("part", "", re.compile(
        r"(?:\d+(?:[ ]?[a-z])?|[IVXLC]+)\.?[ ]"
        r"(?P<word>kap|luku|LUKU|fejezet|FEJEZET|nodaļa|skyrius|SKYRIUS|poglavje|тарау|bob)(?!\w)\.?")),
    ("part", "", re.compile(
        r"(?:BİRİNCİ|İKİNCİ|ÜÇÜNCÜ|DÖRDÜNCÜ|BEŞİNCİ|ALTINCI|YEDİNCİ|SEKİZİNCİ|DOKUZUNCU|ONUNCU)[ ]"
        r"(?P<word>BÖLÜM|KISIM|KİTAP)")),
    ("part", "", re.compile(rf"{_ORDINAL}\s+(?P<word>Teil|Buch|Kapitel|Abschnitt|Unterabschnitt|Titel|Untertitel)")),
)  # fmt: skip
_BETWEEN = re.compile(
    r"[.．]?[ºª°]?[.．]?\s?[-–—ـ]\s|[.．:：]\s?[-–—]?\s*|[–—]\s?|、(?!\s*第)|[ 　\t]*(?=[(（【〔\[〈])|[-–—]\s|$"
)
_BRACKET = re.compile(r"\s*[(（]\s*(?:\w{1,4})\s*[)）]\s*")
# What goes on with a reference, though it begins like a sentence.
_REFERS = re.compile(
    r"规定|規定|所[列称稱述指]|第[^条]{1,6}[款項项号號目]|至第|[、和及或与與]第?|或者|以及|的|中的|之规定"
    r"|から|及び|又は|若しくは|[をにのはがでと]"
    r"|및|또는|내지|부터|제\s*\d+\s*[항호조]|[의에]\s"
    r"|(?:Abs\.|Absatz|Satz|Nr\.|Nummer|Buchst|Unterabs|Halbsatz|Alt\.|Paragraph \d|Alinéa|§)"
)
_ACRONYM = re.compile(r"[A-ZÄÖÜ][A-Za-zÄÖÜäöü]*[A-ZÄÖÜ]{2}\b(?:\s+[a-zäöüà-ÿ]|\s*[,.;)])")  # § 433 BGB gilt
_LOOSE = re.compile(rf"第{_NUM}[条條](?:[之]{_NUM})*(?![款项項号號、，至和及或与與])")
_LEADER = re.compile(r"(?:\.{3,}|…{1,}|·{3,}|\.(?:\s\.){2,}|\t)\s*\d+\s*$")
_EMPHASIS = re.compile(r"^(\*{1,3}|__)(.+?)\1(.*)$", re.DOTALL)


def head(text: str) -> Head | None:
    """The head that a line opens with, by its own words; None for text and for references."""
    text = plain(text)
    if led(text):
        return None  # a line of a table of contents
    for kind, word, pattern in _PATTERNS:
        found = pattern.match(text)
        if found:
            number = numbers(found[0]) or ((LAST,) if found[0].lower().startswith("disposición") else ())
            if found.groupdict().get("late"):
                number = (LAST, *number)
            if "gone" in found.groupdict():
                return Head(kind, word, found[0].strip(), number[:1], text[found.end() :].strip(" .:"), True)
            named = word or re.sub(r"\s+", "", found["word"].lower())
            made = Head(kind, named, found[0].strip(), number)
            return _judged(made, text[found.end() :])
    return None


def led(text: str) -> bool:
    """Whether dots lead to a page's number at the end, as in a table of contents."""
    return bool(_LEADER.search(text[-LED:]))


def loose(text: str) -> Head | None:
    """The head of a Chinese article whose text follows without a blank; only its number can tell that it is one."""
    text = plain(text)
    found = _LOOSE.match(text)
    if not found or _REFERS.match(text[found.end() :]):
        return None
    return Head("article", "条", found[0], numbers(found[0]), text[found.end() :].strip())


def plain(text: str) -> str:
    """A line without its indentation, Markdown's emphasis around the first words, and soft hyphens."""
    text = (
        unicodedata.normalize("NFC", text)
        .replace("\u00ad", "")
        .replace("\u200b", "")
        .strip()
        .strip("\u3000\ufeff")
        .strip()
    )
    text = re.sub(r"^(\d{1,3}|[IVXLC]+|[A-Z])\\([.)])", r"\1\2", text)  # as Markdown escapes what is no list
    found = _EMPHASIS.match(text)
    return f"{found[2]}{found[3]}" if found else text


def numbers(label: str) -> tuple[int, ...]:
    """The numbers in a label, in order, for comparison: 第十二条之一 is (12, 1), § 9b (9, 2), Article 6 bis (6, 2)."""
    found: list[int] = []
    label = ordinals(label)
    for part in re.findall(rf"[{HAN}]+|\d+|[^\W\d_]+", re.sub("[第条條之のノ제조의]", " ", label)):
        number = behind(part) if found else value(part)
        if number is None and found:
            number = _letter(part.lower())
        if number is not None and not (part.isalpha() and not found and part.isascii() and part in "LRDA"):
            found.append(number)
    return tuple(found)


def _letter(part: str) -> int | None:
    latin = ("", "", "bis", "ter", "quater", "quinquies", "sexies", "septies", "octies", "novies", "decies")
    if part in latin:
        return latin.index(part)
    first = next((first for first in "аα" if len(part) == 1 and first <= part <= chr(ord(first) + 31)), "")
    return ord(part) - ord(first) + 1 if first else None


def _judged(made: Head, after: str) -> Head | None:
    """The head with its rest, unless what follows the label shows a reference."""
    if made.word == "article" and not made.number:
        return None
    if not after.strip():
        return replace(made, alone=True)
    between = _BETWEEN.match(after)
    rest = after[between.end() :] if between else after.lstrip(" \t\u3000")
    if between is None and rest == after:
        return None  # the number runs on into a word
    if _refers(made, rest, between is not None, after.startswith(".")):
        return None
    return replace(made, rest=rest.strip(), alone=between is not None and made.kind == "article")


def _refers(made: Head, rest: str, separated: bool, dotted: bool) -> bool:
    if not rest.strip():
        return False
    paragraph = dotted and rest.startswith("§")  # "Art. 22. § 1. …" of a Polish code, and "§ 2a. § 2 gilt nicht"
    if (_REFERS.match(rest) and not paragraph) or (not separated and _ACRONYM.match(rest)):
        return True
    bracket = _BRACKET.match(rest)
    first = rest[bracket.end() :][:1] if bracket else rest.lstrip("(（【〔[〈«“\"'‘")[:1]
    if made.kind == "part":
        return first.islower() or len(rest) > 120 or rest.rstrip()[-1:] in ".;。；，,"
    if bracket and not first:
        return not separated
    return first.islower() or first in ",;，；/"
