"""How many things a JSON text may hold: each costs a hundred times its bytes once it is an object.

A count that is over the bound by the bytes alone is taken again outside of strings, in short steps.
"""

from __future__ import annotations

import msgspec

from serve.dialects import outline
from serve.errors import BadRequest

FIELDS = 1000  # at the top level of a body; no API has a hundred
LARGE = 50_000  # bytes, and keys at any depth, that take no time worth a look beforehand
_CONTAINERS = 1_000_000  # objects and lists in one body
_NESTED = 50_000  # objects and lists of a field that is decoded: 128 tools with 390 in each schema
_VALUES = 200_000  # values in a conversation, which is decoded as a whole


def refuse_fields(body: bytes) -> None:
    """Refuse a body of too many fields.

    Raises:
        BadRequest: it has more than `FIELDS`.
    """
    if len(body) > LARGE and outline.exceeds(body, b":", LARGE) and outline.fields(body, FIELDS) > FIELDS:
        raise too_many_fields()


def too_many_fields() -> BadRequest:
    """The refusal of a body with more than `FIELDS` fields."""
    return BadRequest(f"the body has more than {FIELDS} fields", code="too_many_fields")


def refuse_containers(body: bytes, most: int = _CONTAINERS) -> None:
    """Refuse a body of too many objects and lists.

    Raises:
        BadRequest: it has more than `most`.
    """
    if outline.opens(body, most) and outline.brackets(body) > 2 * most:
        raise BadRequest(f"the body holds more than {most} objects and lists", code="too_deep")


def refuse_crowd(raw: msgspec.Raw, param: str) -> None:
    """Refuse a field of too many objects, lists or values, before it is decoded.

    Raises:
        BadRequest: naming the field.
    """
    text = bytes(raw)
    if outline.opens(text, _NESTED) and outline.brackets(text) > 2 * _NESTED:
        raise BadRequest(f"{param} holds more than {_NESTED} objects and lists", code="too_many_values", param=param)
    refuse_values(raw, param)


def refuse_values(raw: msgspec.Raw, param: str) -> None:
    """Refuse a conversation of too many values, among them the parts and fields of its messages.

    Raises:
        BadRequest: naming the field.
    """
    text = memoryview(raw)
    if len(text) > _VALUES and outline.commas(bytes(text), _VALUES) > _VALUES:
        raise BadRequest(f"{param} holds more than {_VALUES} values", code="too_many_values", param=param)
