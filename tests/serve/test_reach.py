"""How an engine is reached: addresses below its URL, headers and keys, a private CA, and the environment's proxy."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from serve.config import ConfigError, Engine, Flags
from serve.configure.reader import load
from serve.engine.address import Addressing, base
from serve.engine.live import LiveEngine
from serve.engine.proxy import proxy
from serve.engine.relay import Relay
from serve.engine.upstream import Refused
from serve.http.headers import request_headers
from tests.serve.bare import serving
from tests.serve.conftest import SECRETS, Start, chat
from tests.upstream import FakeUpstream

CHAT = "/v1/chat/completions"

# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://api.openai.com", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1/chat/completions"),
        ("http://gpu:8000//", "http://gpu:8000/v1/chat/completions"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1/chat/completions"),
        ("https://x/openai/", "https://x/openai/v1/chat/completions"),
        ("https://g/v1beta/openai/", "https://g/v1beta/openai/chat/completions"),
        ("https://api.z.ai/api/coding/paas/v4", "https://api.z.ai/api/coding/paas/v4/chat/completions"),
        ("https://ark/api/v3", "https://ark/api/v3/chat/completions"),
        ("https://gw/v1/account/gateway/openai", "https://gw/v1/account/gateway/openai/chat/completions"),
        ("https://cf/client/v4/accounts/a/ai/v1", "https://cf/client/v4/accounts/a/ai/v1/chat/completions"),
        ("https://a/openai/deployments/gpt", "https://a/openai/deployments/gpt/chat/completions"),
        ("https://v1.example/", "https://v1.example/v1/chat/completions"),
        ("https://x/v1x", "https://x/v1x/v1/chat/completions"),
    ],
)
def test_v1_is_put_in_unless_the_url_names_a_version(url: str, asked: str) -> None:
    assert Addressing().at(base(url), CHAT) == asked


@pytest.mark.parametrize(
    ("api_path", "url", "asked"),
    [
        ("", "https://models.github.ai/inference", "https://models.github.ai/inference/chat/completions"),
        ("", "https://x/v1", "https://x/v1/chat/completions"),
        ("/v2", "https://x", "https://x/v2/chat/completions"),
        ("/v1", "https://x/v3/", "https://x/v3/v1/chat/completions"),
    ],
)
def test_api_path_replaces_the_rule(api_path: str, url: str, asked: str) -> None:
    assert Addressing(api_path).at(base(url, api_path), CHAT) == asked


def test_api_version_is_a_query_parameter_of_every_request() -> None:
    azure = Addressing(api_version="2024-10-21")
    assert azure.at("https://a/openai/deployments/x", CHAT).endswith("/x/chat/completions?api-version=2024-10-21")
    assert azure.at("https://a", "/v1/models?a=1&api-version=old&b=2").endswith("?a=1&b=2&api-version=2024-10-21")
    assert azure.at("https://a", "/health") == "https://a/health?api-version=2024-10-21"


# ---------------------------------------------------------------- headers

CLIENT = [
    (b"authorization", b"Bearer mine"), (b"x-api-key", b"mine"), (b"api-key", b"mine"), (b"cookie", b"c"),
    (b"openai-organization", b"org"), (b"openai-project", b"proj"), (b"http-referer", b"https://app"),
    (b"x-title", b"App"), (b"anthropic-version", b"v"), (b"anthropic-beta", b"b"),
]  # fmt: skip
ALWAYS = {"anthropic-version": "v", "anthropic-beta": "b"}
ACCOUNT = {"openai-organization": "org", "openai-project": "proj"}


def test_a_clients_account_and_credentials_never_stand_beside_the_operators_key() -> None:
    assert request_headers(CLIENT, "op") == ALWAYS | {"authorization": "Bearer op"}
    assert request_headers(CLIENT, "op", authorization=True) == ALWAYS | {"authorization": "Bearer op"}
    assert request_headers(CLIENT, "op", key_header="api-key") == ALWAYS | {"api-key": "op"}
    assert request_headers(CLIENT) == ALWAYS | ACCOUNT
    mine = {"authorization": "Bearer mine"}
    assert request_headers(CLIENT, authorization=True) == ALWAYS | ACCOUNT | mine
    theirs = {"x-api-key": "mine"}
    assert request_headers(CLIENT, authorization=True, key_header="x-api-key") == ALWAYS | ACCOUNT | theirs


def test_configured_headers_are_sent_and_named_ones_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "op")
    fixed = {"HTTP-Referer": "https://house", "X-Own": "1"}
    spec = Engine("e", url="http://x", key_env="KEY", headers=fixed, headers_pass=("X-Title", "HTTP-Referer"))
    sent = {"x-title": "App", "http-referer": "https://house", "x-own": "1", "authorization": "Bearer op"}
    assert LiveEngine(spec).headers(CLIENT) == ALWAYS | sent
    assert LiveEngine(spec).headers() == {
        "http-referer": "https://house", "x-own": "1", "authorization": "Bearer op",
    }  # fmt: skip


async def test_a_served_engine_gets_its_key_headers_and_version(start: Start, upstream: FakeUpstream) -> None:
    file = f"""
