"""What keeps tenants apart in a vLLM engine's prefix cache.

Whoever shares a cache can learn by timing what others have asked. vLLM mixes a request's `cache_salt` into the hash of
its first block, so that requests with different salts share none. Ours is made here, and no client can choose it.
"""

from __future__ import annotations

import hashlib
import hmac
from contextvars import ContextVar

from prompt_opt.core import Policy
from serve.config import Config
from serve.engine.features import PATHS as EVERYWHERE
from serve.engine.live import LiveEngine

PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})  # on which vLLM knows the field
_ALWAYS = PATHS & EVERYWHERE
UNSENT = "cache_salt: not sent, the engine is not known to be vLLM"
DROPPED = "cache_salt: the client's own gave way to its tenant's"
# For the calls that stages make on behalf of a request; a task inherits it from the one that began it.
on_behalf: ContextVar[str] = ContextVar("on_behalf", default="")


def salt(config: Config, policy: Policy, engine: LiveEngine, tenant: str) -> str:
    """32 hex digits for this tenant; "" where the policy lets tenants share, or the engine is no vLLM."""
    return of_tenant(config, policy, tenant) if engine.kind == "vllm" else ""


def of_tenant(config: Config, policy: Policy, tenant: str) -> str:
    """The same for any engine.

    The hashes of all API keys are the secret: the same in every worker and after a restart, and kept nowhere else.
    """
    if policy.cache_salt != "tenant":
        return ""
    secret = "".join(key.sha256 for key in config.keys).encode()
    return hmac.new(secret, b"cache_salt:" + tenant.encode(), hashlib.sha256).hexdigest()[:32]


def natively(policy: Policy, engine: LiveEngine, path: str) -> bool:
    """Whether a request of this path goes to the engine as it is: it has the path, and keeps tenants apart there."""
    if path in _ALWAYS:
        return True
    salted = policy.cache_salt == "tenant" and engine.kind == "vllm"
    return engine.speaks(path) and (path in PATHS or not salted)


def notes(policy: Policy, engine: LiveEngine, own: bool) -> tuple[str, ...]:
    """For the trace: a salt that this engine can't be sent, or that took the place of the client's `own`."""
    if policy.cache_salt != "tenant":
        return ()
    if engine.kind != "vllm":
        return (UNSENT,)
    return (DROPPED,) if own else ()
