"""Steps of a change on a state folder without a server: what cannot be finished, what is blocked, who sees what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retrieval.passage import Passage
from serve.approval import decisions, drafts
from serve.approval.desk import Desk
from serve.approval.enact import catch_up
from serve.chat.indexes import Indexes
from serve.chat.keys import Caller
from serve.config import ConfigError, Flags
from serve.configure.reader import read, resolve
from serve.errors import Conflict, Forbidden, NotFound, Unavailable
from serve.process.loading import desk_of
from serve.store.changes import Change
from tests.serve.conftest import key_table

CONFIG = """
state_dir = "{folder}/state"
[engine.main]
url = "http://127.0.0.1:9"
[index.law]
embedder = "none"
[index.red]
embedder = "none"
tenant = "red"
[index.blue]
embedder = "none"
tenant = "blue"
"""
KEYS = (("ada", "red"), ("ben", "red"), ("bea", "blue"))


def config_in(folder: Path) -> Path:
    rows = "".join(key_table(name, name, ["author", "approver"], tenant) for name, tenant in KEYS)
    path = folder / "trimtab.toml"
    path.write_text(CONFIG.format(folder=folder) + rows)
    return path


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    source, managed = read(Flags(config=str(config_in(tmp_path))))
    config = resolve(source, managed)
    with closing(Indexes(config.indexes)) as indexes:
        yield desk_of(source, config, indexes)


def who(desk: Desk, name: str) -> Caller:
    key = next(key for key in desk.config.keys if key.id == name)
    return Caller(key.tenant, key)


def rule(index: str = "law", name: str = "r1", text: str = "Be kind.") -> dict[str, Any]:
    return {"kind": "rule", "index": index, "name": name, "content": {"text": text}}


def submitted(desk: Desk, *items: Mapping[str, Any], **fields: Any) -> Change:
    change = drafts.draft(desk, who(desk, "ada"), {"reason": "r", "items": list(items), **fields})
    return decisions.submit(desk, who(desk, "ada"), change.id, {})


class FullDisk:
    """An account that cannot be written."""

    def append(self, kind: str, entry: Mapping[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        pass


def test_a_step_whose_entry_cannot_be_written_does_not_hold_until_it_is(desk: Desk) -> None:
    change = submitted(desk, rule())
    full: Callable[[], Any] = FullDisk
    with pytest.raises(Unavailable, match="is decided, but could not be finished"):
        decisions.approve(replace(desk, account=full), who(desk, "ben"), change.id, {})
    assert desk.open_index("law").get("r1") is None
    found = desk.changes.find(change.id)
    assert found is not None
    assert found.state == "submitted"
    assert catch_up(desk) == float("inf")
    assert desk.open_index("law").get("r1") is not None
    found = desk.changes.find(change.id)
    assert found is not None
    assert found.state == "in_force"


def test_without_an_account_nothing_is_decided(desk: Desk) -> None:
    def none() -> Any:
        raise ConfigError("the account cannot be opened")

    change = submitted(desk, rule())
    with pytest.raises(Unavailable, match="cannot be opened"):
        decisions.approve(replace(desk, account=none), who(desk, "ben"), change.id, {})
    assert desk.changes.intent() is None


def test_an_approved_change_whose_base_has_changed_is_blocked_on_its_day(desk: Desk) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    change = submitted(desk, rule(), effective=tomorrow)
    approved = decisions.approve(desk, who(desk, "ben"), change.id, {})
    assert approved.state == "approved"
    assert float("inf") > catch_up(desk) > 0
    desk.open_index("law").add([Passage("r1", "Somebody else's rule.")])
    due = replace_effective(approved)
    assert desk.changes.replace(due)
    catch_up(desk)
    found = desk.changes.find(change.id)
    assert found is not None
    assert found.state == "blocked"
    assert "has changed since" in found.history[-1].comment or "exists already" in found.history[-1].comment
    assert desk.open_index("law").get("r1").text == "Somebody else's rule."  # type: ignore[union-attr]


def replace_effective(change: Change) -> Change:
    """The change as if its day had come."""
    from msgspec.structs import replace as with_fields

    return with_fields(change, effective="2020-01-01", version=change.version + 1)


def test_a_change_of_a_tenants_rules_is_that_tenants(desk: Desk) -> None:
    change = submitted(desk, rule("red"))
    with pytest.raises(NotFound):
        decisions.approve(desk, who(desk, "bea"), change.id, {})
    assert decisions.approve(desk, who(desk, "ben"), change.id, {}).state == "in_force"
    with pytest.raises(Forbidden, match="several tenants"):
        drafts.draft(desk, who(desk, "ada"), {"items": [rule("red"), rule("blue")]})


def test_a_roll_back_waits_for_the_later_change_that_stands_on_it(desk: Desk) -> None:
    ben = who(desk, "ben")
    first = decisions.approve(desk, ben, submitted(desk, rule(), rule(name="r2")).id, {})
    second = decisions.approve(desk, ben, submitted(desk, rule(text="Be kinder.")).id, {})
    with pytest.raises(Conflict, match="roll the later change back first"):
        decisions.roll_back(desk, ben, first.id, {})
    decisions.roll_back(desk, ben, second.id, {})
    decisions.roll_back(desk, ben, first.id, {})
    assert desk.open_index("law").count() == 0


def test_a_rolled_back_rule_is_what_it_was(desk: Desk) -> None:
    ben = who(desk, "ben")
    whole = Passage("r1", "Be kind.", "Kindness", "House", "https://example.org", "", "en", "norm", ("a", "b"),
                    "2020-01-01", "2030-01-01")  # fmt: skip
    desk.open_index("law").add([whole])
    before = desk.open_index("law").state()[1]
    change = decisions.approve(desk, ben, submitted(desk, rule(text="Be short.")).id, {})
    assert desk.open_index("law").state()[1] != before
    decisions.roll_back(desk, ben, change.id, {})
    assert desk.open_index("law").get("r1") == whole
    assert desk.open_index("law").state()[1] == before
