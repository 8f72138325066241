"""Bytes to text: by byte order mark, UTF-8, UTF-16 by its zeros, else by charset-normalizer's guess.

A text that is UTF-8 but for a few bytes is damaged UTF-8 and not another encoding: those bytes become lone
surrogates, which no passage accepts, so that each is reported with its line.
"""

from __future__ import annotations

import codecs
import re

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What office software and the older Web write.
CANDIDATES = (
    "gb18030", "big5hkscs", "shift_jis", "euc_jp", "euc_kr", "cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp874",
    "cp1252", "cp1250", "cp1254",
)  # fmt: skip
# ASCII with a letter beyond it here and there: told apart by the letters that their languages use. The first wins ties.
LATIN = {
    "cp1252": "äöüßéèêàçñáíóúâîôûëïùœæøåãõìòýÄÖÜÉÈÀÇÑÁÍÓÚÂÎÔÛœŒÆØÅ«»„“”‘’€§°–—…·¿¡ºª\xa0",
    "cp1250": "ąćęłńśźżáčďéěíňóřšťúůýžőűăâîşţäöüôĄĆĘŁŃŚŹŻÁČĎÉĚÍŇÓŘŠŤÚŮÝŽŐŰ„“”‘’€§°–—…\xa0",
    "cp1254": "çğıöşüÇĞİÖŞÜâîû“”‘’€§°–—…\xa0",
}
RUN = 2.0  # bytes beyond ASCII in a row, on average, below which a text is one of these
SAMPLE = 200_000  # bytes that a guess is made from
DAMAGED = 0.8  # of the bytes beyond ASCII: so many in valid UTF-8 sequences make it UTF-8
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
        return _wide(data) or "utf-8"
    if wide := _wide(data):
        return wide
    runs = _HIGH.findall(data)
    high = sum(map(len, runs))
    if sum(map(len, _SEQUENCE.findall(data))) > DAMAGED * high:
        return "utf-8"
    return _latin(data) if high < RUN * len(runs) else _guess(data) or "utf-8"


def _wide(data: bytes) -> str:
    """UTF-16 without a mark: every second byte of its ASCII is zero."""
    head = data[:4096]
    zeros = [head[side::2].count(0) for side in (0, 1)]
    if max(zeros) < max(1, len(head) // 20) or min(zeros) * 4 > max(zeros) or len(data) % 2:
        return ""
    return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"


def _latin(data: bytes) -> str:
    high = b"".join(_HIGH.findall(data[:SAMPLE]))
    return max(LATIN, key=lambda name: sum(c in LATIN[name] for c in high.decode(name, errors="replace")))


def _guess(data: bytes) -> str:
    from charset_normalizer import from_bytes

    if len(data) > SAMPLE:
        data = data[: data.rfind(b"\n", 0, SAMPLE) + 1] or data[:SAMPLE]
    best = from_bytes(data, cp_isolation=list(CANDIDATES), enable_fallback=False).best()
    return best.encoding if best else ""
