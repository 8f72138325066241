r"""Unpaired surrogates (\ud83d without its \ude00) in JSON, which clients send that cut a text inside an emoji.

JSON allows them, many engines take them, and no UTF-8 text can hold them. So they travel through us as marks, which no
client can know, and are themselves again in what an engine gets.
"""

from __future__ import annotations

import re
import secrets

from serve.errors import BadRequest

_MOST = 10_000
_STEP = 2**18  # bytes
_MARK = f"<unpaired-surrogate-{secrets.token_hex(8)}-".encode()
# Every escape, so that the second half of an escaped backslash is not taken for the beginning of one.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_MARKED = re.compile(re.escape(_MARK) + rb"(u[dD][89a-fA-F][0-9a-fA-F]{2})>")


def shield(body: bytes) -> bytes:
    """The JSON text with marks in the place of unpaired surrogates.

    Raises:
        BadRequest: it has thousands of them: no text that was cut somewhere has, and a mark is longer than what it
            stands for.
    """
    marked = 0

    def mark(found: re.Match[bytes]) -> bytes:
        nonlocal marked
        if not found["lone"]:
            return found[0]
        marked += 1
        if marked > _MOST:
            raise BadRequest(f"the body holds more than {_MOST} unpaired surrogates", code="invalid_json")
        return b"%s%s>" % (_MARK, found["lone"])

    return _ESCAPE.sub(mark, body)


def restore(body: bytes) -> bytes:
    """The JSON text with the surrogates in the place of their marks, each as the client wrote it."""
    return _MARKED.sub(rb"\\\1", body) if _marked(body) else body


def _marked(body: bytes) -> bool:
    """Whether a mark is in it, looked for in short steps.

    `in` would be slower than `find`: it tries to take the mark for a number first, at the cost of an exception.
    """
    if len(body) <= _STEP:
        return body.find(_MARK) >= 0
    return any(body.find(_MARK, at, at + _STEP + len(_MARK)) >= 0 for at in range(0, len(body), _STEP))
