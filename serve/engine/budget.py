"""What a pool may spend on sending requests again, and which answers ask for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

# Before the first byte of a body these say that the request was not served: by the engine, or by a gateway before it.
UNSERVED = frozenset({429, 500, 502, 503, 504})
_SHARE = 0.2  # of the requests, that may be sent again in the long run: more would make a storm of an overload
_MOST = 100.0  # saved up: what a burst may take while one engine has just begun to fail
_REST_MOST_S = 300.0  # an engine that asks for a longer pause is asked again after this


class Budget:
    """A bucket of retries: each request adds a share of one, each retry takes one."""

    def __init__(self) -> None:
        self._left = _MOST

    def earn(self) -> None:
        """Count a request."""
        if self._left < _MOST:
            self._left += _SHARE

    def spend(self) -> bool:
        """Take a retry, if there is one."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


def retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that an answer's Retry-After asks for (RFC 9110, 10.2.3), within bounds; 0 where it says nothing."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value) if not value.endswith("GMT") else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):  # the latter of a year that no computer has
        return 0.0
    return min(seconds, _REST_MOST_S) if seconds > 0 else 0.0  # NaN is not
