"""Whom a request names: the person that its entries in the account are about."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from serve.dialects.wire import Raw

LONG = 200  # characters of a name that a client chooses
_NAMES = ("safety_identifier", "user")  # fields in which a request names a person


def named_person(fields: Mapping[str, Raw]) -> str:
    """Whom a request names: `safety_identifier`, `user`, or Anthropic's `metadata.user_id`; "" for nobody."""
    for field in _NAMES:
        if field in fields:
            value = _decoded(fields[field])
            if isinstance(value, str) and value:
                return value[:LONG]
    if "metadata" in fields:
        value = _decoded(fields["metadata"])
        name = value.get("user_id") if isinstance(value, dict) else None
        return name[:LONG] if isinstance(name, str) else ""
    return ""


def _decoded(raw: Raw) -> object:
    try:
        found: object = msgspec.json.decode(raw)
    except msgspec.MsgspecError:  # the engine will say what is wrong with it
        return None
    return found
