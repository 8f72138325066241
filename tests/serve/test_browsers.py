"""Web pages of other origins: none by default, those that the configuration lists."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from serve.config import ConfigError, Flags
from serve.configure.reader import load
from tests.serve.conftest import Served, Start, chat

APP = "https://app.example.com"
PATHS = ["/v1/chat/completions", "/v1/models", "/readyz", "/nowhere"]
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


@pytest.fixture(scope="module")
def open_to_app(start: Start) -> Served:
    return start(server=f'cors_origins = ["{APP}"]')


def granted(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize("path", PATHS)
async def test_a_listed_origin_may_ask_and_read(open_to_app: Served, path: str) -> None:
    async with httpx.AsyncClient(base_url=open_to_app.url, timeout=60) as http:
        before = await http.options(path, headers={"origin": APP, **PREFLIGHT})
        assert before.status_code == 204
        assert before.headers["access-control-allow-origin"] == APP
        assert before.headers["access-control-allow-headers"] == "authorization,content-type"
        assert "POST" in before.headers["access-control-allow-methods"]
        for method in ("GET", "POST"):
            body = {"json": chat()} if method == "POST" else {}
            answer = await http.request(method, path, headers={"origin": APP, "sec-fetch-site": "cross-site"}, **body)
            assert answer.headers["access-control-allow-origin"] == APP
            assert "x-trimtab-trace" in answer.headers["access-control-expose-headers"]
            assert answer.headers["vary"] == "origin"
            assert answer.status_code != 403


async def test_a_stream_may_be_read_too(open_to_app: Served) -> None:
    async with httpx.AsyncClient(base_url=open_to_app.url, timeout=60) as http:
        answer = await http.post("/v1/chat/completions", json=chat(stream=True), headers={"origin": APP})
    assert answer.headers["access-control-allow-origin"] == APP


@pytest.mark.parametrize("origin", ["https://evil.example", "https://app.example.com.evil", "null", ""])
@pytest.mark.parametrize("path", PATHS)
async def test_no_other_origin_may(open_to_app: Served, served: Served, path: str, origin: str) -> None:
    for server in (open_to_app, served):
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            for method in ("OPTIONS", "GET"):
                answer = await http.request(method, path, headers={"origin": origin, **PREFLIGHT})
                assert granted(answer) == {}
                assert (method, answer.status_code) != ("OPTIONS", 204)


async def test_by_default_nobody_may_and_no_header_says_so(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.url, timeout=60) as http:
        answer = await http.get("/v1/models", headers={"origin": APP})
    assert granted(answer) == {}
    assert "vary" not in answer.headers


@pytest.mark.parametrize("origins", ['["app.example.com"]', '["https://app.example.com/"]', '["*"]'])
def test_what_is_no_origin_dies_at_boot(tmp_path: Any, origins: str) -> None:
    (path := tmp_path / "t.toml").write_text(f'[server]\ncors_origins = {origins}\n[engine.main]\nurl = "http://x"\n')
    with pytest.raises(ConfigError, match="cors_origins"):
        load(Flags(config=str(path)), {})
