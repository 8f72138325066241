"""python benchmarks/clients/engine.py PORT [--chat-only]: a scripted engine that answers the clients' tour.

It speaks chat completions, text completions, OpenAI's Responses and Anthropic's Messages; with --chat-only the last two
are 404s, so that Trimtab has to translate. What it answers depends on the last user turn alone:

    tools offered and "weather" in the text   calls get_weather(city="Paris")
    a tool's result                           "It is " and the result
    a JSON format asked for                   {"name": "Ada", "age": 36}
    an image                                  "I see an image."
    "please fail"                             a 422
    anything else                             "You said: " and the text
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ARGUMENTS = '{"city":"Paris"}'
PERSON = '{"name": "Ada", "age": 36}'
Events = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Answer:
    """What the engine says: a text, or a call of the tool that was offered."""

    text: str = ""
    tool: str = ""

    @property
    def pieces(self) -> list[str]:
        return re.findall(r"\s*\S+", self.text)


def texts(content: Any) -> str:
    """The text of a message's or an item's content."""
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content or () if isinstance(part, dict))


def has_image(content: Any) -> bool:
    return isinstance(content, list) and any("image" in str(part.get("type")) for part in content)


def result_of(turn: dict[str, Any]) -> str | None:
    """A tool's result in the last turn, in any of the three APIs."""
    if turn.get("role") == "tool":
        return texts(turn["content"])
    if turn.get("type") == "function_call_output":
        return texts(turn["output"])
    parts = turn.get("content") if isinstance(turn.get("content"), list) else ()
    return next((texts(part["content"]) for part in parts if part.get("type") == "tool_result"), None)


def decide(body: dict[str, Any]) -> Answer | None:
    """The answer; None for an error."""
    if "prompt" in body:  # the base render: `text_whole` says the same to every prompt
        return None if "please fail" in body["prompt"] else Answer()
    turns = body.get("messages", body.get("input"))
    if isinstance(turns, str):
        turns = [{"role": "user", "content": turns}]
    last = turns[-1]
    if (result := result_of(last)) is not None:
        return Answer(f"It is {result}")
    said = texts(last["content"])
    names = [tool.get("name") or tool.get("function", {}).get("name") for tool in body.get("tools") or ()]
    if "please fail" in said:
        return None
    structured = next((name for name in names if name and name != "get_weather"), None)
    if (
        body.get("response_format")
        or (body.get("text") or {}).get("format", {}).get("type") == "json_schema"
        or ((body.get("output_config") or {}).get("format") or body.get("output_format"))
    ):
        return Answer(PERSON)
    if structured:  # a client that asks for structure by a tool of its own
        return Answer(tool=structured)
    if "get_weather" in names and "weather" in said:
        return Answer(tool="get_weather")
    return Answer("I see an image." if has_image(last["content"]) else f"You said: {said}")


def arguments(answer: Answer) -> str:
    return ARGUMENTS if answer.tool == "get_weather" else PERSON


# ---------------------------------------------------------------- chat completions


def chat_message(answer: Answer) -> dict[str, Any]:
    if not answer.tool:
        return {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
    call = {"id": "call_1", "type": "function", "function": {"name": answer.tool, "arguments": arguments(answer)}}
    return {"role": "assistant", "content": None, "refusal": None, "annotations": [], "tool_calls": [call]}


USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}


def chat_whole(body: dict[str, Any], answer: Answer) -> dict[str, Any]:
    choice = {
        "index": 0, "message": chat_message(answer), "logprobs": None,
        "finish_reason": "tool_calls" if answer.tool else "stop",
    }  # fmt: skip
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice],
        "usage": USAGE,
    }  # fmt: skip


def chat_events(body: dict[str, Any], answer: Answer) -> Events:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> tuple[str, dict[str, Any]]:
        return "", {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    yield chunk({"role": "assistant", "content": "" if not answer.tool else None})
    if answer.tool:
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": answer.tool, "arguments": ""}}
        yield chunk({"tool_calls": [call]})
        yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": arguments(answer)}}]})
    for piece in answer.pieces:
        yield chunk({"content": piece})
    yield chunk({}, "tool_calls" if answer.tool else "stop")
    if (body.get("stream_options") or {}).get("include_usage"):
        yield "", {**head, "choices": [], "usage": USAGE}
    yield "[DONE]", {}


# ---------------------------------------------------------------- text completions: the base render


def text_whole(body: dict[str, Any], answer: Answer) -> dict[str, Any]:
    said = PERSON if body.get("response_format") else "Plain words."
    choice = {"index": 0, "text": f"{said}\n````\n", "logprobs": None, "finish_reason": "stop"}
    return {
        "id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"], "choices": [choice],
        "usage": USAGE,
    }  # fmt: skip


def text_events(body: dict[str, Any], answer: Answer) -> Events:
    whole = text_whole(body, answer)
    for text, finish in (("Plain ", None), ("words.", None), ("\n````\n", "stop")):
        yield "", {**whole, "choices": [{"index": 0, "text": text, "finish_reason": finish}], "usage": None}
    yield "[DONE]", {}


# ---------------------------------------------------------------- Responses


