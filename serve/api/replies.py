"""A control call's answer."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Response


def json_reply(body: Any, status: int = 200) -> Response:
    """`body` as JSON."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")
