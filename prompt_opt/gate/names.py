"""The names in a text: capitalised words within a sentence, acronyms, Latin words in a text of another script.

German capitalises every noun, so there only acronyms count. Titles and shouted lines tell nothing and are left out.
"""

from __future__ import annotations

import re

from prompt_opt.gate.dates import is_date_word
from prompt_opt.gate.language import Lexicon, plain, unaccented

_WORD = re.compile(r"(?<![\w’/.@-])[^\W\d_][\w’+#-]*")
_ENDS = frozenset('.!?:;¿¡•"“«([')  # after these a sentence begins
_BULLET = re.compile(r"[-*\d.)]+")
_LATIN = re.compile(r"(?<![A-Za-z])[A-Za-z][A-Za-z0-9+#-]+")


def names(text: str, lex: Lexicon) -> dict[str, str]:
    """Key -> the name as it stands there. `text` has no quotes, links or code any more."""
    if lex.language in ("zh", "ja", "ko"):
        return {_key(m[0]): m[0] for m in _LATIN.finditer(text)}
    out = {}
    for line in text.split("\n"):
        words = list(_WORD.finditer(line))
        capital = [m for m in words if m[0][0].isupper()]
        long = [m for m in words if len(m[0]) > 3]
        if len(long) > 2 and all(m[0][0].isupper() for m in long):
            continue  # a title, or shouting
        for m in capital:
            acronym = len(m[0]) > 1 and m[0].isupper() and len(m[0]) < 7
            word = m[0].lower().split("’")[0]
            if word in lex.stop or word in lex.verbs or is_date_word(word):
                continue
            if acronym or (lex.language != "de" and len(word) > 1 and not _begins(line, m.start())):
                out[_key(m[0])] = m[0]
    return out


def _begins(line: str, at: int) -> bool:
    """Whether a sentence begins there; looks back no further than the blanks before it, and a bullet."""
    while at and line[at - 1].isspace():
        at -= 1
    return not at or line[at - 1] in _ENDS or _BULLET.fullmatch(line, 0, at) is not None


def keeps(text: str, name: str) -> bool:
    """Whether a text has a name, by its key; an ending may differ (Germany, German)."""
    if len(name) < 5:
        return re.search(rf"(?<![a-z]){re.escape(name)}(?![a-z])", text) is not None
    return name[: max(4, len(name) - 2)] in text


def folded_names(text: str) -> str:
    """A text as `keeps` searches it."""
    return unaccented(plain(text).casefold())


def _key(name: str) -> str:
    return folded_names(re.sub(r"(?:’s|’)?$", "", name))
