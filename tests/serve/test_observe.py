"""What one sees of a server: spans at a collector, request ids, JSON logs, and TLS before all of it."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from serve.config import ConfigError, Flags
from serve.configure.reader import load
from serve.observe.logs import sound_id
from serve.observe.tracing import wanted
from tests.serve.conftest import Start, chat
from tests.upstream import FakeUpstream

PATH = "/v1/chat/completions"


class Collector:
    """Takes what an OTLP exporter sends by HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: set[str] = set()
        self.news = threading.Condition()
        owner = self

        class Take(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                owner.take(self.path, body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Take)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def take(self, path: str, body: bytes) -> None:
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        with self.news:
            if path == "/v1/traces":
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    self.spans += [span for scope in resource.scope_spans for span in scope.spans]
            else:
                for data in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    self.metrics |= {metric.name for scope in data.scope_metrics for metric in scope.metrics}
            self.news.notify_all()

    def named(self, name: str) -> Any:
        return next(span for span in self.spans if span.name == name)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def collector() -> Iterator[Collector]:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs pip install 'trimtab[otel]'")
    it = Collector()
    yield it
    it.stop()


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


REWRITER = """
[rewriter.house]
engine = "main"
model = "echo"
[policy.both]
stages = ["urial", "bpo"]
render = "chat"
[policy.both.bpo]
rewriter = "house"
"""


def test_one_aligned_stream_is_a_tree_of_spans(start: Start, collector: Collector, upstream: FakeUpstream) -> None:
    served = start(more=REWRITER, env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"})
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    before = len(upstream.requests)
    headers = {"traceparent": f"00-{trace}-{parent}-01", "x-trimtab-policy": "both"}
    body = chat(stream=True, stream_options={"include_usage": True})
    assert httpx.post(served.url + PATH, json=body, headers=headers, timeout=20).status_code == 200
    served.stop()  # sends what is left
    by_id = {span.span_id: span for span in collector.spans}
    server = collector.named(f"POST {PATH}")
    assert server.trace_id.hex() == trace
    assert server.parent_span_id.hex() == parent
    assert attributes(server)["http.response.status_code"] == 200
    assert attributes(server)["trimtab.policy"] == "both"
    for stage in ("stage urial", "stage bpo"):
        assert collector.named(stage).parent_span_id == server.span_id
        assert collector.named(stage).end_time_unix_nano >= collector.named(stage).start_time_unix_nano
    calls = [span for span in collector.spans if span.name == "chat echo"]
    parents = {by_id[span.parent_span_id].name for span in calls}
    assert parents == {"stage bpo", f"POST {PATH}"}
    answer = next(span for span in calls if span.parent_span_id == server.span_id)
    told = attributes(answer)
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.request.model"] == "echo"
    assert told["gen_ai.usage.input_tokens"] > 0
    assert told["gen_ai.usage.output_tokens"] > 0
    assert {span.trace_id.hex() for span in collector.spans} == {trace}
    # The engine got the context of the very span that stands for its call.
    carried = {r.header("traceparent") for r in upstream.requests[before:] if r.method == "POST"}
    assert carried == {f"00-{trace}-{span.span_id.hex()}-01" for span in calls}
    assert {"gen_ai.client.token.usage", "gen_ai.client.operation.duration"} <= collector.metrics


def test_nothing_is_traced_unless_an_endpoint_is_set() -> None:
    assert not wanted("", {})
    assert wanted("http://x", {})
    assert wanted("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"})
    assert not wanted("http://x", {"OTEL_SDK_DISABLED": "true"})


async def test_a_request_id_is_returned_and_one_that_could_harm_is_not(http: httpx.AsyncClient) -> None:
    answer = await http.post(PATH, json=chat(), headers={"x-request-id": "job-17.a:b"})
    assert answer.headers["x-request-id"] == "job-17.a:b"
    assert answer.headers["x-engine-request-id"] == "fake-1"
    for bad in ("a b", "x" * 129, '"}', "é".encode().decode("latin-1")):
        answer = await http.post(PATH, json=chat(), headers={b"x-request-id": bad.encode("latin-1")})
        assert answer.headers["x-request-id"] == answer.headers["x-trimtab-trace"]
    answer = await http.get("/v1/policies", headers={"x-request-id": "job-18"})
    assert answer.headers["x-request-id"] == "job-18"
    assert sound_id("a\nb") == ""


def test_logs_are_json_lines_with_the_request_that_they_belong_to(start: Start) -> None:
    served = start(server='log = "json"\naccess_log = true')
    httpx.post(served.url + PATH, json=chat(), headers={"x-request-id": "job-1"}, timeout=10)
    body = chat(model="error-500")
    httpx.post(served.url + PATH, json=body, headers={"x-request-id": "job-2", "x-trimtab-policy": "dead"}, timeout=10)
    httpx.get(served.url + "/v1/policies", headers={"x-request-id": "job-3"}, timeout=10)
    rows = [json.loads(served.wait_for(f"trimtab.access.*job-{n}")) for n in (1, 2, 3)]
    assert rows[0]["status"] == 200
    assert rows[0]["policy"] == "raw"
    assert rows[0]["completion_tokens"] > 0
    assert rows[0]["ms"] > 0
    assert rows[1]["status"] == 502
    assert rows[2]["path"] == "/v1/policies"
    warning = json.loads(served.wait_for("trimtab.engine.*job-2"))
    assert (warning["level"], warning["request_id"]) == ("warning", "job-2")
    assert all(json.loads(line) for line in served.said if "serving on" not in line)


async def test_ids_and_unknown_paths_are_one_label_each_for_whoever_asks(start: Start) -> None:
    """Else a client without a key could fill the memory of a worker and of Prometheus with labels."""
    digest = hashlib.sha256(b"watch").hexdigest()
    served = start(more=f'[[key]]\nid = "watch"\nsha256 = "{digest}"\nrights = ["metrics", "raw"]')
    known = {"authorization": "Bearer watch"}
    async with httpx.AsyncClient(base_url=served.url, timeout=20) as http:
        for headers in ({}, known):
            for path in ("probe-1", "probe-2/input_items", "probe-3/x", "probe-4%2f..%2fx", "probe-5%0ax"):
                for method in ("GET", "POST", "DELETE"):
                    await http.request(method, f"/v1/responses/{path}", headers=headers)
        text = (await http.get("/metrics", headers=known)).text
    assert "probe" not in text
    labels = set(re.findall(r'path="(/v1/responses[^"]*)"', text))
    assert labels == {f"/v1/responses/{rest}" for rest in ("*", "{id}", "{id}/input_items")}


def test_a_text_log_has_a_line_for_each_request_whatever_it_quotes(start: Start) -> None:
    served = start(server="access_log = true")
    forged = "x\nINFO trimtab.access: POST /forged 200\r\x1b[2J\u2028\x85"
    httpx.post(served.url + PATH, json=chat(model=forged), headers={"x-request-id": "job-1"}, timeout=20)
    for path in ("/v1/policies/", "/v1/responses/"):
        httpx.get(served.url + path + quote(forged, safe=""), timeout=20)
    row = served.wait_for("trimtab.access: POST /v1/chat/completions 200 request_id=job-1 ")
    assert r'model="x\nINFO trimtab.access: POST /forged 200\r\u001b[2J' in row
    assert "trimtab.access: GET /v1/responses/* 404" in served.wait_for("trimtab.access: GET /v1/responses")
    assert r"GET /v1/policies/x\nINFO" in served.wait_for("trimtab.access: GET /v1/policies")
    assert not [line for line in served.said if line.startswith("INFO trimtab.access: POST /forged")]
    assert all(line.isprintable() for line in served.said)


# ---------------------------------------------------------------- TLS


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*argv, *subject, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True, timeout=30
    )
    return cert, key


