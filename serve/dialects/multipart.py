"""A form on the wire (multipart/form-data): its model read and replaced, everything else left as it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve.errors import BadRequest, UnsupportedMedia

_PARTS = 1000


@dataclass(frozen=True, slots=True)
class Form:
    """A parsed form. `at` is where the model's value stands in `body`; None where the form names no model."""

    body: bytes
    model: str = ""
    at: slice | None = None
    stream: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)  # a form has none: the policy is chosen by the header

    def with_model(self, model: str) -> bytes:
        """The form with another model, "" for its own. One that names none is sent as it is."""
        if self.at is None or model in ("", self.model):
            return self.body
        return self.body[: self.at.start] + model.encode() + self.body[self.at.stop :]


def parse(body: bytes, content_type: str) -> Form:
    """Find the model of a form.

    Raises:
        UnsupportedMedia: the body is declared as something else.
        BadRequest: it is no form, names two models, or names one by another spelling.
    """
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise UnsupportedMedia("content-type must be multipart/form-data or application/json", code="content_type")
    parts = _Parts()
    try:
        parser = MultipartParser(options[b"boundary"], parts.callbacks())
        parser.write(body)
        parser.finalize()
    except ValueError as error:
        raise BadRequest(f"the body is not a form: {error}", code="invalid_form") from None
    return parts.form(body)


class _Parts:
    """Collects each part's name and where its value stands; the parser is fed the body in one piece."""

    def __init__(self) -> None:
        self._found: list[tuple[bytes, bytes, slice]] = []
        self._header, self._value, self._disposition = b"", b"", b""
        self._start, self._end = -1, -1

    def callbacks(self) -> Any:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin, "on_part_data": self._data, "on_part_end": self._over,
            "on_header_field": self._on_field, "on_header_value": self._on_value, "on_header_end": self._on_header,
        }  # fmt: skip

    def form(self, body: bytes) -> Form:
        """The form, once the parser is done."""
        model, at, stream = "", None, False
        for name, _, where in self._found:
            plain = name.decode("latin-1").casefold()
            if plain not in ("model", "stream", "trimtab"):
                continue
            if name != plain.encode() or plain == "trimtab" or (plain == "model" and at is not None):
                raise BadRequest(f"the form's field {name.decode('latin-1')!r} is not accepted", param=plain)
            value = body[where].decode("utf-8", "replace")
            if plain == "stream":
                stream = value.lower() in ("true", "1")
            else:
                model, at = value, where
        return Form(body, model, at, stream)

    def _begin(self) -> None:
        self._disposition, self._start, self._end = b"", -1, -1
        if len(self._found) >= _PARTS:
            raise ValueError(f"more than {_PARTS} parts")

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._start = start if self._start < 0 else self._start
        self._end = end

    def _over(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._disposition)
        name, start = options.get(b"name", b""), max(self._start, 0)
        self._found.append((name, options.get(b"filename", b""), slice(start, max(self._end, start))))