def response_item(answer: Answer, status: str = "completed") -> dict[str, Any]:
    if answer.tool:
        return {
            "type": "function_call", "id": "fc_1", "call_id": "call_1", "name": answer.tool,
            "arguments": arguments(answer) if status == "completed" else "", "status": status,
        }  # fmt: skip
    content = [{"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}]
    return {
        "type": "message", "id": "msg_1", "role": "assistant", "status": status,
        "content": content if status == "completed" else [],
    }  # fmt: skip


def response_whole(body: dict[str, Any], answer: Answer, status: str = "completed") -> dict[str, Any]:
    usage = {
        "input_tokens": 9, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 14,
    }  # fmt: skip
    done = status == "completed"
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": body["model"],
        "output": [response_item(answer)] if done else [], "usage": usage if done else None, "error": None,
        "incomplete_details": None, "instructions": body.get("instructions"), "metadata": {},
        "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": body.get("tools", []),
        "top_p": 1.0, "text": body.get("text", {"format": {"type": "text"}}), "completed_at": 1 if done else None,
        "previous_response_id": None, "truncation": "disabled", "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "top_logprobs": 0, "reasoning": None, "max_output_tokens": None, "max_tool_calls": None, "store": False,
        "background": False, "service_tier": "default", "safety_identifier": None, "prompt_cache_key": None,
    }  # fmt: skip


def response_events(body: dict[str, Any], answer: Answer) -> Events:
    rows = list(_response_events(body, answer))
    for number, (kind, row) in enumerate(rows):
        yield kind, {"type": kind, "sequence_number": number, **row}


def _response_events(body: dict[str, Any], answer: Answer) -> Events:
    started = response_whole(body, answer, "in_progress")
    item = response_item(answer)
    place = {"output_index": 0, "item_id": item["id"]}
    yield "response.created", {"response": started}
    yield "response.in_progress", {"response": started}
    yield "response.output_item.added", {"output_index": 0, "item": response_item(answer, "in_progress")}
    if answer.tool:
        yield "response.function_call_arguments.delta", {**place, "delta": arguments(answer)}
        yield "response.function_call_arguments.done", {**place, "name": answer.tool, "arguments": arguments(answer)}
    else:
        place = {**place, "content_index": 0}
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield "response.content_part.added", {**place, "part": part}
        for piece in answer.pieces:
            yield "response.output_text.delta", {**place, "delta": piece, "logprobs": []}
        yield "response.output_text.done", {**place, "text": answer.text, "logprobs": []}
        yield "response.content_part.done", {**place, "part": {**part, "text": answer.text}}
    yield "response.output_item.done", {"output_index": 0, "item": item}
    yield "response.completed", {"response": response_whole(body, answer)}


# ---------------------------------------------------------------- Messages


def message_whole(body: dict[str, Any], answer: Answer) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "text", "text": answer.text}
    if answer.tool:
        block = {"type": "tool_use", "id": "toolu_1", "name": answer.tool, "input": json.loads(arguments(answer))}
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": [block],
        "stop_reason": "tool_use" if answer.tool else "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 5},
    }  # fmt: skip


def message_events(body: dict[str, Any], answer: Answer) -> Events:
    for kind, row in _message_events(body, answer):
        yield kind, {"type": kind, **row}


def _message_events(body: dict[str, Any], answer: Answer) -> Events:
    whole = message_whole(body, answer)
    block = {**whole["content"][0], **({"input": {}} if answer.tool else {"text": ""})}
    yield "message_start", {"message": {**whole, "content": [], "stop_reason": None}}
    yield "content_block_start", {"index": 0, "content_block": block}
    if answer.tool:
        yield "content_block_delta", {"index": 0, "delta": {"type": "input_json_delta", "partial_json": ARGUMENTS}}
    for piece in answer.pieces:
        yield "content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": piece}}
    yield "content_block_stop", {"index": 0}
    yield "message_delta", {
        "delta": {"stop_reason": whole["stop_reason"], "stop_sequence": None}, "usage": {"output_tokens": 5},
    }  # fmt: skip
    yield "message_stop", {}


APIS = {
    "/v1/chat/completions": (chat_whole, chat_events),
    "/v1/completions": (text_whole, text_events),
    "/v1/responses": (response_whole, response_events),
    "/v1/messages": (message_whole, message_events),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    chat_only = False

    def do_GET(self) -> None:
        models = {"object": "list", "data": [{"id": "scripted", "object": "model", "created": 1, "owned_by": "us"}]}
        self.reply(200 if self.path == "/v1/models" else 404, models if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if path not in APIS or (self.chat_only and path in ("/v1/responses", "/v1/messages")):
            return self.reply(404, {"error": {"message": "no such path", "type": "not_found_error"}})
        if not body.get("model") or (answer := decide(body)) is None:
            error = {"message": "the engine cannot do that", "type": "invalid_request_error"}
            outer = {"type": "error"} if path == "/v1/messages" else {}
            return self.reply(422, {**outer, "error": error})
        whole, events = APIS[path]
        if not body.get("stream"):
            return self.reply(200, whole(body, answer))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for kind, row in events(body, answer):
            data = "[DONE]" if kind == "[DONE]" else json.dumps(row)
            event = (f"event: {kind}\n" if kind and kind != "[DONE]" else "") + f"data: {data}\n\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event.encode()), event.encode()))
        self.wfile.write(b"0\r\n\r\n")
        return None

    def reply(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--chat-only", action="store_true", help="no Responses and no Messages")
    options = parser.parse_args()
    Handler.chat_only = options.chat_only
    ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
