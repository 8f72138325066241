"""Whose stored responses a request may name: an engine knows the operator's key only, so it tells no tenants apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from serve.chat.keys import Caller
from serve.config import Config
from serve.dialects.wire import NULL, Raw, Request
from serve.engine.fields import STORED, refuse_stored
from serve.engine.live import LiveEngine

_rows = msgspec.json.Decoder(list[Raw])
_item = msgspec.json.Decoder(dict[str, Raw])


def shared(config: Config, engine: LiveEngine) -> bool:
    """Whether keys of several tenants may use a policy of this engine."""
    if not _several(config):
        return False
    names = [p.name for p in config.policies.values() if engine.spec.name in (p.engine, *p.fallback)]
    tenants = {key.tenant for key in config.keys if any(map(Caller(key.tenant, key).may_use, names))}
    return len(tenants) > 1


def refuse_others(config: Config, engines: Sequence[LiveEngine], request: Request) -> None:
    """Refuse a request that continues what one of the engines has stored, where that may be another tenant's.

    Raises:
        BadRequest: naming the field and the setting.
    """
    if not _several(config):
        return
    named = {name: name for name in STORED if request.fields.get(name, NULL) != NULL}
    if _refers(request.fields.get("input", NULL)):
        named.setdefault("previous_response_id", "item_reference")
    for engine in engines if named else ():
        for name, asked in named.items() if shared(config, engine) else ():
            refuse_stored(name, asked, engine.spec.fields_pass, engine.spec.name)


def _several(config: Config) -> bool:
    """Whether there are several tenants at all."""
    return len({key.tenant for key in config.keys}) > 1


def _refers(raw: Raw) -> bool:
    """Whether an input has an item that stands for a stored one."""
    try:
        return any(_is_reference(_item.decode(row)) for row in _rows.decode(raw))
    except msgspec.MsgspecError:
        return False  # a text, or no list of objects


def _is_reference(item: Mapping[str, Raw]) -> bool:
    """By its type, or by having neither a type nor a role."""
    kind = item.get("type", NULL)
    if kind == NULL:
        return item.get("role", NULL) == NULL
    return bool(msgspec.json.decode(kind) == "item_reference")
