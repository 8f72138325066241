"""Release checks that a change needs: each must be of the very policy that the change makes, and have passed.

A check is the JSON that `trimtab eval --check` writes. It names the digest of the policy that it asked; a change's own
digest of that policy is computed from what its indexes will hold.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from prompt_opt import pipeline
from prompt_opt.core import State
from serve.approval.desk import Desk
from serve.approval.items import rules_by_index, split
from serve.config import Config
from serve.errors import BadRequest
from serve.store.changes import Change

_SCHEMA = "trimtab-release-check/1"


def read_check(check: Any) -> tuple[str, dict[str, Any]]:
    """The policy that a check is of, and what is kept of it.

    Raises:
        BadRequest: it is no check, or it has not passed.
    """
    known = isinstance(check, dict) and check.get("schema") == _SCHEMA
    if not known or not all(isinstance(check.get(name), str) for name in ("policy", "digest")):
        raise BadRequest("check must be the JSON that `trimtab eval --check` writes", param="check")
    if check.get("outcome") != "passed":
        raise BadRequest(f"the check has not passed: its outcome is {check.get('outcome')!r}", param="check.outcome")
    return check["policy"], {"digest": check["digest"], "at": check.get("at", "")}


def digests(desk: Desk, change: Change, config: Config) -> dict[str, str]:
    """By name, the digest of each policy that the change touches, as it will be in force. `config` is the change's."""
    rules = rules_by_index(change.items)

    @cache
    def state(name: str) -> State:
        return 0, desk.open_index(name).state_after(*split(rules.get(name, ())))

    named = {*change.requires, *touched(desk, change, config)}
    return {
        name: pipeline.digest(policy, {index: state(index) for index in pipeline.indexes(policy)})
        for name, policy in config.policies.items() if name in named
    }  # fmt: skip


def touched(desk: Desk, change: Change, config: Config) -> tuple[str, ...]:
    """The policies that the change puts, or whose rules it changes. `config` is the change's."""
    old, rules = desk.config.policies, rules_by_index(change.items)
    return tuple(
        name for name, policy in config.policies.items()
        if name not in old or old[name].digest != policy.digest or not pipeline.indexes(policy).isdisjoint(rules)
    )  # fmt: skip


def missing(desk: Desk, change: Change, config: Config) -> list[str]:
    """The required policies of which no passed check is kept with their very digest."""
    if not change.requires:
        return []
    own = digests(desk, change, config)
    return [name for name in change.requires if change.checks.get(name, {}).get("digest") != own.get(name)]
