"""The OpenAPI page says what is served, and nothing else is."""

from __future__ import annotations

import httpx

from serve.api.inbox import STEPS
from serve.api.routes import COUNTERS, DIALECTS, KEPT, RELAYED


async def test_the_page_names_every_path(http: httpx.AsyncClient) -> None:
    page = (await http.get("/openapi.json")).json()
    assert page["openapi"].startswith("3.")
    paths = set(page["paths"])
    own = {
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/policies",
        "/v1/policies/{name}",
        "/v1/usage",
        "/v1/key",
        "/v1/traces",
        "/v1/traces/{ident}",
        "/v1/account",
        "/v1/account/verification",
        "/v1/account/requests/{ident}",
        "/v1/feedback",
        "/v1/feedback/{ident}",
        "/v1/indexes",
        "/v1/principles",
        "/v1/principles/search",
        "/v1/principles/{ident}",
        "/v1/explain",
        "/v1/reports",
        "/v1/reports/{name}",
        "/v1/changes",
        "/v1/changes/{ident}",
        *(f"/v1/changes/{{ident}}/{step}" for step in (*STEPS, "explain")),
    }
    own |= {path for _, path, _ in COUNTERS} | {path for _, path in KEPT}
    assert paths == own | {"/healthz", "/readyz", "/metrics", *RELAYED, *(it.path for it in DIALECTS)}
    assert "bearer" in str(page["components"]["securitySchemes"])
    again = (await http.get("/openapi.json")).json()
    assert again == page


async def test_what_the_page_names_is_there(http: httpx.AsyncClient) -> None:
    page = (await http.get("/openapi.json")).json()
    for path, methods in page["paths"].items():
        for method in methods:
            answer = await http.request(method, path.replace("{name}", "x").replace("{ident}", "x"), json={})
            body = answer.json() if "json" in answer.headers["content-type"] else {}
            code = (body.get("error") or {}).get("code") if isinstance(body, dict) else None
            assert code not in ("path_not_found", "method_not_allowed"), (method, path)


async def test_the_body_of_a_chat_is_described_with_our_own_field(http: httpx.AsyncClient) -> None:
    page = (await http.get("/openapi.json")).json()
    for path in ("/v1/chat/completions", "/v1/explain"):
        schema = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["required"] == ["messages"]
        assert schema["additionalProperties"] is True
        assert set(schema["properties"]["trimtab"]["properties"]) == {
            "policy", "skip", "region", "language", "date", "explain",
        }  # fmt: skip


async def test_every_route_documents_the_errors_that_it_answers(http: httpx.AsyncClient) -> None:
    page = (await http.get("/openapi.json")).json()
    for path, methods in page["paths"].items():
        for method, operation in methods.items():
            if path in ("/healthz", "/readyz"):
                continue
            bodies = [{"content": b"{", "headers": {"content-type": "text/plain"}}, {"json": [1]}, {"json": {}}]
            for body in bodies if method == "post" else [{}]:
                url = path.replace("{name}", "none").replace("{ident}", "none")
                status = (await http.request(method, url, **body)).status_code
                said = operation["responses"]
                assert str(status) in said or f"{status // 100}XX" in said, (method, path, status)
                assert "422" not in said
