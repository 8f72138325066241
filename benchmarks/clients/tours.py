"""python benchmarks/clients/tours.py CLIENT URL: one Python client's whole tour before URL, as JSON: step -> outcome.

Run by an environment that has the clients; `python benchmarks/clients/run.py` makes one. A step's outcome is what the
caller of the client sees: a text, a tool's name and arguments, or the kind of error.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL = "scripted"
HELLO, WEATHER, FAIL = "hello there", "What is the weather in Paris?", "please fail"
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJg"
    "gg=="
)
PERSON = {
    "type": "object", "additionalProperties": False, "required": ["name", "age"],
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
}  # fmt: skip
PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
Steps = dict[str, Callable[[], Any]]


def outcome(step: Callable[[], Any]) -> str:
    """What a step returned, or the kind of error it raised."""
    try:
        return str(step())
    except Exception as error:  # noqa: BLE001  whatever a client raises is what its caller sees
        status = getattr(error, "status_code", None)
        return f"{type(error).__name__}{f' {status}' if status else ''}" + ("" if status else f": {str(error)[:200]}")


def openai_chat(url: str) -> Steps:
    """openai-python, chat completions."""
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": PLACE}}

    def ask(text: Any = HELLO, **more: Any) -> Any:
        messages = more.pop("messages", [{"role": "user", "content": text}])
        return client.chat.completions.create(model=MODEL, messages=messages, **more)

    def stream() -> str:
        chunks = list(ask(stream=True))
        return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) + f" {len(chunks) > 3}"

    def usage() -> Any:
        chunks = list(ask(stream=True, stream_options={"include_usage": True}))
        return chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0

    def tools() -> str:
        first = ask(WEATHER, tools=[tool]).choices[0].message
        call = first.tool_calls[0]
        result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        second = ask(messages=[{"role": "user", "content": WEATHER}, first, result], tools=[tool])
        return f"{call.function.name} {call.function.arguments} {second.choices[0].message.content}"

    def streamed_tools() -> str:
        with client.chat.completions.stream(
            model=MODEL, messages=[{"role": "user", "content": WEATHER}], tools=[tool]
        ) as it:
            call = it.get_final_completion().choices[0].message.tool_calls[0]
        return f"{call.function.name} {call.function.arguments}"

    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    picture = [{"type": "text", "text": "Look."}, {"type": "image_url", "image_url": {"url": PICTURE}}]

    def leave() -> str:
        with ask(stream=True) as it:
            next(iter(it))
        return "left"

    return {
        "plain": lambda: ask().choices[0].message.content,
        "system": lambda: ask(messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": HELLO}])
        .choices[0].message.content,
        "stream": stream, "usage": usage, "tools": tools, "streamed tools": streamed_tools,
        "json": lambda: json.loads(ask(response_format=schema).choices[0].message.content),
        "image": lambda: ask(picture).choices[0].message.content,
        "error": lambda: ask(FAIL), "leave": leave, "models": lambda: len(client.models.list().data) > 0,
    }  # fmt: skip


def openai_responses(url: str) -> Steps:
    """openai-python, Responses."""
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)
    tool = {"type": "function", "name": "get_weather", "parameters": PLACE, "strict": False}

    def ask(given: Any = HELLO, **more: Any) -> Any:
        return client.responses.create(model=MODEL, input=given, **more)

    def stream() -> str:
        events = list(ask(stream=True))
        text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        return f"{events[0].type} {text} {events[-1].type}"

    def tools() -> str:
        first = ask(WEATHER, tools=[tool])
        call = next(item for item in first.output if item.type == "function_call")
        turns = [{"role": "user", "content": WEATHER}, call.model_dump(exclude_none=True)]
        turns.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
        return f"{call.name} {call.arguments} {ask(turns, tools=[tool]).output_text}"

    def streamed_tools() -> str:
        with client.responses.stream(model=MODEL, input=WEATHER, tools=[tool]) as it:
            call = it.get_final_response().output[0]
        return f"{call.name} {call.arguments}"

    schema = {"format": {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}}
    picture = [{"type": "input_text", "text": "Look."}, {"type": "input_image", "image_url": PICTURE, "detail": "auto"}]
    return {
        "plain": lambda: ask().output_text,
        "instructions": lambda: ask(instructions="Be kind.").output_text,
        "stream": stream, "usage": lambda: ask().usage.output_tokens > 0, "tools": tools,
        "streamed tools": streamed_tools, "json": lambda: json.loads(ask(text=schema).output_text),
        "image": lambda: ask([{"role": "user", "content": picture}]).output_text, "error": lambda: ask(FAIL),
    }  # fmt: skip


def openai_agents(url: str) -> Steps:
    """openai-agents: a run with a tool, by either API."""
    from agents import (
        Agent,
        OpenAIChatCompletionsModel,
        OpenAIResponsesModel,
        Runner,
        function_tool,
        set_tracing_disabled,
    )
    from openai import AsyncOpenAI

    set_tracing_disabled(True)

    @function_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return f"sunny in {city}"

    def run(kind: Any, text: str) -> Callable[[], str]:
        async def go() -> str:
            client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)
            agent = Agent("helper", instructions="Be kind.", tools=[get_weather], model=kind(MODEL, client))
            return str((await Runner.run(agent, text)).final_output)

        return lambda: asyncio.run(go())

    def streamed() -> str:
        async def go() -> str:
            client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)
            agent = Agent("helper", tools=[get_weather], model=OpenAIResponsesModel(MODEL, client))
            result = Runner.run_streamed(agent, WEATHER)
            kinds = {event.type async for event in result.stream_events()}
            return f"{sorted(kinds)} {result.final_output}"

        return asyncio.run(go())

    return {
        "responses": run(OpenAIResponsesModel, WEATHER), "responses, streamed": streamed,
        "chat": run(OpenAIChatCompletionsModel, WEATHER), "plain": run(OpenAIResponsesModel, HELLO),
    }  # fmt: skip


def anthropic(url: str) -> Steps:
    """Anthropic's SDK, Messages."""
    from anthropic import Anthropic

    client = Anthropic(base_url=url, api_key="none", max_retries=0, timeout=20)
    tool = {"name": "get_weather", "description": "Weather", "input_schema": PLACE}

    def ask(text: Any = HELLO, **more: Any) -> Any:
        messages = more.pop("messages", [{"role": "user", "content": text}])
        return client.messages.create(model=MODEL, max_tokens=100, messages=messages, **more)

    def stream(**more: Any) -> Any:
        text = more.pop("text", HELLO)
        with client.messages.stream(
            model=MODEL, max_tokens=100, messages=[{"role": "user", "content": text}], **more
        ) as it:
            return it.get_final_message()

    def tools() -> str:
        first = ask(WEATHER, tools=[tool])
        call = next(block for block in first.content if block.type == "tool_use")
        turns = [{"role": "user", "content": WEATHER}, {"role": "assistant", "content": first.content}]
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
        turns.append({"role": "user", "content": [result]})
        return f"{call.name} {call.input} {first.stop_reason} {ask(messages=turns, tools=[tool]).content[0].text}"

    source = {"type": "base64", "media_type": "image/png", "data": PICTURE.partition(",")[2]}
    picture = [{"type": "text", "text": "Look."}, {"type": "image", "source": source}]
    kept = [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]
    return {
        "plain": lambda: ask().content[0].text, "system": lambda: ask(system="Be kind.").content[0].text,
        "cached system": lambda: ask(system=kept).content[0].text,
        "stream": lambda: f"{stream().content[0].text} {stream().stop_reason}",
        "usage": lambda: ask().usage.output_tokens > 0, "tools": tools,
        "streamed tools": lambda: str(stream(text=WEATHER, tools=[tool]).content[0].input),
        "image": lambda: ask(picture).content[0].text, "error": lambda: ask(FAIL),
    }  # fmt: skip