state_dir = "{{state}}"
[engine.main]
url = "{{url}}/openai/deployments/echo"
key_env = "AZURE"
key_header = "api-key"
api_version = "2024-10-21"
headers = {{ "X-Title" = "House" }}
headers_pass = ["x-session-id"]
[[key]]
id = "house"
sha256 = "{hashlib.sha256(SECRETS["house"].encode()).hexdigest()}"
rights = ["raw"]
"""
    trimtab = start(file=file, env={"AZURE": "azure-secret"})
    headers = {"authorization": f"Bearer {SECRETS['house']}", "x-session-id": "s", "openai-project": "p"}
    async with httpx.AsyncClient(base_url=trimtab.url, timeout=20) as http:
        await http.post(CHAT, json=chat(), headers={**headers, "x-trimtab-policy": "raw"})
    asked = upstream.posts[-1]
    assert asked.path == "/openai/deployments/echo/chat/completions?api-version=2024-10-21"
    assert (asked.header("api-key"), asked.header("authorization")) == ("azure-secret", None)
    assert (asked.header("x-title"), asked.header("x-session-id")) == ("House", "s")
    assert asked.header("openai-project") is None


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ('headers = { Authorization = "Bearer x" }', "key_env"), ('headers = { Host = "x" }', "connection"),
        ('headers = { "a b" = "x" }', "header's name"), ('headers = { a = "x\\ny" }', "ASCII"),
        ("headers = { a = 1 }", "ASCII"), ('headers = { a = "1", A = "2" }', "twice"),
        ('headers_pass = ["X-Api-Key"]', "key_env"), ('headers_pass = ["x-trimtab-policy"]', "cannot be set"),
        ('headers_pass = ["cookie"]', "cannot be set"), ('key_header = "host"', "header's name"),
        ('api_path = "v1"', "api_path"), ('api_path = "/v1/"', "api_path"), ('api_version = "a&b"', "api_version"),
        ('ca_file = "/nowhere.pem"', "cannot be read"),
    ],
)  # fmt: skip
def test_wrong_settings_die_at_boot(tmp_path: Path, line: str, wrong: str) -> None:
    (file := tmp_path / "t.toml").write_text(f'[engine.main]\nurl = "http://x"\n{line}\n')
    with pytest.raises(ConfigError, match=wrong):
        load(Flags(config=str(file)), {})


# ---------------------------------------------------------------- a private CA, and proxies


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for an engine that no name server knows, and its key."""
    folder = tmp_path_factory.mktemp("ca")
    cert, key = folder / "cert.pem", folder / "key.pem"
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=engine.test"]
    command += ["-addext", "subjectAltName=DNS:engine.test,DNS:localhost", "-out", str(cert), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


class Proxy:
    """A forward proxy that leads every connection to one port of ours, and remembers the heads that it got."""

    def __init__(self, port: int = 0, answer: bytes = b"HTTP/1.1 200 Established\r\n\r\n") -> None:
        self.heads: list[str] = []
        self._port, self._answer = port, answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        if not head.startswith("CONNECT"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            return await writer.drain()
        writer.write(self._answer)
        await writer.drain()
        if b" 200 " not in self._answer:
            return
        onward = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(copy(reader, onward[1]), copy(onward[0], writer))


async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
    sink.close()


async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"{}")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    await writer.drain()


def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


async def ask(relay: Relay, url: str, ca_file: str = "") -> bytes:
    try:
        return await (await relay.send("POST", url, {}, b"{}", ca_file=ca_file)).read(20)
    finally:
        await relay.close()


async def test_an_engine_with_a_private_ca_is_trusted_by_setting_only(certificate: tuple[Path, Path]) -> None:
    async with serving(engine, tls(certificate)) as port:
        url = f"https://localhost:{port}/"
        assert await ask(Relay(connect_s=5, timeout_s=5), url, str(certificate[0])) == b"ok"
        with pytest.raises(Refused):
            await ask(Relay(connect_s=5, timeout_s=5), url)


async def test_https_goes_through_a_tunnel_of_the_proxy(certificate: tuple[Path, Path]) -> None:
    async with serving(engine, tls(certificate)) as port:
        via = Proxy(port)
        async with serving(via.serve) as proxied:
            relay = Relay(connect_s=5, timeout_s=5, proxies={"https": f"http://me:p%40ss@127.0.0.1:{proxied}"})
            assert await ask(relay, "https://engine.test/v1/x", str(certificate[0])) == b"ok"
    (head,) = via.heads
    assert head.startswith("CONNECT engine.test:443 HTTP/1.1\r\n")
    assert "basic bwu6cebzcw==" in head.lower()  # me:p@ss


async def test_http_asks_the_proxy_for_the_whole_url() -> None:
    via = Proxy()
    async with serving(via.serve) as proxied:
        relay = Relay(connect_s=5, timeout_s=5, proxies={"http": f"me:pass@127.0.0.1:{proxied}"})
        assert await ask(relay, "http://engine.test:81/v1/x?a=b") == b"ok"
    (head,) = via.heads
    assert head.startswith("POST http://engine.test:81/v1/x?a=b HTTP/1.1\r\nhost: engine.test:81\r\n")
    assert "proxy-authorization: Basic bWU6cGFzcw==\r\n" in head


async def test_a_proxy_that_refuses_is_named_as_the_reason() -> None:
    via = Proxy(answer=b"HTTP/1.1 403 Forbidden\r\n\r\n")
    async with serving(via.serve) as proxied:
        with pytest.raises(Refused, match=r"proxy does not connect to the engine: .*403"):
            await ask(
                Relay(connect_s=5, timeout_s=5, proxies={"https": f"http://127.0.0.1:{proxied}"}),
                "https://engine.test/",
            )


async def chats(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An engine that answers every request with one chat completion."""
    body = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"far"},"finish_reason":"stop"}]}'
    while head := await reader.readuntil(b"\r\n\r\n"):
        await reader.readexactly(int(found[1]) if (found := re.search(rb"content-length: (\d+)", head)) else 0)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )


async def test_a_server_reaches_its_engine_through_the_environments_proxy(
    start: Start, certificate: tuple[Path, Path]
) -> None:
    """The worker's own event loop, TLS within the tunnel, several requests on one connection."""
    async with serving(chats, tls(certificate)) as port:
        via = Proxy(port)
        async with serving(via.serve) as proxied:
            text = 'state_dir = "{state}"\n[engine.main]\nurl = "https://engine.test/v1"\n'
            text += f'ca_file = "{certificate[0]}"\n'
            env = {"HTTPS_PROXY": f"http://127.0.0.1:{proxied}", "NO_PROXY": "other.test"}
            trimtab = await asyncio.to_thread(lambda: start(file=text, env=env))
            async with httpx.AsyncClient(base_url=trimtab.url, timeout=20, trust_env=False) as http:
                for _ in range(3):
                    answer = await http.post(CHAT, json=chat())
                    assert answer.json()["choices"][0]["message"]["content"] == "far", answer.text
            await asyncio.to_thread(trimtab.stop)
    assert {head.splitlines()[0] for head in via.heads} == {"CONNECT engine.test:443 HTTP/1.1"}
    assert len(via.heads) <= 3  # its checks may have a connection of their own


async def socks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A SOCKS5 proxy (RFC 1928) that answers for whatever it is asked to connect to."""
    _, methods = await reader.readexactly(2)
    await reader.readexactly(methods)
    writer.write(b"\x05\x00")
    _, _, _, kind = await reader.readexactly(4)
    assert kind == 3  # a name, which the proxy resolves
    name = await reader.readexactly((await reader.readexactly(1))[0])
    await reader.readexactly(2)
    writer.write(b"\x05\x00\x00\x01" + bytes(6))
    await reader.readuntil(b"{}")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(name), name))
    await writer.drain()


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_a_socks_proxy_resolves_the_engines_name(scheme: str) -> None:
    async with serving(socks) as proxied:
        relay = Relay(connect_s=5, timeout_s=5, proxies={"all": f"{scheme}://127.0.0.1:{proxied}"})
        assert await ask(relay, "http://engine.test/") == b"engine.test"


NO = "internal.test,.corp.test, 10.0.0.0/8,192.168.1.5,one.test:8080"


@pytest.mark.parametrize(
    ("host", "port", "proxied"),
    [
        ("engine.test", 443, True), ("internal.test", 443, False), ("a.corp.test", 443, False),
        ("10.1.2.3", 443, False), ("11.1.2.3", 443, True),
        ("192.168.1.5", 443, False), ("one.test", 8080, False), ("one.test", 443, True),
        ("localhost", 443, False), ("127.0.0.7", 443, False), ("::1", 443, False),
    ],
)  # fmt: skip
def test_no_proxy_and_this_machine_are_reached_directly(host: str, port: int, proxied: bool) -> None:
    proxies = {"https": "http://proxy.test:3128", "no": NO}
    assert proxy(proxies, "https", host, port) == ("http://proxy.test:3128" if proxied else "")


def test_all_proxy_stands_for_both_and_unknown_kinds_are_refused() -> None:
    assert proxy({"all": "socks5h://p:1080"}, "http", "x.test", 80) == "socks5h://p:1080"
    assert proxy({}, "http", "x.test", 80) == ""
    with pytest.raises(ValueError, match="http://"):
        proxy({"https": "quic://p"}, "https", "x.test", 443)


def test_a_proxy_of_an_unknown_kind_dies_at_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://p:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ConfigError, match="proxy"):
        load(Flags(upstream="https://engine.test"), {})
    assert load(Flags(upstream="https://localhost"), {}).engines["main"].url == "https://localhost"
