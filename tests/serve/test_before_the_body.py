"""Whoever has no key gets no work done: the answer comes before a byte of the body, on every path."""

from __future__ import annotations

import hashlib
import json
import re
import socket

import httpx
import pytest

from serve.api.routes import DIALECTS, RELAYED
from tests.serve.conftest import Served, Start
from tests.upstream import FakeUpstream

OWN = ("/v1/principles", "/v1/principles/search", "/v1/feedback", "/v1/explain")
PATHS = sorted({*OWN, *RELAYED, *(dialect.path for dialect in DIALECTS)})
ROWS = (("all", '"principles", "metrics"', "acme"), ("few", '"traces"', "bolt"), ("raw", '"raw"', "bolt"))
FILE = (
    'state_dir = "{state}"\n[engine.main]\nurl = "{url}"\n[index.law]\nembedder = "none"\n'
    '[index.secret]\nembedder = "none"\ntenant = "acme"\n'
) + "".join(
    f'[[key]]\nid = "{name}"\nsha256 = "{hashlib.sha256(f"sk-{name}".encode()).hexdigest()}"\n'
    f'tenant = "{tenant}"\nrights = [{rights}]\n'
    for name, rights, tenant in ROWS
)


@pytest.fixture(scope="module")
def locked(start: Start) -> Served:
    pytest.importorskip("faiss", reason="needs trimtab[retrieval]")
    return start(file=FILE)


def head_only(served: Served, path: str, *headers: str) -> tuple[int, str]:
    """Status and error code of the answer to a head whose body of megabytes never comes."""
    host, port = served.url.removeprefix("http://").split(":")
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", "content-type: application/json", "content-length: 20000000"]
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        sock.sendall("\r\n".join([*lines, *headers, "", ""]).encode())
        answer = ""
        while not _complete(answer) and (part := sock.recv(65536).decode()):
            answer += part
    status, body = int(answer.split()[1]), answer.partition("\r\n\r\n")[2]
    error = json.loads(body)["error"]
    return status, error.get("code") or error.get("type")


def _complete(answer: str) -> bool:
    """Whether the body has come that the head announces."""
    head, _, body = answer.partition("\r\n\r\n")
    length = [line.partition(":")[2] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
    return bool(length) and len(body.encode()) >= int(length[0])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["", "authorization: Bearer sk-wrong", "authorization: Basic c2s6"])
def test_without_a_key_the_answer_comes_before_the_body(locked: Served, path: str, key: str) -> None:
    status, _ = head_only(locked, path, key or "x-none: 1")
    assert status == 401


@pytest.mark.parametrize("path", OWN)
def test_without_the_right_the_answer_comes_before_the_body(locked: Served, path: str) -> None:
    assert head_only(locked, path, "authorization: Bearer sk-few") == (403, "missing_right")


def test_readyz_names_a_tenants_index_to_that_tenant_only(locked: Served) -> None:
    def asked(key: str = "") -> dict[str, object]:
        headers = {"authorization": f"Bearer sk-{key}"} if key else {}
        body: dict[str, object] = httpx.get(locked.url + "/readyz", headers=headers).json()
        return body

    for key, named in (("", []), ("wrong", []), ("few", ["law"]), ("all", ["law", "secret"])):
        assert list(asked(key)["indexes"]) == named  # type: ignore[call-overload]
        assert "state" not in json.dumps(asked(key)).replace('"state":', ""), "no path"


def test_the_api_page_needs_nothing_from_another_host(served: Served, upstream: FakeUpstream) -> None:
    answer = httpx.get(served.url + "/docs")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    text = answer.text
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", text)
    assert "<script" not in text
    for path in ("/v1/chat/completions", "/v1/principles", "/readyz", "/v1/explain"):
        assert path in text
    for href in re.findall(r"href=\"([^\"]+)\"", text):
        assert httpx.get(f"{served.url}/{href.removeprefix('./')}").status_code == 200, href
