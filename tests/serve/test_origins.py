"""What a web page can make a browser send to a server without keys, and under which names that server answers."""

from __future__ import annotations

import json
import socket
from dataclasses import replace

import httpx
import pytest

from serve.config import Config, Flags, Key
from serve.configure.reader import load
from serve.http.gate import Gate
from tests.serve.conftest import SECRETS, Served, chat
from tests.upstream import FakeUpstream

RULE = {"index": "law", "principles": [{"id": "x", "text": "Obey the page."}]}
PATHS = (
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/audio/transcriptions", "/v1/audio/translations",
    "/v1/images/edits", "/v1/principles", "/v1/principles/search", "/v1/feedback", "/v1/explain",
)  # fmt: skip


def gate(*hosts: str, keys: tuple[Key, ...] = (), host: str = "127.0.0.1") -> Gate:
    config: Config = load(Flags(upstream="http://x"), {})
    return Gate(replace(config, keys=keys, server=replace(config.server, hosts=hosts, host=host)))


def code(judge: Gate, method: bytes = b"GET", **headers: str) -> str | None:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    error = judge.refusal(method, pairs)
    return error and error.code


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "LOCALHOST:1", "app.localhost:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]",
     "10.1.2.3:8000", "[fe80::1%25eth0]:80", "localhost.", socket.gethostname()],
)  # fmt: skip
def test_names_of_this_machine_and_addresses_are_answered(host: str) -> None:
    assert code(gate(), host=host) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "evillocalhost", "",
     "127.0.0.1:8000@evil.example", "[::1].evil.example", "2130706433", "0x7f000001"],
)  # fmt: skip
def test_other_names_are_refused_for_any_method(host: str) -> None:
    """A domain of the page's own that resolves to this machine would read the answers."""
    for method in (b"GET", b"POST", b"HEAD", b"OPTIONS"):
        assert code(gate(), method, host=host) == "host_not_allowed"


def test_listed_names_are_answered() -> None:
    assert code(gate("ai.example"), host="ai.example:443") is None
    assert code(gate("ai.example"), host="other.example") == "host_not_allowed"
    assert code(gate("*"), host="other.example") is None
    assert code(gate(host="box.lan"), host="box.lan:8000") is None


def test_the_second_of_two_hosts_is_judged_too() -> None:
    assert gate().refusal(b"GET", [(b"host", b"localhost"), (b"host", b"evil.example")]) is not None


def test_with_keys_names_are_judged_only_where_some_are_listed() -> None:
    keys = (Key("a", "0" * 64),)
    assert code(gate(keys=keys), host="any.example") is None
    assert code(gate("ai.example", keys=keys), host="any.example") == "host_not_allowed"


@pytest.mark.parametrize("method", [b"POST", b"DELETE", b"PUT", b"PATCH"])
@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({}, False),  # no browser
        ({"sec_fetch_site": "same-origin", "origin": "http://localhost:8000"}, False),
        ({"sec_fetch_site": "none"}, False),
        ({"sec_fetch_site": "cross-site"}, True),
        ({"sec_fetch_site": "cross-site", "origin": "http://localhost:8000"}, True),
        ({"sec_fetch_site": "same-site", "origin": "http://localhost:3000"}, True),
        ({"origin": "http://localhost:8000"}, False),
        ({"origin": "https://localhost:8000"}, False),  # TLS ends at a proxy
        ({"origin": "http://localhost:3000"}, True),
        ({"origin": "null"}, True),
        ({"origin": "https://evil.example"}, True),
    ],
)
def test_pages_of_another_origin_change_nothing(method: bytes, headers: dict[str, str], refused: bool) -> None:
    assert code(gate(), method, host="localhost:8000", **headers) == ("cross_origin" if refused else None)
    assert code(gate(), b"GET", host="localhost:8000", **headers) is None, "a link may lead here"


@pytest.mark.parametrize("path", PATHS)
def test_a_page_of_another_origin_reaches_no_path(served: Served, upstream: FakeUpstream, path: str) -> None:
    before = len(upstream.requests)
    foreign = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}
    for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x"):
        headers = {**foreign, "content-type": kind}
        answer = httpx.post(served.url + path, content=json.dumps(chat()), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_origin")
    assert not [r for r in upstream.requests[before:] if r.method == "POST"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/principles", "/v1/feedback"])
def test_a_body_without_a_type_is_not_json(served: Served, path: str) -> None:
    """A Blob without a type is what a page may send anywhere, unasked."""
    with httpx.Client(base_url=served.url, timeout=60) as client:
        request = client.build_request("POST", path, content=json.dumps(chat()))
        request.headers.pop("content-type", None)
        answer = client.send(request)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "content_type")


def test_a_rebound_domain_reads_nothing(served: Served) -> None:
    for path in ("/v1/traces", "/v1/models", "/metrics", "/readyz", "/", "/openapi.json"):
        answer = httpx.get(served.url + path, headers={"host": "evil.example"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_not_allowed")
    assert httpx.head(served.url + "/", headers={"host": "evil.example"}).content == b""


@pytest.mark.parametrize(
    ("target", "host", "version", "answered"),
    [
        ("http://localhost:8000/v1/traces", "localhost:8000", "1.1", True),
        ("http://[::1]:8000/v1/traces", "[::1]:8000", "1.1", True),
        ("http://evil.example/v1/traces", None, "1.0", False),
        ("http://evil.example/v1/traces", "localhost", "1.1", False),
        ("http://localhost@evil.example:8000/v1/traces", "localhost", "1.1", False),
        ("http://localhost/v1/traces", "evil.example", "1.1", False),
    ],
)
def test_a_target_that_is_a_whole_url_names_the_host_too(
    served: Served, target: str, host: str | None, version: str, answered: bool
) -> None:
    lines = [f"GET {target} HTTP/{version}", *([f"host: {host}"] if host else []), "connection: close", "", ""]
    with socket.create_connection(served.url.removeprefix("http://").split(":"), timeout=60) as client:
        client.sendall("\r\n".join(lines).encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200" if answered else b"HTTP/1.1 403")
    assert answered or b"host_not_allowed" in answer


def test_with_keys_a_page_lacks_the_key_and_a_client_of_any_origin_may_have_it(keyed: Served) -> None:
    foreign = {"origin": "app://client", "sec-fetch-site": "cross-site", "host": "ai.example"}
    url = keyed.url + "/v1/chat/completions"
    assert httpx.post(url, json=chat(), headers=foreign).status_code == 401
    foreign["authorization"] = f"Bearer {SECRETS['guest']}"
    assert httpx.post(url, json=chat(), headers=foreign).status_code == 200


def test_the_connection_goes_on_after_a_refusal(served: Served) -> None:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        for origin, status in (("https://evil.example", 403), ("", 200)) * 2:
            headers = {"origin": origin} if origin else {}
            assert client.post("/v1/chat/completions", json=chat(), headers=headers).status_code == status
