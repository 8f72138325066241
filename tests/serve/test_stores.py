"""The seam of stores: a package's module and one row, and the server keeps traces and feedback in it."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from serve.config import Config, ConfigError, Flags
from serve.configure.reader import load
from serve.store import place
from serve.store.feedback import Verdicts
from serve.store.place import Store, open_traces, open_verdicts
from serve.store.sqlite_feedback import SqliteVerdicts
from serve.store.sqlite_traces import SqliteTraces
from serve.store.traces import Summary, Traces


class InMemory:
    """Both stores, in a dictionary."""

    where = "memory"

    def __init__(self) -> None:
        self.dropped = 0
        self.rows: dict[tuple[str, str], Mapping[str, Any]] = {}

    def put(self, *row: Any) -> None:
        """A trace (id, tenant, body) or a verdict (tenant, key, subject, body)."""
        body = row[-1]
        self.rows[(row[1], row[0]) if len(row) == 3 else (row[0], body["id"])] = body

    async def find(self, ident: str, tenant: str) -> dict[str, Any] | None:
        return dict(found) if (found := self.rows.get((tenant, ident))) else None

    async def recent(self, tenant: str, **_: Any) -> tuple[list[Summary], str]:
        return [Summary(ident) for owner, ident in self.rows if owner == tenant], ""

    def page(self, tenant: str, kind: str = "", after: str = "", limit: int = 100) -> list[dict[str, Any]]:
        return [dict(row) for (owner, _), row in self.rows.items() if owner == tenant]

    def withdraw(self, tenant: str, ident: str) -> bool:
        return self.rows.pop((tenant, ident), None) is not None

    def all(self, tenant: str | None, kind: str, since: float) -> Iterator[dict[str, Any]]:
        return iter([dict(row) for (owner, _), row in self.rows.items() if tenant in (None, owner)])

    def damage(self) -> list[str]:
        return []

    def close(self) -> None:
        self.rows.clear()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    module: Any = types.ModuleType("toy_store")
    module.make = lambda config: InMemory()
    monkeypatch.setitem(sys.modules, "toy_store", module)
    toy = Store("toy_store:make", "toy_store:make", "serve.store.sqlite_changes:open_in")
    monkeypatch.setitem(place.STORES, "memory", toy)  # type: ignore[misc]
    path = tmp_path / "trimtab.toml"
    path.write_text('store = "memory"\n[engine.main]\nurl = "http://x"\n')
    return path


async def test_a_store_of_another_kind_is_one_row(file: Path) -> None:
    config = load(Flags(config=str(file)), {})
    traces, verdicts = open_traces(config), open_verdicts(config)
    traces.put("t1", "acme", {"id": "t1"})
    assert await traces.find("t1", "acme") == {"id": "t1"}
    assert await traces.find("t1", "bolt") is None
    verdicts.put("acme", "k", ["t1"], {"id": "v1", "kind": "rating"})
    assert verdicts.withdraw("acme", "v1")


def test_an_unknown_store_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('\nstore = "postgres"\n')
    with pytest.raises(ConfigError, match=r"t.toml:2: store: no store 'postgres'; valid are sqlite"):
        load(Flags(config=str(tmp_path / "t.toml")), {})


def test_sqlite_is_what_the_protocols_ask_for(tmp_path: Path) -> None:
    config: Config = load(Flags(upstream="http://x", state_dir=str(tmp_path)), {})
    traces: Traces = open_traces(config)
    verdicts: Verdicts = open_verdicts(config)
    subject: Sequence[str] = ["t1"]
    verdicts.put("acme", "k", subject, {"id": "v1", "kind": "rating"})
    traces.close()
    assert isinstance(traces, SqliteTraces)
    assert isinstance(verdicts, SqliteVerdicts)
    assert verdicts.where == str(tmp_path / "feedback.sqlite3")
    assert [row["id"] for row in verdicts.all(None, "rating", 0)] == ["v1"]
