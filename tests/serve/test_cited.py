"""Citations through every dialect: the client gets the answer's text, what it cites, and no mark that nobody gave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.serve.conftest import Served, Start, chat
from tests.upstream import FakeUpstream

CONFIG = """
state_dir = "{state}"
[engine.main]
url = "{url}"
[engine.native]
url = "{url}"
supports = ["tools", "logprobs", "n", "images", "responses", "messages"]
[index.law]
embedder = "none"
[policy.cited]
stages = ["opo"]
opo = { index = ["law"], cite = "marks", unknown = "remove", footnotes = true }
[policy.kept]
stages = ["opo"]
opo = { index = ["law"], cite = "marks" }
[policy.plain]
stages = ["opo"]
opo = { index = ["law"] }
[policy.cited-base]
stages = ["opo"]
render = "base"
opo = { index = ["law"], cite = "marks", unknown = "remove" }
[policy.cited-native]
engine = "native"
stages = ["opo"]
opo = { index = ["law"], cite = "marks", unknown = "remove", footnotes = true }
"""
QUESTION = "When is tea served in the house?"
PIECES = ["Tea is ser", "ved at five [te", "a-1] and cake ", "at six [tea", "-9]. “Tea is served at", " four” [tea-1]."]
LEFT = "Tea is served at five [tea-1] and cake at six. “Tea is served at four” [tea-1]."
NOTES = "\n\n- [tea-1] House rules, house.example, https://x.test/1"


@pytest.fixture(scope="module")
def house(start: Start) -> Served:
    from tests.serve.test_principles import add, ready

    served = start(file=CONFIG)
    ready(served)
    rule = {"title": "House rules", "source": "house.example", "url": "https://x.test/1"}
    assert add(served, "tea-1", "Tea is served at five in the house.", **rule).status_code == 200
    return served


@pytest.fixture(autouse=True)
def script(upstream: FakeUpstream) -> Iterator[None]:
    upstream.scripts["tea"] = list(PIECES)
    yield
    upstream.scripts.pop("tea", None)
    upstream.others.clear()


def judged(citations: Any) -> None:
    assert [row["id"] for row in citations["cited"]] == ["tea-1"]
    assert citations["cited"][0]["url"] == "https://x.test/1"
    assert citations["unknown"] == [{"choice": 0, "mark": "tea-9"}]
    assert [row["quoted"] for row in citations["altered"]] == ["Tea is served at four"]


def client(house: Served, policy: str) -> openai.OpenAI:
    headers = {"X-Trimtab-Policy": policy}
    return openai.OpenAI(base_url=house.url + "/v1", api_key="none", default_headers=headers, max_retries=0)


def claude(house: Served, policy: str) -> anthropic.Anthropic:
    headers = {"X-Trimtab-Policy": policy}
    return anthropic.Anthropic(base_url=house.url, api_key="none", default_headers=headers, max_retries=0)


def test_a_chat_completion_tells_what_it_cites(house: Served) -> None:
    with client(house, "cited") as sdk:
        answer = sdk.chat.completions.create(model="tea", messages=[{"role": "user", "content": QUESTION}])
    assert answer.choices[0].message.content == LEFT + NOTES
    assert answer.model_extra is not None
    judged(answer.model_extra["trimtab"]["citations"])


def test_a_streamed_chat_completion_is_the_whole_one(house: Served) -> None:
    with client(house, "cited") as sdk:
        chunks = list(
            sdk.chat.completions.create(model="tea", messages=[{"role": "user", "content": QUESTION}], stream=True)
        )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == LEFT + NOTES
    told = [chunk for chunk in chunks if chunk.model_extra and "trimtab" in chunk.model_extra]
    assert len(told) == 1
    assert told[0].choices[0].finish_reason == "stop"
    judged(told[0].model_extra["trimtab"]["citations"])  # type: ignore[index]


def test_marks_that_are_kept_leave_every_chunk_but_the_last_as_it_is(house: Served, upstream: FakeUpstream) -> None:
    def lines(policy: str) -> list[dict[str, Any]]:
        body = chat(QUESTION, "tea", stream=True)
        text = httpx.post(
            house.url + "/v1/chat/completions", timeout=60, json=body, headers={"x-trimtab-policy": policy}
        ).text
        rows = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
        return [{name: value for name, value in row.items() if name != "created"} for row in rows]

    plain, kept = lines("plain"), lines("kept")
    assert "".join(row["choices"][0]["delta"].get("content") or "" for row in kept) == "".join(PIECES)
    judged(kept[-1].pop("trimtab")["citations"])
    assert [row["choices"] for row in kept] == [row["choices"] for row in plain]


def test_each_choice_is_judged_for_itself(house: Served) -> None:
    with client(house, "cited") as sdk:
        answer = sdk.chat.completions.create(model="tea", messages=[{"role": "user", "content": QUESTION}], n=2)
        chunks = list(
            sdk.chat.completions.create(model="tea", messages=[{"role": "user", "content": QUESTION}], n=2, stream=True)
        )
    assert answer.model_extra is not None
    assert [row["choice"] for row in answer.model_extra["trimtab"]["citations"]["unknown"]] == [0, 1]
    told = [chunk.model_extra for chunk in chunks if chunk.model_extra and "trimtab" in chunk.model_extra]
    assert [row["choice"] for row in told[0]["trimtab"]["citations"]["unknown"]] == [0, 1]


def test_a_completion_of_the_base_render_tells_too(house: Served) -> None:
    with client(house, "cited-base") as sdk:
        whole = sdk.completions.create(model="tea", prompt=QUESTION, max_tokens=99)
        chunks = list(sdk.completions.create(model="tea", prompt=QUESTION, max_tokens=99, stream=True))
    assert whole.choices[0].text == LEFT
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == LEFT
    assert whole.model_extra is not None
    judged(whole.model_extra["trimtab"]["citations"])
    told = [chunk.model_extra for chunk in chunks if chunk.model_extra and "trimtab" in chunk.model_extra]
    judged(told[0]["trimtab"]["citations"])


def test_a_response_tells_what_it_cites(house: Served) -> None:
    with client(house, "cited") as sdk:
        answer = sdk.responses.create(model="tea", input=QUESTION)
        with sdk.responses.stream(model="tea", input=QUESTION) as stream:
            said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            final = stream.get_final_response()
    for each in (answer, final):
        assert each.output_text == LEFT + NOTES
        assert each.model_extra is not None
        judged(each.model_extra["trimtab"]["citations"])
    assert said == LEFT + NOTES


def test_a_message_tells_what_it_cites(house: Served) -> None:
    ask: dict[str, Any] = {"model": "tea", "max_tokens": 99, "messages": [{"role": "user", "content": QUESTION}]}
    with claude(house, "cited") as sdk:
        answer = sdk.messages.create(**ask)
        with sdk.messages.stream(**ask) as stream:
            rows = list(stream)
            final = stream.get_final_message()
    assert answer.content[0].text == final.content[0].text == LEFT + NOTES  # type: ignore[union-attr]
    assert answer.model_extra is not None
    judged(answer.model_extra["trimtab"]["citations"])
    last = next(row for row in rows if row.type == "message_delta")
    judged(last.model_extra["trimtab"]["citations"])  # type: ignore[union-attr, index]


def numbered(rows: list[dict[str, Any]]) -> list[bytes]:
    return [
        b"event: %s\ndata: %s\n\n" % (row["type"].encode(), json.dumps(row | {"sequence_number": i}).encode())
        for i, row in enumerate(rows)
    ]


def test_an_engines_own_response_is_edited(house: Served, upstream: FakeUpstream) -> None:
    part = {"type": "output_text", "text": "".join(PIECES), "annotations": [], "logprobs": []}
    item = {"type": "message", "id": "m", "status": "completed", "role": "assistant", "content": [part]}
    body = {"id": "r", "object": "response", "created_at": 1, "status": "completed", "model": "tea", "output": [item]}
    place = {"item_id": "m", "output_index": 0, "content_index": 0}
    events = [{"type": "response.created", "response": body | {"output": [], "status": "in_progress"}}]
    events += [{"type": "response.output_item.added", "output_index": 0, "item": item | {"content": []}}]
    events += [{"type": "response.content_part.added", **place, "part": part | {"text": ""}}]
    events += [{"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []} for piece in PIECES]
    events += [{"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}]
    events += [{"type": "response.content_part.done", **place, "part": part}]
    events += [{"type": "response.output_item.done", "output_index": 0, "item": item}]
    events += [{"type": "response.completed", "response": body}]
    upstream.others["/v1/responses"] = lambda r: (200, numbered(events) if r.json.get("stream") else body)
    with client(house, "cited-native") as sdk:
        answer = sdk.responses.create(model="tea", input=QUESTION)
        rows = list(sdk.responses.create(model="tea", input=QUESTION, stream=True))
    assert answer.output_text == LEFT + NOTES
    assert "".join(row.delta for row in rows if row.type == "response.output_text.delta") == LEFT + NOTES
    assert [row.sequence_number for row in rows] == list(range(len(rows)))
    assert rows[-1].type == "response.completed"
    assert rows[-1].response.output_text == LEFT + NOTES
    judged(rows[-1].response.model_extra["trimtab"]["citations"])  # type: ignore[index]


def test_an_engines_own_message_is_edited(house: Served, upstream: FakeUpstream) -> None:
    usage = {"input_tokens": 1, "output_tokens": 1}
    body = {"id": "m", "type": "message", "role": "assistant", "model": "tea", "stop_sequence": None, "usage": usage}
    whole = body | {"content": [{"type": "text", "text": "".join(PIECES)}], "stop_reason": "end_turn"}
    start = body | {"content": [], "stop_reason": None}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    events += [{"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}]
    events += [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}} for piece in PIECES
    ]
    events += [{"type": "content_block_stop", "index": 0}]
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    events += [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]
    upstream.others["/v1/messages"] = lambda r: (200, numbered(events) if r.json.get("stream") else whole)
    ask: dict[str, Any] = {"model": "tea", "max_tokens": 99, "messages": [{"role": "user", "content": QUESTION}]}
    with claude(house, "cited-native") as sdk:
        answer = sdk.messages.create(**ask)
        with sdk.messages.stream(**ask) as stream:
            final = stream.get_final_message()
    assert answer.content[0].text == final.content[0].text == LEFT + NOTES  # type: ignore[union-attr]
    assert answer.model_extra is not None
    judged(answer.model_extra["trimtab"]["citations"])


def test_a_structured_answer_is_neither_asked_for_marks_nor_edited(house: Served, upstream: FakeUpstream) -> None:
    body = chat(QUESTION, "tea", response_format={"type": "json_object"})
    answer = httpx.post(
        house.url + "/v1/chat/completions", timeout=60, json=body, headers={"x-trimtab-policy": "cited"}
    )
    assert answer.json()["choices"][0]["message"]["content"] == "".join(PIECES)
    assert "trimtab" not in answer.json()
    assert answer.headers["x-trimtab-applied"] == "opo=applied(1, no marks: structured output)"
    assert b"square brackets" not in upstream.posts[-1].body


def test_the_trace_tells_citations_without_the_texts(house: Served) -> None:
    answer = httpx.post(
        house.url + "/v1/chat/completions", json=chat(QUESTION, "tea"), headers={"x-trimtab-policy": "kept"}, timeout=60
    )
    trace = httpx.get(f"{house.url}/v1/traces/{answer.headers['x-trimtab-trace']}", timeout=60).json()
    assert [row["id"] for row in trace["citations"]["cited"]] == ["tea-1"]
    assert trace["citations"]["altered"] == [{"choice": 0, "id": "tea-1", "index": "law"}]


def test_a_stream_that_breaks_off_is_no_whole_answer(house: Served) -> None:
    body = chat(QUESTION, "die-mid-stream-3", stream=True)
    text = httpx.post(
        house.url + "/v1/chat/completions", timeout=60, json=body, headers={"x-trimtab-policy": "cited"}
    ).text
    assert "trimtab" not in text
    assert "upstream_failed" in text


LABELS = """
state_dir = "{state}"
[engine.main]
url = "{url}"
[policy.chat]
stages = ["urial"]
render = "chat"
[policy.base]
stages = ["urial"]
render = "base"
[marking]
header = true
field = true
footer = "AI-generated"
provider = "House"
"""


@pytest.fixture(scope="module")
def labelled(start: Start) -> Served:
    return start(file=LABELS)


@pytest.mark.parametrize("policy", ["raw", "chat", "base"])
@pytest.mark.parametrize("stream", [False, True])
def test_every_answer_is_labelled_where_the_operator_says_so(labelled: Served, policy: str, stream: bool) -> None:
    body = chat("hello", "tea", stream=stream, n=2)
    answer = httpx.post(
        labelled.url + "/v1/chat/completions", timeout=60, json=body, headers={"x-trimtab-policy": policy}
    )
    assert answer.headers["x-ai-generated"] == "true"
    rows = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
    rows = rows or [answer.json()]
    texts = ["", ""]
    for choice in [choice for row in rows for choice in row["choices"]]:
        texts[choice["index"]] += choice["delta" if stream else "message"].get("content") or ""
    assert texts == ["".join(PIECES) + "\n\nAI-generated"] * 2
    (told,) = [row["trimtab"] for row in rows if "trimtab" in row]
    assert told["provenance"]["ai_generated"] is True
    assert told["provenance"]["provider"] == "House"
    assert told["provenance"]["trace"] == answer.headers["x-trimtab-trace"]
    assert "citations" not in told


def test_errors_tool_calls_and_structured_answers_have_no_label_in_their_text(labelled: Served) -> None:
    refused = httpx.post(labelled.url + "/v1/chat/completions", timeout=60, json=chat("hi", "error-429"))
    assert "x-ai-generated" not in refused.headers
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    called = httpx.post(labelled.url + "/v1/chat/completions", timeout=60, json=chat("hi", "tools", tools=tools)).json()
    assert called["choices"][0]["message"].get("content") in (None, "")
    body = chat("{}", "echo", response_format={"type": "json_object"})
    answer = httpx.post(labelled.url + "/v1/chat/completions", timeout=60, json=body).json()
    assert answer["choices"][0]["message"]["content"] == "{}"
    assert answer["trimtab"]["provenance"]["ai_generated"] is True
