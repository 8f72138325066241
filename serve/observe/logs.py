"""Logs as lines of text, or of JSON with the id of the request that they belong to; and a line for each request."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

# The id of the request that the running task works for; "" where there is none, or where nobody asks.
request_id: ContextVar[str] = ContextVar("request_id", default="")
_access = logging.getLogger("trimtab.access")
_WORD = re.compile(r"[!#-~]+")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")


def install(kind: Literal["text", "json"]) -> None:
    """Log to standard error in this form from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if kind == "json" else TextLines("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class TextLines(logging.Formatter):
    """A message a line, whatever it quotes: a line's end or a terminal's command in it is written as an escape."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name for it
        """The line without the traceback that may follow it."""
        text = super().formatMessage(record)
        if text.isprintable():
            return text
        return "".join([c if c.isprintable() else c.encode("unicode_escape").decode() for c in text])


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """`time`, `level`, `logger`, `message`, and `request_id`, `exception` and the fields of an access line."""
        row: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if ident := request_id.get():
            row["request_id"] = ident
        row |= getattr(record, "fields", {})
        if record.exc_info:
            row["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(row).decode()


def access(method: str, path: str, status: int, fields: Mapping[str, Any]) -> None:
    """Log one request, which has ended. In text the fields follow as NAME=VALUE, quoted where they have to be."""
    shown = {name: value for name, value in fields.items() if value not in (None, "")}
    words = " ".join(f"{name}={_word(value)}" for name, value in shown.items())
    about = {"method": method, "path": path, "status": status, **shown}
    _access.info("%s %s %d %s", method, path, status, words, extra={"fields": about})


def _word(value: Any) -> str:
    """A value without blanks, which would end it, or as a JSON string."""
    text = str(value)
    return text if _WORD.fullmatch(text) else msgspec.json.encode(text).decode()


def sound_id(given: str | None) -> str:
    """A client's X-Request-Id, if it is one that logs and headers can carry; else ""."""
    return given if given is not None and _ID.fullmatch(given) else ""