def langchain(url: str) -> Steps:
    """LangChain: ChatOpenAI by both APIs, and ChatAnthropic."""
    from langchain_anthropic import ChatAnthropic
    from langchain_openai import ChatOpenAI

    def models() -> dict[str, Any]:
        common: dict[str, Any] = {"model": MODEL, "base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}
        return {
            "chat": ChatOpenAI(**common), "responses": ChatOpenAI(**common, use_responses_api=True),
            "messages": ChatAnthropic(model=MODEL, base_url=url, api_key="none", max_retries=0, max_tokens=100),
        }  # fmt: skip

    tool = {"name": "get_weather", "description": "Weather", "parameters": PLACE}
    out: Steps = {}
    for name in ("chat", "responses", "messages"):
        out[f"{name}: plain"] = lambda name=name: models()[name].invoke(HELLO).text
        out[f"{name}: stream"] = lambda name=name: "".join(c.text for c in models()[name].stream(HELLO))
        out[f"{name}: tools"] = lambda name=name: [
            (call["name"], call["args"]) for call in models()[name].bind_tools([tool]).invoke(WEATHER).tool_calls
        ]
    return out


def pydantic_ai(url: str) -> Steps:
    """pydantic-ai: text, tools and typed output, by three APIs."""
    from pydantic import BaseModel
    from pydantic_ai import Agent
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.anthropic import AnthropicProvider
    from pydantic_ai.providers.openai import OpenAIProvider

    class Person(BaseModel):
        name: str
        age: int

    def models() -> dict[str, Any]:
        openai = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
        return {
            "chat": OpenAIChatModel(MODEL, provider=openai), "responses": OpenAIResponsesModel(MODEL, provider=openai),
            "messages": AnthropicModel(MODEL, provider=AnthropicProvider(api_key="none", base_url=url)),
        }  # fmt: skip

    def weather(name: str) -> str:
        agent: Any = Agent(models()[name])

        @agent.tool_plain
        def get_weather(city: str) -> str:
            return f"sunny in {city}"

        return str(agent.run_sync(WEATHER).output)

    out: Steps = {}
    for name in ("chat", "responses", "messages"):
        out[f"{name}: plain"] = lambda name=name: Agent(models()[name]).run_sync(HELLO).output
        out[f"{name}: tools"] = lambda name=name: weather(name)
        out[f"{name}: typed"] = lambda name=name: Agent(models()[name], output_type=Person).run_sync(HELLO).output
    return out


def litellm(url: str) -> Steps:
    """LiteLLM as a client: chat, responses, messages."""
    import litellm as it

    it.suppress_debug_info = True
    common: dict[str, Any] = {"api_key": "none", "num_retries": 0, "timeout": 20}
    turn = [{"role": "user", "content": HELLO}]

    def stream() -> str:
        chunks = it.completion(model=f"openai/{MODEL}", api_base=f"{url}/v1", messages=turn, stream=True, **common)
        return "".join(c.choices[0].delta.content or "" for c in chunks)

    return {
        "chat": lambda: it.completion(model=f"openai/{MODEL}", api_base=f"{url}/v1", messages=turn, **common)
        .choices[0].message.content,
        "stream": stream,
        "responses": lambda: it.responses(model=f"openai/{MODEL}", api_base=f"{url}/v1", input=HELLO, **common)
        .output[0].content[0].text,
        "messages": lambda: it.completion(model=f"anthropic/{MODEL}", api_base=url, messages=turn, **common)
        .choices[0].message.content,
    }  # fmt: skip


def llm(url: str) -> Steps:
    """The command `llm` with a model of its extra-openai-models.yaml."""

    def ask(*flags: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            row = f"- model_id: here\n  model_name: {MODEL}\n  api_base: {url}/v1\n  api_key_name: none\n"
            (Path(folder) / "extra-openai-models.yaml").write_text(row, "utf-8")
            done = subprocess.run(
                [sys.executable, "-m", "llm", "-m", "here", *flags, HELLO],
                env={**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": "none"},
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            return done.stdout.strip() or done.stderr.strip()[-200:]

    return {"stream": ask, "whole": lambda: ask("--no-stream")}


CLIENTS: dict[str, Callable[[str], Steps]] = {
    "openai chat": openai_chat, "openai responses": openai_responses, "openai-agents": openai_agents,
    "anthropic": anthropic, "langchain": langchain, "pydantic-ai": pydantic_ai, "litellm": litellm, "llm": llm,
}  # fmt: skip

if __name__ == "__main__":
    print(json.dumps({name: outcome(step) for name, step in CLIENTS[sys.argv[1]](sys.argv[2]).items()}))
