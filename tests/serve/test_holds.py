"""A policy holds on every path, by whichever channel it is chosen, or the request is refused and nothing is sent."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.api.routes import DIALECTS, RELAYED
from tests.serve.conftest import in_process
from tests.upstream import FakeUpstream

CONFIG = """
{server}
[engine.main]
url = "{url}"
[policy.safe]
stages = ["urial"]
render = "chat"
[policy.loose]
stages = ["urial"]
render = "chat"
elsewhere = "raw"
optional = ["urial"]
[alias]
"gpt-safe" = {{ policy = "safe", model = "echo" }}
"gpt-loose" = {{ policy = "loose", model = "echo" }}
"""
KEYS = {"bound": 'policy = "{policy}"', "free": 'rights = ["raw"]', "skipper": 'rights = ["raw", "skip"]'}
FORMS = ("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits", "/v1/images/variations")
SILENT = ("/v1/embeddings", "/v1/moderations", "/v1/rerank", "/v1/score")  # nothing is generated there
ALIGNED = tuple(dialect.path for dialect in DIALECTS if "chat" in dialect.renders)
PATHS = sorted({*RELAYED, *(dialect.path for dialect in DIALECTS)})
CHANNELS = ["server", "alias", "key", "header", "field"]


def keys(policy: str) -> str:
    rows = []
    for name, more in KEYS.items():
        sha = hashlib.sha256(name.encode()).hexdigest()
        rows.append(f'[[key]]\nid = "{name}"\nsha256 = "{sha}"\n{more.format(policy=policy)}')
    return "\n".join(rows)


def body(path: str, model: str) -> dict[str, Any]:
    if path in ("/v1/chat/completions", "/v1/messages"):
        return {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    if path in ALIGNED:
        return {"model": model, "input": "hi"}
    return {"model": model, "input": "hi", "prompt": "hi", "query": "hi", "documents": ["hi"]}


class Asker:
    """Asks on any path, as JSON or as a form, by one of the channels."""

    def __init__(self, http: httpx.AsyncClient, upstream: FakeUpstream) -> None:
        self.http, self._upstream, self._before = http, upstream, len(upstream.requests)

    def reaches(self, path: str, channel: str) -> bool:
        """Whether this channel exists on the path; forgets what was sent before."""
        self._before = len(self._upstream.requests)
        return not (channel == "field" and path in FORMS)

    async def ask(self, path: str, channel: str, policy: str, **options: Any) -> httpx.Response:
        model = f"gpt-{policy}" if channel == "alias" else "echo"
        headers = {"x-trimtab-policy": policy} if channel == "header" else {}
        if path in FORMS:
            files = {"file": ("a.wav", b"RIFF\r\n--x", "audio/wav")}
            return await self.http.post(path, data={"model": model, "prompt": "hi"}, files=files, headers=headers)
        own = options | ({"policy": policy} if channel == "field" else {})
        return await self.http.post(path, json=body(path, model) | ({"trimtab": own} if own else {}), headers=headers)

    @property
    def sent(self) -> list[Any]:
        """What reached the engine, without the empty questions whether it has a path."""
        return [r for r in self._upstream.requests[self._before :] if r.method == "POST" and r.body != b"{}"]


@pytest.fixture
async def asker(request: Any, upstream: FakeUpstream, tmp_path: Path) -> AsyncIterator[Asker]:
    """`param` is (channel, policy): the server's default and the key's are in the configuration."""
    channel, policy = request.param
    file = CONFIG.format(url=upstream.url, server=f'[server]\npolicy = "{policy}"' if channel == "server" else "")
    key = channel in KEYS or channel == "key"
    headers = {"authorization": f"Bearer {'bound' if channel == 'key' else channel}"} if key else {}
    async with (
        in_process(file + (keys(policy) if key else ""), tmp_path) as url,
        httpx.AsyncClient(verify=False, base_url=url, timeout=10, headers=headers) as http,
    ):
        yield Asker(http, upstream)


def by(policy: str, channels: list[str] = CHANNELS) -> Any:
    return pytest.mark.parametrize(
        ("asker", "channel"), [((c, policy), c) for c in channels], indirect=["asker"], ids=channels
    )


@by("safe")
async def test_a_policy_holds_or_the_request_is_refused(asker: Asker, channel: str) -> None:
    for path in PATHS:
        if not asker.reaches(path, channel):
            continue
        answer = await asker.ask(path, channel, "safe")
        if path in ALIGNED:
            assert answer.status_code == 200
            assert answer.headers["x-trimtab-applied"] == "urial=applied(3)"
            assert len(asker.sent[-1].json["messages"]) > 1
        elif path in SILENT and channel != "key":
            assert answer.headers["x-trimtab-applied"] == "urial=skipped(not a chat)"
            assert len(asker.sent) == 1
        else:
            assert not asker.sent
            error = answer.json()["error"]
            if path in SILENT:
                assert (answer.status_code, error["code"]) == (403, "missing_right")
            else:
                assert (answer.status_code, error["code"]) == (400, "policy_not_applicable")
                assert "'safe'" in error["message"]
                assert all(aligned in error["message"] for aligned in ALIGNED)
        assert answer.headers["x-trimtab-policy"] == "safe"
        assert "x-trimtab-trace" in answer.headers


@by("loose")
async def test_a_policy_that_says_so_lets_other_paths_go_raw(asker: Asker, channel: str) -> None:
    for path in PATHS:
        if not asker.reaches(path, channel):
            continue
        answer = await asker.ask(path, channel, "loose")
        if path in SILENT and channel == "key":
            assert answer.status_code == 403
            continue
        assert len(asker.sent) == 1
        assert answer.headers["x-trimtab-policy"] == "loose"
        why = "applied(3)" if path in ALIGNED else "skipped(not a chat)" if path in SILENT else "skipped(elsewhere)"
        assert answer.headers["x-trimtab-applied"] == f"urial={why}"
        if channel == "alias":
            arrived = asker.sent[-1].body
            assert b"gpt-loose" not in arrived
            assert b"echo" in arrived


@by("safe", ["free", "skipper", "field"])
async def test_a_stage_is_skipped_only_by_right(asker: Asker, channel: str) -> None:
    for path in PATHS:
        if not asker.reaches(path, "field"):
            continue
        answer = await asker.ask(path, "field", "safe", skip=["urial"])
        if channel == "skipper" and (path in ALIGNED or path in SILENT):
            assert answer.headers["x-trimtab-applied"].startswith("urial=skipped(")
            continue
        assert not asker.sent
        if channel != "skipper":
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "option_not_allowed")
            assert "optional" in answer.json()["error"]["message"]


@by("loose", ["field"])
async def test_a_policy_may_let_anyone_skip(asker: Asker, channel: str) -> None:
    answer = await asker.ask("/v1/chat/completions", channel, "loose", skip=["urial"])
    assert answer.headers["x-trimtab-applied"] == "urial=skipped(request)"


@by("safe", ["header"])
async def test_a_form_names_one_model_by_its_own_name(asker: Asker, channel: str) -> None:
    for rows in ([("model", "a"), ("model", "b")], [("Model", "gpt-safe")], [("trimtab", "{}")]):
        form = [(name, (None, value)) for name, value in rows]
        answer = await asker.http.post(FORMS[0], files=form)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, rows[0][0].lower())
    answer = await asker.http.post(FORMS[0], content=b"a=b", headers={"content-type": "text/x"})
    assert answer.status_code == 415
    answer = await asker.http.post(
        FORMS[0], content=b"--x", headers={"content-type": "multipart/form-data; boundary=y"}
    )
    assert answer.status_code == 400
    assert not asker.sent
