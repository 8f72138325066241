"""Which policy and model a request gets: trusted channels only, never the text of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prompt_opt.core import Policy, Principle
from prompt_opt.pipeline import reads
from serve.chat.keys import Caller
from serve.config import Config
from serve.errors import BadRequest, Forbidden, NotFound


def named(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """What the X-Trimtab-Policy header says; None without one. Names are in lower case.

    Raises:
        BadRequest: there are two: a proxy that adds its own must not be overruled by the client's, nor the other way.
    """
    values = [value for name, value in headers if name == b"x-trimtab-policy"]
    if len(values) > 1:
        raise BadRequest("duplicate header X-Trimtab-Policy", code="duplicate_header", param="policy")
    return values[0].decode("latin-1") if values else None


def choose(
    config: Config, caller: Caller, model: str, header: str | None, options: Mapping[str, Any]
) -> tuple[Policy, str]:
    """The policy and the model name to send, "" for the engine's own.

    The first that says something wins: the `trimtab` body field, the X-Trimtab-Policy header, the model alias, the
    key's default, the server's default.

    Raises:
        NotFound: no such policy; the message lists those that the caller may use.
        Forbidden: the caller may not use it, or may not decide what its options say.
    """
    alias = config.aliases.get(model)
    asked = options.get("policy") or header or (alias.policy if alias else None)
    if asked is not None and not isinstance(asked, str):
        raise BadRequest("trimtab.policy must be a string", param="trimtab.policy")
    key = caller.key
    name = asked or (key.policy if key and key.policy else config.server.policy)
    if key and not asked and not caller.may_use(name) and len(key.policies) == 1:
        # A key that may use one policy only needn't name it.
        name = key.policies[0]
    if name in config.policies and (key is None or caller.may_use(name)):
        policy = config.policies[name]
        if options:
            _limit(caller, policy, options)
        return policy, (alias.model if alias else model)
    allowed = ", ".join(sorted(p for p in config.policies if caller.may_use(p))) or "none"
    if name not in config.policies:
        raise NotFound(f"no policy {name!r}; valid are {allowed}", code="policy_not_found", param="policy")
    raise Forbidden(f"this key may not use the policy {name!r}; it may use {allowed}", code="policy_not_allowed")


def _limit(caller: Caller, policy: Policy, options: Mapping[str, Any]) -> None:
    """Let a request decide only what its key's rights or its policy's `optional` allow."""
    for stage in options.get("skip", ()):
        if stage in policy.stages and stage not in policy.optional and not caller.has("skip"):
            raise _not_optional(policy, f"skip the stage {stage!r}", "skip", stage)
    for name in reads(policy):
        if options.get(name) and name not in policy.optional and not caller.has(name):
            raise _not_optional(policy, f"choose the {name}", name, name)


def _not_optional(policy: Policy, what: str, right: str, listed: str) -> Forbidden:
    return Forbidden(
        f"this request may not {what} under the policy {policy.name!r}: that takes an API key with the right "
        f"{right!r}, or {listed!r} among the policy's `optional`",
        code="option_not_allowed",
        param=f"trimtab.{right}",
    )


def not_applicable(policy: Policy, path: str, carriers: Sequence[str], why: str = "") -> BadRequest:
    """The refusal of a request whose path (or body, `why`) cannot carry its policy; `carriers` are paths that can."""
    reason = why or f"cannot be applied to {path}"
    return BadRequest(
        f"the policy {policy.name!r} {reason}. Paths that can carry it: {', '.join(carriers) or 'none'}. "
        f'To relay such requests unaligned, set elsewhere = "raw" in [policy.{policy.name}].',
        code="policy_not_applicable",
        param="policy",
    )


def cannot_hold(policy: Policy, why: str, pinned: Sequence[Principle] = ()) -> BadRequest:
    """The refusal of a request in which the policy's own text has no place, where the policy must hold."""
    error = BadRequest(
        f"the policy {policy.name!r} cannot hold for this request: {why}. It is not sent without the policy, because "
        'the policy has on_error = "fail" or a pinned rule.',
        code="policy_not_applicable",
        param="policy",
    )
    error.sentence, error.words = "room", {"policy": policy.name}
    error.rules = tuple(rule.reference for rule in pinned)
    return error
