"""Who calls, and what they may do."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve.config import RAW, Key
from serve.errors import Forbidden, Unauthorized


@dataclass(frozen=True, slots=True)
class Caller:
    """A request's identity. Without configured keys everybody is one caller who may do everything."""

    tenant: str = ""
    key: Key | None = None

    @property
    def name(self) -> str:
        """The id of the key; "" without one."""
        return self.key.id if self.key else ""

    def options(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """A request's own options, and the key's region and language where it names none."""
        if self.key is None:
            return asked
        own = {"region": self.key.region, "language": self.key.language}
        return {**asked, **{name: value for name, value in own.items() if value and not asked.get(name)}}

    def may(self, right: str) -> bool:
        """Whether the key has a right of `serve.config.RIGHTS`; without keys everybody has all."""
        return self.key is None or right in self.key.rights

    def has(self, right: str) -> bool:
        """Whether a key gives the right explicitly; without keys nobody has it."""
        return self.key is not None and right in self.key.rights

    def sees(self, tenant: str) -> bool:
        """Whether something that belongs to `tenant` ("": to all) is this caller's to see."""
        return self.key is None or tenant in ("", self.tenant)

    def require(self, right: str) -> None:
        """Raises Forbidden, naming the right that is missing."""
        if not (self.may_use(RAW) if right == RAW else self.may(right)):
            raise Forbidden(f"this key lacks the right {right!r}", code="missing_right")

    def may_use(self, policy: str) -> bool:
        """`raw` is a right of its own; other policies are all allowed unless the key lists some."""
        if self.key is None:
            return True
        if policy == RAW:
            return RAW in self.key.rights or RAW in self.key.policies
        return not self.key.policies or policy in self.key.policies


ANYBODY = Caller()


def identify(keys: Sequence[Key], authorization: str | None) -> Caller:
    """The caller behind an Authorization header. Every key is compared, each in constant time.

    Raises:
        Unauthorized: keys are configured and this is none of them.
    """
    scheme, _, secret = (authorization or "").partition(" ")
    return known(keys, secret.strip() or None if scheme.lower() == "bearer" else None)


def known(keys: Sequence[Key], secret: str | None) -> Caller:
    """The caller who has this secret; its characters are the header's bytes, as latin-1 reads them.

    Raises:
        Unauthorized: keys are configured and this is none of them.
    """
    if not keys:
        return ANYBODY
    if secret is None:
        raise Unauthorized("missing API key: send 'Authorization: Bearer KEY'", code="missing_api_key")
    # latin-1 gives back the very bytes of the header.
    digest = hashlib.sha256(secret.encode("latin-1")).hexdigest()
    found: Key | None = None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    if found is None:
        raise Unauthorized("invalid API key", code="invalid_api_key")
    return Caller(found.tenant, found)
