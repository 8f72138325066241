"""Whether an engine answers: what the checks of a pool's members, and of a single URL, ask."""

from __future__ import annotations

import asyncio

from serve.engine.address import Addressing
from serve.engine.relay import Relay

CHECK_S = 2.0  # between the checks of a member
PATIENCE_S = 5.0  # for a check's answer
_PATHS = ("/health", "/v1/models")  # each is asked only where the engine doesn't know the one before


async def health(relay: Relay, addressing: Addressing, url: str) -> str:
    """ "" where an engine answers that it is well, else what is wrong.

    Raises:
        UpstreamError: it does not answer. TimeoutError: not in time.
    """
    reason = ""
    for path in _PATHS:
        async with asyncio.timeout(PATIENCE_S):
            answer = await relay.send("GET", addressing.at(url, path), {}, None, ca_file=addressing.ca_file)
            await answer.done()
        if 200 <= answer.status < 300 or answer.status in (401, 403):  # it is up; keys are the requests' business
            return ""
        reason = f"{path} answers {answer.status}"
        if answer.status not in (404, 405, 501):
            break
    return reason
