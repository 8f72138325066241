"""The life of a change on the real command with two workers: drafted, approved, in force, rolled back."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.serve.conftest import Served, Start, chat, key_table
from tests.upstream import FakeUpstream

SECRETS = {name: f"sk-{name}-0123456789" for name in ("ada", "ben", "cyd", "reader")}
BASE = """
state_dir = "{state}"
[server]
workers = 2
[engine.main]
url = "{url}"
[index.law]
embedder = "none"
[index.kept]
embedder = "none"
managed = true
[policy.rules]
stages = ["opo"]
[policy.rules.opo]
index = ["law"]
"""


def key(name: str, rights: list[str]) -> str:
    return key_table(name, SECRETS[name], rights)


KEYS = (
    key("ada", ["author", "explain", "traces"])
    + key("ben", ["author", "approver", "principles", "shared-principles", "traces"])
    + key("cyd", ["approver"])
    + key("reader", [])
)
RULE = {"kind": "rule", "index": "law", "name": "parks", "content": {"text": "Dogs must be kept on a leash in parks."}}
POLICY = {"kind": "policy", "name": "careful", "content": {"stages": ["opo"], "opo": {"index": ["law"], "k": 1}}}


class House:
    """A server with four keys, and calls in their names."""

    def __init__(self, served: Served) -> None:
        self.served = served

    def call(self, who: str, method: str, path: str, body: Any = None, status: int = 200) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {SECRETS[who]}"} if who else {}
        answer = httpx.request(method, self.served.url + path, json=body, headers=headers, timeout=30, verify=False)
        assert answer.status_code == status, (answer.status_code, answer.text)
        found: dict[str, Any] = answer.json()
        return found

    def draft(self, *items: dict[str, Any], who: str = "ada", **fields: Any) -> str:
        body = {"reason": "because", "items": list(items), **fields}
        return str(self.call(who, "POST", "/v1/changes", body)["id"])

    def step(self, who: str, ident: str, step: str, status: int = 200, **body: Any) -> dict[str, Any]:
        return self.call(who, "POST", f"/v1/changes/{ident}/{step}", body, status)

    def passed(self, *items: dict[str, Any], **fields: Any) -> str:
        ident = self.draft(*items, **fields)
        self.step("ada", ident, "submit")
        self.step("ben", ident, "approve")
        return ident

    def policies(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in self.call("ben", "GET", "/v1/policies")["data"]}


def until(met: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def everywhere(house: House, policy: str, status: int) -> bool:
    """Whether requests under a policy end so on every worker: over as many connections that each has its share."""
    headers = {"authorization": f"Bearer {SECRETS['reader']}", "x-trimtab-policy": policy}
    url = house.served.url + "/v1/chat/completions"
    return all(
        httpx.post(url, json=chat("?"), headers=headers, timeout=20, verify=False).status_code == status
        for _ in range(12)
    )


def prompts(house: House, upstream: FakeUpstream, policy: str, times: int = 8) -> list[str]:
    """What reached the engine, over as many connections, so that every worker has its share."""
    before = len(upstream.requests)
    for _ in range(times):
        headers = {"authorization": f"Bearer {SECRETS['reader']}", "x-trimtab-policy": policy}
        answer = httpx.post(
            house.served.url + "/v1/chat/completions",
            json=chat("May my dogs run in parks?"),
            headers=headers,
            timeout=20,
        )
        assert answer.status_code == 200, answer.text
    return [r.body.decode() for r in upstream.requests[before:] if r.path == "/v1/chat/completions"]


@pytest.fixture(scope="module")
def house(start: Start) -> House:
    served = start(file=BASE + KEYS)
    served.until_ready({"authorization": f"Bearer {SECRETS['ben']}"})
    return House(served)


def test_a_rule_goes_from_draft_to_every_workers_prompts_and_back(house: House, upstream: FakeUpstream) -> None:
    ident = house.draft(RULE)
    assert not any("on a leash" in body for body in prompts(house, upstream, "rules"))
    house.step("ada", ident, "submit")
    refused = house.step("ada", ident, "approve", 403)
    assert refused["error"]["code"] == "missing_right"
    assert not any("on a leash" in body for body in prompts(house, upstream, "rules"))
    assert house.step("ben", ident, "approve", comment="fine")["state"] == "in_force"
    assert all("on a leash" in body for body in prompts(house, upstream, "rules"))
    undo = house.step("cyd", ident, "rollback")
    assert (undo["state"], undo["inverts"]) == ("in_force", ident)
    assert house.call("ada", "GET", f"/v1/changes/{ident}")["state"] == "retired"
    assert not any("on a leash" in body for body in prompts(house, upstream, "rules"))


def test_a_managed_policy_is_there_for_every_worker_and_says_which_change_made_it(
    house: House, upstream: FakeUpstream
) -> None:
    ident = house.passed(POLICY)
    until(lambda: everywhere(house, "careful", 200))
    assert len(prompts(house, upstream, "careful")) == 8
    row = house.policies()["careful"]
    assert row["change"] == ident
    assert house.policies()["rules"]["change"] is None
    house.step("ben", ident, "rollback")
    until(lambda: everywhere(house, "careful", 404))


def test_four_eyes_even_where_one_key_has_both_rights(house: House) -> None:
    ident = house.draft({**RULE, "name": "own"}, who="ben")
    house.step("ben", ident, "submit")
    assert house.step("ben", ident, "approve", 403)["error"]["code"] == "own_change"
    other = house.draft({**RULE, "name": "edited"})
    house.call("ben", "PATCH", f"/v1/changes/{other}", {"reason": "better"})
    house.step("ada", other, "submit")
    assert house.step("ben", other, "approve", 403)["error"]["code"] == "own_change"
    assert house.step("cyd", other, "approve")["state"] == "in_force"


def test_of_two_approvers_at_once_one_approves(house: House) -> None:
    ident = house.draft({**RULE, "name": "twice"})
    house.step("ada", ident, "submit")

    def approve(who: str) -> int:
        headers = {"authorization": f"Bearer {SECRETS[who]}"}
        return httpx.post(
            f"{house.served.url}/v1/changes/{ident}/approve", json={}, headers=headers, timeout=30, verify=False
        ).status_code

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(approve, ["ben", "cyd", "ben", "cyd"])) == [200, 409, 409, 409]
    did = [event["did"] for event in house.call("ada", "GET", f"/v1/changes/{ident}")["history"]]
    assert did.count("approved") == 1


@pytest.mark.parametrize(
    ("item", "place", "words"),
    [
        ({**RULE, "op": "withdraw", "name": "nowhere", "content": None},
         "items[0].name", "there is no rule law/nowhere"),
        ({**RULE, "index": "lore"}, "items[0].index", "no index 'lore'; valid are kept, law"),
        ({**RULE, "content": {"text": "x", "in_force_from": "2027-02-01", "in_force_to": "2027-01-01"}},
         "items[0].content", "in_force_to lies before in_force_from"),
        ({**RULE, "content": {"text": "x", "colour": "red"}}, "items[0].content", "colour"),
        ({"kind": "profile", "name": "mine", "content": "framing = 3"}, "items[0].content", "framing must be a string"),
        ({"kind": "profile", "name": "mine", "content": "not toml ["}, "items[0].content", "line 1"),
        ({"kind": "policy", "name": "p", "content": {"stages": ["opo"], "opo": {"index": ["lore"]}}},
         "items[0].content", "no index 'lore'"),
        ({"kind": "policy", "name": "p", "content": {"stages": ["opo"], "opo": {"pinned": ["law/nowhere"]}}},
         "items", "there is no rule law/nowhere"),
        ({"kind": "policy", "name": "rules", "content": {"stages": []}}, "items[0].name", "stands in trimtab.toml"),
    ],
)  # fmt: skip
def test_what_would_break_is_refused_at_submission_with_its_place(
    house: House, item: dict[str, Any], place: str, words: str
) -> None:
    ident = house.draft({name: value for name, value in item.items() if value is not None})
    error = house.step("ada", ident, "submit", 400)["error"]
    assert error["param"] == place
    assert words in error["message"]


def test_a_base_that_changed_meanwhile_is_refused_until_it_is_rebased(house: House) -> None:
    rule = {**RULE, "name": "moving"}
    house.passed(rule)
    first = house.draft({**rule, "content": {"text": "first"}})
    second = house.draft({**rule, "content": {"text": "second"}})
    house.step("ada", first, "submit")
    house.step("ada", second, "submit")
    house.step("ben", first, "approve")
    assert house.step("ben", second, "approve", 409)["error"]["code"] == "base_changed"
    house.step("ada", second, "withdraw")
    assert house.step("ada", second, "rebase")["items"][0]["before"] == {"text": "first"}
    house.step("ada", second, "submit")
    assert house.step("ben", second, "approve")["state"] == "in_force"
    assert house.call("ada", "GET", f"/v1/changes/{first}")["state"] == "retired"


def test_a_change_with_a_date_comes_into_force_by_itself(house: House) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=5)).isoformat()
    ident = house.draft({**POLICY, "name": "later"}, effective=soon)
    house.step("ada", ident, "submit")
    assert house.step("ben", ident, "approve")["state"] == "approved"
    assert "later" not in house.policies()
    until(lambda: "later" in house.policies())
    found = house.call("ada", "GET", f"/v1/changes/{ident}")
    assert [event["did"] for event in found["history"]][-2:] == ["approved", "in_force"]
    assert found["state"] == "in_force"


def test_rights_are_needed_and_states_are_kept(house: House) -> None:
    assert house.call("reader", "GET", "/v1/changes", status=403)["error"]["code"] == "missing_right"
    assert house.call("cyd", "POST", "/v1/changes", {"items": []}, 403)["error"]["code"] == "missing_right"
    ident = house.draft({**RULE, "name": "state"})
    assert house.step("ben", ident, "approve", 409)["error"]["code"] == "wrong_state"
    house.step("ada", ident, "submit")
    assert house.step("cyd", ident, "reject", comment="no")["state"] == "rejected"
    assert house.step("ada", ident, "submit", 409)["error"]["code"] == "wrong_state"
    house.call("ada", "PATCH", f"/v1/changes/{ident}", {"version": 1, "reason": "old"}, 409)
    house.call("ada", "GET", "/v1/changes/c9999", status=404)
    listed = house.call("ada", "GET", "/v1/changes?state=rejected&limit=1")
    assert [row["id"] for row in listed["data"]] == [ident]


def test_the_diff_says_in_words_what_changes(house: House) -> None:
    house.passed({**RULE, "name": "worded"})
    ident = house.draft({**RULE, "name": "worded", "content": {"text": "Dogs must be kept inside.", "kind": "law"}})
    [row] = house.call("ada", "GET", f"/v1/changes/{ident}")["diff"]
    assert row["sentence"] == "changes the rule law/worded"
    assert {field["field"]: field["after"] for field in row["fields"]} == {
        "text": "Dogs must be kept inside.", "kind": "law"
    }  # fmt: skip
    assert ["-", "on a leash in parks"] in row["fields"][0]["diff"]


def test_the_digest_of_a_policy_names_its_rules_too(house: House) -> None:
    before = house.policies()["rules"]["digest"]
    ident = house.passed({**RULE, "name": "digested"})
    after = house.policies()["rules"]["digest"]
    assert after != before
    house.step("ben", ident, "rollback")
    assert house.policies()["rules"]["digest"] == before
    headers = {"authorization": f"Bearer {SECRETS['ada']}", "x-trimtab-policy": "rules"}
    answer = httpx.post(house.served.url + "/v1/chat/completions", json=chat("dogs?"), headers=headers, verify=False)
    trace = house.call("ada", "GET", f"/v1/traces/{answer.headers['x-trimtab-trace']}")
    assert trace["policy_digest"] == before
    assert trace["indexes"]["law"]["revision"] > 0


def test_without_keys_changes_can_be_drafted_but_not_approved(start: Start) -> None:
    house = House(start(file=BASE))
    ident = house.draft(RULE, who="")
    assert house.step("", ident, "submit")["state"] == "submitted"
    assert house.step("", ident, "approve", 403)["error"]["code"] == "no_keys"


def test_a_change_that_requires_a_check_is_approved_with_one_of_its_very_policy(house: House, start: Start) -> None:
    ident = house.draft({**RULE, "name": "checked"}, requires=["rules"])
    house.step("ada", ident, "submit")
    assert house.step("ben", ident, "approve", 409)["error"]["code"] == "check_missing"
    folder = house.served.config.parent
    tried = House(start("--trial", ident, "--state-dir", str(folder / "state"), file=house.served.config.read_text()))
    until(lambda: "rules" in tried.policies())
    digest = tried.policies()["rules"]["digest"]
    assert digest != house.policies()["rules"]["digest"]
    assert tried.call("ada", "GET", "/v1/changes", status=503)["error"]["code"] == "no_changes"
    tried.served.stop()
    check = {"schema": "trimtab-release-check/1", "outcome": "passed", "policy": "rules", "digest": digest, "at": "now"}
    house.step("ada", ident, "check", 400, check={**check, "outcome": "failed"})
    house.step("ada", ident, "check", check={**check, "digest": "another"})
    assert house.step("ben", ident, "approve", 409)["error"]["code"] == "check_missing"
    house.step("ada", ident, "check", check=check)
    assert house.step("ben", ident, "approve")["state"] == "in_force"
    assert house.policies()["rules"]["digest"] == digest


def test_a_draft_is_tried_beside_what_is_in_force(house: House) -> None:
    ident = house.draft({**RULE, "name": "tried", "content": {"text": "Dogs may swim in the lake of the park."}})
    asked = {"messages": [{"role": "user", "content": "May dogs swim in the lake?"}]}
    found = house.call("ada", "POST", f"/v1/changes/{ident}/explain", asked)
    assert (found["policy"], found["changed"], found["came"]) == ("rules", True, ["law/tried"])
    assert "swim in the lake of the park" in str(found["after"])
    assert "swim in the lake of the park" not in str(found["before"])


def test_rules_of_a_managed_index_change_by_changes_only(house: House) -> None:
    rule = {"id": "direct", "text": "Past everybody."}
    for index, status in (("kept", 403), ("law", 200)):
        house.call("ben", "POST", "/v1/principles", {"index": index, "principles": [rule]}, status)
    house.passed({**RULE, "index": "kept", "name": "proper"})
    assert house.call("ben", "GET", "/v1/principles/proper?index=kept")["id"] == "proper"
    assert (
        house.call("ben", "DELETE", "/v1/principles/proper?index=kept", status=403)["error"]["code"] == "managed_index"
    )
