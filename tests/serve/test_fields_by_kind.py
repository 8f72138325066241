"""Every sampling field of OpenAI's chats, before each kind of engine that can run here: it does what it says, or is
refused by name. None is accepted and ignored."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest
import toy_gguf

from tests.serve.conftest import Running

pytestmark = pytest.mark.slow
Answer = Mapping[str, Any]
LLAMA = os.environ.get("TRIMTAB_LLAMA_PYTHON", "")  # an interpreter with llama-cpp-python[server]
BREAD = [{"role": "user", "content": "How do I keep bread fresh?"}]
GREEDY: dict[str, Any] = {"messages": BREAD, "temperature": 0, "max_tokens": 12, "seed": 1}
CONFIG = """
[engine.main]
model = "{model}"
launcher = "{launcher}"
{more}
[policy.plain]
render = "{render}"
stages = {stages}
profile = "plain"
"""


@pytest.fixture(scope="module", params=["onnx", "llama.cpp", "transformers"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server before an engine of one kind with the toy model, whose default policy adds as little as it can."""
    kind, folder = request.param, tmp_path_factory.mktemp("fields")
    if kind == "llama.cpp" and not LLAMA:
        pytest.skip("TRIMTAB_LLAMA_PYTHON names no interpreter with llama-cpp-python[server]")
    gguf = kind != "transformers"
    config = folder / "trimtab.toml"
    config.write_text(
        CONFIG.format(
            model=toy_gguf.write(folder / "toy.gguf") if gguf else "trimtab-tiny",
            launcher=kind,
            more=f'python = "{LLAMA}"' if kind == "llama.cpp" else "",
            render="chat" if gguf else "base",
            stages="[]" if gguf else '["urial"]',
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_CACHE", str(folder / "cache"))
        running = Running(folder, "--config", str(config), "--policy", "plain")
    running.wait(200)
    yield running.url
    running.stop()


def ask(url: str, **fields: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json={**GREEDY, **fields}, timeout=60)


def text(answer: Answer) -> str:
    return str(answer["choices"][0]["message"]["content"])


# field -> what it is sent with, and what shows in the answer that it was heeded (beside the answer without it).
FIELDS: Mapping[str, tuple[dict[str, Any], Callable[[Answer, Answer], bool]]] = {
    "n": ({"n": 2}, lambda with_, without: len(with_["choices"]) == 2),
    "stop": ({"stop": ["e"]}, lambda with_, without: "e" not in text(with_)),
    "stop list": ({"stop": ["zzz", "e", "t"]}, lambda with_, without: not {"e", "t"} & set(text(with_))),
    "top_k": ({"top_k": 1, "temperature": 1.5}, lambda with_, without: text(with_) == text(without)),
    "min_p": ({"min_p": 1.0, "temperature": 1.5}, lambda with_, without: text(with_) == text(without)),
    "repetition_penalty": (
        {"repetition_penalty": 1.9, "max_tokens": 40},
        lambda with_, without: text(with_) != text(without),
    ),
    "tools": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], "max_tokens": 40},
        lambda with_, without: with_["usage"]["prompt_tokens"] > without["usage"]["prompt_tokens"],
    ),
    "stop_token_ids": ({"stop_token_ids": [7]}, lambda with_, without: False),
    "guided_json": ({"guided_json": {"type": "object"}}, lambda with_, without: False),
    "max_tokens": ({"max_tokens": 3}, lambda with_, without: with_["usage"]["completion_tokens"] <= 3),
    "max_completion_tokens": (
        {"max_completion_tokens": 3, "max_tokens": None},
        lambda with_, without: with_["usage"]["completion_tokens"] <= 3,
    ),
    "top_p": ({"top_p": 1e-6, "temperature": 1.5}, lambda with_, without: text(with_) == text(without)),
    "temperature": ({"temperature": 1.9}, lambda with_, without: text(with_) != text(without)),
    "logit_bias": ({"logit_bias": {"300": 100}}, lambda with_, without: text(with_) != text(without)),
    "presence_penalty": (
        {"presence_penalty": 2, "max_tokens": 40},
        lambda with_, without: text(with_) != text(without),
    ),
    "frequency_penalty": (
        {"frequency_penalty": 2, "max_tokens": 40},
        lambda with_, without: text(with_) != text(without),
    ),
    "logprobs": ({"logprobs": True}, lambda with_, without: bool(with_["choices"][0]["logprobs"]["content"])),
    "top_logprobs": (
        {"logprobs": True, "top_logprobs": 2},
        lambda with_, without: len(with_["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2,
    ),
    "response_format": (
        {"response_format": {"type": "json_object"}, "max_tokens": 40},
        lambda with_, without: text(with_).lstrip()[:1] == "{",
    ),
}
# Fields that none of these engines has: they change what is asked for, so that an answer without them would be wrong.
REFUSED: Mapping[str, Any] = {
    "best_of": 2,
    "functions": [{"name": "f", "parameters": {}}],
    "modalities": ["text", "audio"],
    "prediction": {"type": "content", "content": "x"},
    "reasoning_effort": "low",
    "verbosity": "low",
    "web_search_options": {"search_context_size": "low"},
}


# Fields that are about a request and not about its answer.
ABOUT: Mapping[str, Any] = {
    "user": "u-1",
    "safety_identifier": "u-1",
    "prompt_cache_key": "k",
    "metadata": {"a": "b"},
    "service_tier": "default",
    "store": False,
    "parallel_tool_calls": True,
    "logprobs": False,
    "n": 1,
}


@pytest.fixture(scope="module")
def plain(url: str) -> dict[int, Answer]:
    """The answers without any field, by length."""
    return {most: ask(url, max_tokens=most).raise_for_status().json() for most in (12, 40)}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_is_heeded_or_refused_by_name(url: str, plain: dict[int, Answer], field: str) -> None:
    fields, heeded = FIELDS[field]
    answer = ask(url, **fields)
    if answer.status_code != 200:
        assert answer.status_code in (400, 422), answer.text
        assert field in answer.text or "logprobs" in field, answer.text
        return
    assert heeded(answer.json(), plain[fields.get("max_tokens") if fields.get("max_tokens") == 40 else 12])


def test_a_seed_is_heeded(url: str) -> None:
    texts = [text(ask(url, temperature=1.5, seed=seed).json()) for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_no_engine_here_has_is_refused_by_name(url: str, field: str) -> None:
    answer = ask(url, **{field: REFUSED[field]})
    assert answer.status_code == 400
    assert field in answer.text


@pytest.mark.parametrize("field", ABOUT)
def test_a_field_about_the_request_changes_no_answer(url: str, plain: dict[int, Answer], field: str) -> None:
    answer = ask(url, **{field: ABOUT[field]})
    assert answer.status_code == 200, answer.text
    assert text(answer.json()) == text(plain[12])


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_tells_its_usage_only_where_it_is_asked(url: str, usage: bool, request: pytest.FixtureRequest) -> None:
    if "llama.cpp" in request.node.name and usage:
        pytest.skip("streams of llama-cpp-python tell no usage (docs/guides/engines.md)")
    answer = ask(url, stream=True, stream_options={"include_usage": usage})
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    counted = [event["usage"] for event in events if event.get("usage")]
    assert [it["completion_tokens"] > 0 for it in counted] == [True] * usage