def shown(url: str) -> str:
    host, port = url.removeprefix("https://").split(":")
    return hashlib.sha256(ssl.get_server_certificate((host, int(port)), timeout=10).encode()).hexdigest()


def test_tls_is_served_and_a_new_certificate_taken_on_sighup(start: Start, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "one")
    served = start(server=f'tls_cert = "{cert}"\ntls_key = "{key}"')
    assert served.url.startswith("https://")
    trusted = ssl.create_default_context(cafile=str(cert))
    with httpx.Client(verify=trusted, base_url=served.url, timeout=10) as http:
        assert http.post(PATH, json=chat(stream=True)).status_code == 200
        answer = http.post(PATH, content=b"x" * 2_000_000, headers={"content-type": "application/json"})
        assert answer.status_code == 413
    first = shown(served.url)
    certificate(tmp_path, "two")
    served.process.send_signal(signal.SIGHUP)
    served.wait_for("reloaded")
    assert shown(served.url) != first
    cert.write_text("no certificate")
    served.process.send_signal(signal.SIGHUP)
    served.wait_for("not reloaded.*tls_cert")
    with httpx.Client(verify=False, base_url=served.url, timeout=10) as http:
        assert http.post(PATH, json=chat()).status_code == 200


def test_a_certificate_that_cannot_be_loaded_is_refused_at_boot(tmp_path: Path) -> None:
    path = tmp_path / "trimtab.toml"
    for text, words in (
        ('tls_cert = "/no/such"', "tls_cert: the certificate and its key cannot be loaded"),
        ('tls_key = "x"', "tls_key: needs a tls_cert"),
        ('otlp = "collector:4317"', "is not an http:// or https:// URL"),
    ):
        path.write_text(f"[server]\n{text}\n")
        with pytest.raises(ConfigError, match=words):
            load(Flags(config=str(path), upstream="http://x"), {})
