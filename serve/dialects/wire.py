"""A JSON body on the wire, whatever the API: split into its top-level fields, checked, and written again.

Each field is kept as the client's own JSON bytes (`msgspec.Raw`). What no policy names is written to the engine as
those bytes; only `model`, the messages that the layout edited and our own `trimtab` field differ.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from datetime import date
from typing import Any

import msgspec

from serve.config import Server
from serve.dialects import crowd, outline
from serve.dialects.hollow import Hollow
from serve.dialects.spelling import KNOWN, misspelled
from serve.dialects.surrogates import shield
from serve.errors import BadRequest

Raw = msgspec.Raw
NULL = Raw(b"null")
NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # of decoding; the last, of what is nested deeply
_fields = msgspec.json.Decoder(dict[str, Raw])
# Possessive: a backtracking one keeps a mark per character, a gigabyte for a string of ten megabytes.
_MEMBER = re.compile(rb'\s*[{,]\s*("[^"\\]*+(?:\\.[^"\\]*+)*+")\s*:\s*', re.DOTALL)
_NAME = 64  # bytes at a body's begin, where its first colon nearly always is
_DECODED = 2**20  # bytes of a body that are looked at as text at a time
_STEP = 2**18  # bytes that are compared at a time
_LARGE = 2**19  # bytes of a body that is not parsed in one call, if it need not be
_OPTIONS = ("policy", "region", "language", "date", "skip", "explain")


class Request(msgspec.Struct, frozen=True):
    """A parsed body. `fields` are its top-level fields without `trimtab`; `body` the bytes as they came."""

    fields: dict[str, Raw]
    model: str
    stream: bool
    options: Mapping[str, Any]
    body: bytes
    touched: bool  # the body held a `trimtab` field, so its bytes can't be relayed as they are

    def value(self, name: str, default: Any = None) -> Any:
        """A field decoded; `default` where it is missing or null.

        Raises:
            BadRequest: a number that no computer holds.
        """
        raw = self.fields.get(name)
        value = None if raw is None else _decoded(name, raw)
        return default if value is None else value


def parse(body: bytes, limits: Server) -> Request:
    """Split a body into its fields and check what must hold before anything is built from it.

    Raises:
        BadRequest: no JSON object, too deep, a field twice or of the wrong type; the message names it.
    """
    if len(body) > crowd.LARGE:  # a smaller one has no room for many things
        crowd.refuse_fields(body)  # before half a million of them are objects
    try:
        try:
            fields = (_split(body) if len(body) > _LARGE else None) or _fields.decode(body)
        except msgspec.MsgspecError:
            body, fields = _shielded(body)
        if not body.isascii():  # the fields are decoded when they are needed; this must be known before
            _check_utf8(body)
    except RecursionError:
        raise BadRequest("the body is nested too deeply", code="too_deep") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not a JSON object: {error}", code="invalid_json") from None
    if len(fields) > crowd.FIELDS:
        raise crowd.too_many_fields()
    if (name := _repeated(body, fields)) is not None:
        raise BadRequest(f'duplicate field "{name}" in the request body', code="duplicate_field", param=name)
    if not KNOWN.issuperset(fields):
        for name in fields:
            if name not in KNOWN and name.casefold() in KNOWN:
                raise misspelled(name, name)
    if len(body) > crowd.LARGE:
        crowd.refuse_containers(body)
    if outline.opens(body, min(16, limits.max_depth)):  # else it cannot be deep
        for name, raw in fields.items():
            if outline.depth(bytes(raw)) > limits.max_depth:
                raise BadRequest(f"{name} is nested deeper than {limits.max_depth}", code="too_deep", param=name)
    options = _options(fields.pop("trimtab")) if "trimtab" in fields else None
    request = Request(
        fields,
        typed(fields, "model", str, ""),
        typed(fields, "stream", bool, False) if "stream" in fields else False,
        options or {},
        body,
        options is not None,
    )
    for name in ("n", "best_of"):  # each is a multiplier of the work
        if name in fields and not 1 <= typed(fields, name, int, 1) <= limits.max_n:
            raise BadRequest(f"{name} must be between 1 and {limits.max_n}", param=name)
    return request


def _split(body: bytes) -> dict[str, Raw] | None:
    """The fields of a large body, read in short steps; None where that cannot be, and it has to be parsed as one."""
    try:
        hollow = Hollow(body, _LARGE)
        fields = _fields.decode(hollow.text)
    except ValueError:  # too little of it is long strings, or it is no JSON (MsgspecError, UnicodeDecodeError)
        return None
    if _repeated(hollow.text, fields) is not None:
        return None
    whole, at = memoryview(body), 0
    for name, raw in fields.items():
        member = _MEMBER.match(hollow.text, at)
        assert member is not None
        begin = hollow.place(member.end())
        if begin - hollow.place(at) != member.end() - at:  # its name is such a string
            return None
        at = member.end() + len(memoryview(raw))
        fields[name] = Raw(whole[begin : hollow.place(at)])
    return fields


def _check_utf8(body: bytes) -> None:
    """Raise UnicodeDecodeError where the body is not UTF-8, in steps that are short."""
    if len(body) <= _DECODED:
        body.decode()
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(0, len(body), _DECODED):
        decoder.decode(body[at : at + _DECODED])
    decoder.decode(b"", final=True)


def _shielded(body: bytes) -> tuple[bytes, dict[str, Raw]]:
    """The body and its fields, with marks for unpaired surrogates, which nothing here can decode.

    Raises:
        MsgspecError: it is no object for another reason.
    """
    shielded = shield(body)
    return shielded, _fields.decode(shielded)


def _decoded(name: str, raw: Raw) -> Any:
    if len(memoryview(raw)) > crowd.LARGE:
        crowd.refuse_crowd(raw, name)
    try:
        return msgspec.json.decode(raw)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"{name}: {error}", param=name) from None


def _repeated(body: bytes, fields: Mapping[str, Raw]) -> str | None:
    """A field that stands twice, if one does: the engine might take the first where we took the last.

    Without repetition the fields, one after the other, are the whole body.
    """
    # As nearly all clients write it, without blanks or with Python's own; b"%s" takes the bytes as they are. A large
    # body is not written anew for it.
    if len(body) < crowd.LARGE:
        comma, colon = (b", ", b'"%s": %s') if body.find(b'": ', 0, _NAME) >= 0 else (b",", b'"%s":%s')
        if body == b"{%s}" % comma.join([colon % (name.encode(), raw) for name, raw in fields.items()]):
            return None
    at = 0
    for name, raw in fields.items():
        member = _MEMBER.match(body, at)
        if member is None or not _is_at(body, member.end(), raw) or msgspec.json.decode(member[1]) != name:
            return name
        at = member.end() + len(memoryview(raw))
    rest = _MEMBER.match(body, at)
    return str(msgspec.json.decode(rest[1])) if rest and fields else None


def _is_at(body: bytes, at: int, raw: Raw) -> bool:
    """Whether a field's text stands there; a long one is compared in short steps."""
    text = memoryview(raw)
    if len(text) <= _STEP:
        return body.startswith(raw, at)
    steps = range(0, len(text), _STEP)
    return all(body.startswith(text[step : step + _STEP], at + step) for step in steps)


