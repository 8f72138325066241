"""Bytes to text: by byte order mark, UTF-8, UTF-16 by its line ends and letters, else by charset-normalizer's guess.

A text that is UTF-8 but for a few bytes is damaged UTF-8 and not another encoding: those bytes become lone
surrogates, which no passage accepts, so that each is reported with its line.
"""

from __future__ import annotations

import codecs
import re
from itertools import pairwise

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What office software and the older Web write.
CANDIDATES = (
    "gb18030", "big5hkscs", "cp932", "euc_jp", "cp949", "cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp874",
    "cp1252", "cp1250", "cp1254",
)  # fmt: skip
# ASCII with a letter beyond it here and there: told apart by the letters that their languages use. The first wins ties.
LATIN = {
    "cp1252": "äöüßéèêàçñáíóúâîôûëïùœæøåãõìòýÄÖÜÉÈÀÇÑÁÍÓÚÂÎÔÛœŒÆØÅ«»„“”‘’€§°–—…·¿¡ºª\xa0",
    "cp1250": "ąćęłńśźżáčďéěíňóřšťúůýžőűăâîşţäöüôĄĆĘŁŃŚŹŻÁČĎÉĚÍŇÓŘŠŤÚŮÝŽŐŰ„“”‘’€§°–—…\xa0",
    "cp1254": "çğıöşüÇĞİÖŞÜâîû“”‘’€§°–—…\xa0",
    "iso8859_2": "ąćęłńśźżáčďéěíňóřšťúůýžőűâăîşţäöüôĄĆĘŁŃŚŹŻÁČĎÉĚÍŇÓŘŠŤÚŮÝŽŐŰ§°\xa0",
    "mac_roman": "äöüßéèêàçñáíóúâîôûëïùœæøåãõìòÄÖÜÉÈÀÇÑÁÍÓÚÂÎÔÛŒÆØÅ«»„“”‘’€§°–—…·¿¡ºª\xa0",
    "cp850": "äöüßéèêàçñáíóúâîôûëïùæøåãõìòýÄÖÜÉÈÀÇÑÁÍÓÚÂÎÔÛÆØÅ«»§°·¿¡ºª\xa0",
}
# Of one script: told apart by where their letters and capitals lie. Where nothing is recognised, the first are tried.
ALIKE = (
    ("cp1251", "koi8_r", "koi8_u", "iso8859_5", "cp866", "mac_cyrillic"),
    ("cp1253", "iso8859_7"),
    ("cp1250", "iso8859_2"),
)
_KANA, _HANGUL = re.compile("[\u3041-\u30fe]"), re.compile("[\uac00-\ud7a3]")
ALPHABETS = (("euc_jp", _KANA, 0.2), ("cp932", _KANA, 0.2), ("cp949", _HANGUL, 0.9))  # and their shares
LIKELY = 0.9  # of the bytes beyond ASCII are letters, none a capital after a small one
RUN = 2.0  # bytes beyond ASCII in a row, on average, below which a text is one of these
SAMPLE = 200_000  # bytes that a guess is made from
DAMAGED = 0.8  # of the bytes beyond ASCII: so many in valid UTF-8 sequences make it UTF-8
WIDE = 0.98  # of the characters of UTF-16: so many are of a script that is written
_WRITTEN = re.compile(
    "[\t\r\n -~\xa0-\u02af\u0370-\u06ff\u0900-\u097f\u0e00-\u0e7f\u1e00-\u1fff\u2000-\u206f\u2160-\u217f\u2460-\u249b"
    "\u3000-\u30ff\u3400-\u9fff\uac00-\ud7a3\uff00-\uffef]"
)
_SEQUENCE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_HIGH = re.compile(rb"[\x80-\xff]+")


def decode(data: bytes) -> str:
    """The text, with line ends as they are and without a byte order mark."""
    encoding = detect(data)
    text = data.decode(encoding, errors="surrogateescape" if encoding == "utf-8" else "replace")
    return text.removeprefix("\ufeff")


def detect(data: bytes) -> str:
    """The name of the encoding that a text has, as Python's codecs call it."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return encoding
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        return _wide(data) or _seven_bits(data) or "utf-8"
    if wide := _wide(data) or _wide_script(data):
        return wide
    runs = _HIGH.findall(data)
    high = sum(map(len, runs))
    if sum(map(len, _SEQUENCE.findall(data))) > DAMAGED * high:
        return "utf-8"
    return _latin(data) if high < RUN * len(runs) else _by_letters(data) or _guess(data) or "utf-8"


def _wide(data: bytes) -> str:
    """UTF-16 without a mark, of a text with ASCII in it: every second byte of that is zero."""
    head = data[:4096]
    zeros = [head[side::2].count(0) for side in (0, 1)]
    if max(zeros) < max(1, len(head) // 20) or min(zeros) * 4 > max(zeros) or len(data) % 2:
        return ""
    return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"


def _wide_script(data: bytes) -> str:
    """UTF-16 without a mark, of a script beyond ASCII: only its line ends and blanks have a zero byte."""
    if b"\0" not in data[:SAMPLE] or len(data) % 2:
        return ""
    for name, breaks in (("utf-16-le", (b"\n\0", b" \0")), ("utf-16-be", (b"\0\n", b"\0 "))):
        head = data[:4096].decode(name, "replace").removesuffix("\ufffd")
        if any(mark in data for mark in breaks) and len(_WRITTEN.findall(head)) > WIDE * len(head):
            return name
    return ""


def _seven_bits(data: bytes) -> str:
    """Japanese and Korean as mail wrote them: escapes switch between character sets."""
    if b"\x1b$@" in data or b"\x1b$B" in data:
        return "iso2022_jp_ext"
    return "iso2022_kr" if b"\x1b$)C" in data else ""


def _by_letters(data: bytes) -> str:
    """Japanese by its kana and Korean by its Hangul, which no other encoding's bytes make so many of."""
    data = _sample(data)
    for name, letters, share in ALPHABETS:
        try:
            text = codecs.getincrementaldecoder(name)().decode(data)
        except UnicodeDecodeError:
            continue
        written = [c for c in text if c >= "\u3040"]
        if len(letters.findall(text)) > share * len(written) > 0:
            return name
    return ""


def _latin(data: bytes) -> str:
    text = _sample(data)
    return max(LATIN, key=lambda name: _fit(text.decode(name, errors="replace"), LATIN[name]))


def _fit(text: str, letters: str = "") -> int:
    """How many characters beyond ASCII are what people write: `letters`, or any; no capital follows a small letter."""
    fit = 0
    for before, c in pairwise(f" {text}"):
        if c < "\x80":
            continue
        written = c in letters if letters else c.isalpha()
        fit += 1 if written and not (c.isupper() and before.islower()) else -1
    return fit


def _sample(data: bytes) -> bytes:
    if len(data) > SAMPLE:
        data = data[: data.rfind(b"\n", 0, SAMPLE) + 1] or data[:SAMPLE]
    return data


def _guess(data: bytes) -> str:
    from charset_normalizer import from_bytes

    data = _sample(data)
    best = from_bytes(data, cp_isolation=list(CANDIDATES), enable_fallback=False).best()
    found = best.encoding if best else ""
    alike = next((names for names in ALIKE if found in names or not found), (found,))
    fits = {name: _fit(data.decode(name, errors="replace")) for name in alike if name}
    if not found and max(fits.values()) < LIKELY * sum(map(len, _HIGH.findall(data))):
        return ""
    return max(fits, key=lambda name: fits[name])
