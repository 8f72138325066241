"""The API of principles on the real command with two workers: durable, visible everywhere, guarded."""

import hashlib
import time
from typing import Any

import httpx
import pytest

from tests.serve.conftest import Served, Start, chat
from tests.upstream import FakeUpstream

CONFIG = """
state_dir = "{state}"
[server]
workers = 2
[engine.main]
url = "{url}"
[index.law]
embedder = "none"
[policy.rules]
stages = ["opo"]
[policy.rules.opo]
index = ["law"]
budget_ms = 0
"""
SECRETS = {"editor": "sk-editor-1", "reader": "sk-reader-1", "owner": "sk-owner-1", "nobody": "sk-nobody-1"}


def config(keys: str = "") -> str:
    return CONFIG.replace("budget_ms = 0\n", "") + keys


def key(name: str, rights: str, tenant: str = "") -> str:
    digest = hashlib.sha256(SECRETS[name].encode()).hexdigest()
    owner = f'tenant = "{tenant}"\n' if tenant else ""
    return f'[[key]]\nid = "{name}"\nsha256 = "{digest}"\nrights = [{rights}]\n{owner}'


@pytest.fixture(scope="module")
def shelf(start: Start) -> Served:
    served = start(file=config())
    ready(served)
    return served


def ready(served: Served) -> None:
    served.until_ready()


def add(served: Served, ident: str, text: str, **fields: Any) -> httpx.Response:
    body = {"principles": [{"id": ident, "text": text, **fields}]}
    return httpx.post(served.url + "/v1/principles", json=body, timeout=20)


async def asked(served: Served, text: str, upstream: FakeUpstream, times: int) -> list[str]:
    """What reached the engine of `times` equal chats, over as many connections, so that every worker has its share."""
    before = len(upstream.requests)
    for _ in range(times):
        async with httpx.AsyncClient(timeout=20) as client:
            answer = await client.post(
                served.url + "/v1/chat/completions", json=chat(text), headers={"x-trimtab-policy": "rules"}
            )
            assert answer.status_code == 200
    return [r.body.decode() for r in upstream.requests[before:] if r.path == "/v1/chat/completions"]


async def test_a_rule_reaches_the_prompts_of_every_worker(shelf: Served, upstream: FakeUpstream) -> None:
    async def quoted() -> set[bool]:
        bodies = await asked(shelf, "May my dogs run free in city parks?", upstream, 12)
        return {"kept on a leash" in body for body in bodies}

    async def until(wanted: set[bool]) -> None:
        deadline = time.monotonic() + 60
        while (found := await quoted()) != wanted:
            assert time.monotonic() < deadline, found

    assert add(shelf, "parks", "Dogs must be kept on a leash in city parks.").status_code == 200
    await until({True})
    assert httpx.delete(shelf.url + "/v1/principles/parks").status_code == 200
    await until({False})


async def test_the_trace_names_each_principle_with_source_and_score(shelf: Served, upstream: FakeUpstream) -> None:
    add(shelf, "tea-1", "Tea is served at five.", title="House rules", source="house.example", url="https://x.test/1")
    answer = httpx.post(
        shelf.url + "/v1/chat/completions", json=chat("When is tea served?"), headers={"x-trimtab-policy": "rules"}
    )
    assert answer.headers["x-trimtab-applied"].startswith("opo=applied(")
    trace = httpx.get(f"{shelf.url}/v1/traces/{answer.headers['x-trimtab-trace']}").json()
    found = next(p for p in trace["principles"] if p["id"] == "tea-1")
    assert found["source"] == "house.example"
    assert found["url"] == "https://x.test/1"
    assert found["score"] > 0
    assert found["lexical"] > 0
    assert found["pinned"] is False


def test_principles_are_listed_a_page_at_a_time_and_read_by_id(shelf: Served) -> None:
    for i in range(3):
        add(shelf, f"page-{i}", f"Rule number {i} of the paging test.")
    first = httpx.get(shelf.url + "/v1/principles", params={"limit": 2, "after": "page-"}).json()
    assert [row["id"] for row in first["data"]] == ["page-0", "page-1"]
    rest = httpx.get(shelf.url + "/v1/principles", params={"after": first["data"][-1]["id"], "limit": 1}).json()
    assert rest["data"][0]["id"] == "page-2"
    assert httpx.get(shelf.url + "/v1/principles/page-1").json()["text"].startswith("Rule number 1")
    missing = httpx.get(shelf.url + "/v1/principles/none-such")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "principle_not_found"


