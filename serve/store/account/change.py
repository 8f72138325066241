"""What an entry of kind "change" says, so that a request's policy can be traced to whoever approved it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

Step = Literal["submitted", "approved", "rejected", "withdrawn", "blocked", "in_force", "retired"]


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step in a change's life. `msgspec.to_builtins` makes it the entry to append, before the step holds."""

    change: str  # the change's id
    step: Step
    by: str  # id of the key that took the step; "" where no keys are configured
    tenant: str = ""  # whose the change is; "": everybody's
    author: str = ""  # id of the key that drafted it
    title: str = ""
    reason: str = ""
    digest: str = ""  # of the whole change
    base: str = ""  # digest of the state that it was made against
    policies: Mapping[str, str] = {}  # policy -> its digest from then on: a request's entry names the same digest
    indexes: Mapping[str, int] = {}  # index -> its revision from then on
    since: str = ""  # date from which it holds; "": at once
    check: str = ""  # digest of the release check that it passed
    undoes: str = ""  # id of the change that it rolls back