def _options(raw: Raw) -> dict[str, Any]:
    options = _decoded("trimtab", raw)
    if not isinstance(options, dict):
        raise BadRequest("trimtab must be an object", param="trimtab")
    if unknown := sorted(options.keys() - set(_OPTIONS)):
        raise BadRequest(f"trimtab.{unknown[0]} is unknown; valid are {', '.join(_OPTIONS)}", param="trimtab")
    skip = options.get("skip", [])
    if not isinstance(skip, list) or not all(isinstance(name, str) for name in skip):
        raise BadRequest("trimtab.skip must be a list of stage names", param="trimtab.skip")
    if not isinstance(options.get("explain", False), bool):
        raise BadRequest("trimtab.explain must be a boolean", param="trimtab.explain")
    for name in ("policy", "region", "language", "date"):
        if not isinstance(options.get(name, ""), str):
            raise BadRequest(f"trimtab.{name} must be a string", param=f"trimtab.{name}")
    if (day := options.get("date", "")) and not _is_date(day):
        raise BadRequest("trimtab.date must be a date like 2026-01-31", param="trimtab.date")
    return options


def _is_date(text: str) -> bool:
    """ISO 8601 with dashes: `fromisoformat` alone takes 20260131 as well, which does not sort."""
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return len(text) == 10 and text[4] == text[7] == "-"


def typed(fields: Mapping[str, Raw], name: str, kind: type, default: Any) -> Any:
    """A field decoded; `default` where it is missing or null.

    Raises:
        BadRequest: it is of another kind.
    """
    if name not in fields:
        return default
    value = _decoded(name, fields[name])
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        nouns = {str: "a string", bool: "a boolean", int: "an integer", dict: "an object"}
        raise BadRequest(f"{name} must be {nouns[kind]}", param=name)
    return value


def refuse_beside(request: Request, *names: str) -> None:
    """Refuse another API's conversation beside the one that is aligned: an engine might answer that one.

    Raises:
        BadRequest: naming the field.
    """
    for name in names:
        if request.fields.get(name, NULL) != NULL:
            raise BadRequest(
                f"{name} is not a field of this API, and an engine might answer it in place of the aligned "
                "conversation: leave it out, or use the policy 'raw'",
                code="second_conversation",
                param=name,
            )


def raw_body(request: Request, model: str, salt: str = "") -> bytes:
    """The body for the engine where only the model's name and the cache's salt may change: the client's bytes
    wherever possible."""
    if not request.touched and not salt and (not model or model == request.model):
        return request.body
    return encode(request.fields, model, salt)


def encode(fields: Mapping[str, Raw], model: str, salt: str) -> bytes:
    """A body of these fields; `model` and `salt` take the place of the fields' own where they are not ""."""
    if model:
        fields = {**fields, "model": Raw(msgspec.json.encode(model))}
    if salt:
        fields = {**fields, "cache_salt": Raw(msgspec.json.encode(salt))}
    return msgspec.json.encode(fields)