def test_search_shows_scores_and_heeds_filters(shelf: Served) -> None:
    add(shelf, "region-a", "Lanterns are lit at dusk.", region="A")
    add(shelf, "region-b", "Lanterns are lit at dawn.", region="B")
    hits = httpx.post(shelf.url + "/v1/principles/search", json={"query": "lanterns lit", "region": "A"}).json()["data"]
    assert [hit["id"] for hit in hits] == ["region-a"]
    assert hits[0]["lexical"] > 0


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "principles"), ({"principles": []}, "non-empty"), ({"principles": [3]}, "principles[0]"),
        ({"principles": [{"id": "x"}]}, "text"), ({"principles": [{"id": "x", "text": " "}]}, "text is empty"),
        ({"principles": [{"id": "x", "text": "y", "colour": 1}]}, "colour"),
        ({"principles": [{"id": "x", "text": "y", "in_force_to": "soon"}]}, "in_force_to"),
        ({"principles": [{"id": "x", "text": "y"}] * 2}, "duplicate id"),
        ({"index": "nope", "principles": [{"id": "x", "text": "y"}]}, "valid are law"),
    ],
)  # fmt: skip
def test_a_bad_change_is_refused_and_changes_nothing(shelf: Served, body: Any, says: str) -> None:
    before = httpx.get(shelf.url + "/v1/principles").json()["revision"]
    answer = httpx.post(shelf.url + "/v1/principles", json=body)
    assert answer.status_code in (400, 404)
    assert says in answer.json()["error"]["message"]
    assert httpx.get(shelf.url + "/v1/principles").json()["revision"] == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"query": " "}, "query must be"), ({"query": "law " * 9000}, "more than 10000"), ({"k": 0}, "k must be"),
        ({"colour": 1}, "valid are"), ({"region": 5}, "region must be"), ({"language": ["en"]}, "language must be"),
        ({"tags": "abc"}, "tags must be"), ({"floor": "x"}, "floor must be"), ({"on": "2026-3-1"}, "on is not a date"),
        ({"mode": "guess"}, "hybrid, dense, lexical"),
    ],
)  # fmt: skip
def test_a_bad_search_is_refused_by_name(shelf: Served, change: Any, says: str) -> None:
    answer = httpx.post(shelf.url + "/v1/principles/search", json={"query": "lanterns", **change})
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_rights_guard_reading_and_writing(start: Start) -> None:
    keys = (
        key("reader", '"principles"') + key("editor", '"principles", "shared-principles"')
        + key("owner", '"principles"', tenant="them") + key("nobody", '"raw"')
        + '[index.theirs]\nembedder = "none"\ntenant = "them"\n'
    )  # fmt: skip
    served = start(file=config(keys).replace("[[key]]", "\n[[key]]"))
    body = {"index": "law", "principles": [{"id": "x", "text": "A rule."}]}

    def post(name: str, **change: Any) -> int:
        headers = {"authorization": f"Bearer {SECRETS[name]}"}
        return httpx.post(served.url + "/v1/principles", json={**body, **change}, headers=headers).status_code

    def read(name: str, index: str) -> int:
        headers = {"authorization": f"Bearer {SECRETS[name]}"}
        return httpx.get(served.url + "/v1/principles", params={"index": index}, headers=headers).status_code

    assert httpx.get(served.url + "/v1/principles").status_code == 401
    assert read("nobody", "law") == 403
    assert read("reader", "law") == 200
    assert post("reader") == 403
    assert post("editor") == 200
    assert read("reader", "theirs") == 404
    assert read("owner", "theirs") == 200
    assert post("owner", index="theirs") == 200
    assert post("editor", index="theirs") == 404


async def test_a_keys_region_holds_where_the_request_names_none(start: Start, upstream: FakeUpstream) -> None:
    keys = key("editor", '"principles", "shared-principles", "region"') + 'region = "A"\n'
    served = start(file=config(keys).replace("[[key]]", "\n[[key]]"))
    headers = {"authorization": f"Bearer {SECRETS['editor']}", "x-trimtab-policy": "rules"}
    rules = [{"id": r, "text": f"Lanterns of {r} are lit at dusk.", "region": r} for r in ("A", "B")]
    assert httpx.post(served.url + "/v1/principles", json={"principles": rules}, headers=headers).status_code == 200
    for asked, there, not_there in (
        ({}, "of A are", "of B are"),
        ({"trimtab": {"region": "B"}}, "of B are", "of A are"),
    ):
        body = chat("When are lanterns lit?") | asked
        assert httpx.post(served.url + "/v1/chat/completions", json=body, headers=headers).status_code == 200
        sent = next(r.body for r in reversed(upstream.requests) if r.method == "POST").decode()
        assert there in sent
        assert not_there not in sent


async def test_an_opened_index_is_part_of_being_ready(shelf: Served) -> None:
    body = httpx.get(shelf.url + "/readyz").json()
    assert body["indexes"] == {"law": {"state": "ready", "reason": ""}}
