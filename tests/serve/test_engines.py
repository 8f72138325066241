"""What a worker knows of an engine, and how it asks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prompt_opt.core import Message, Policy, Prompt
from serve.config import Config, ConfigError, Engine, Server
from serve.dialects import openai_chat, wire
from serve.engine.features import FEATURES
from serve.engine.live import LiveEngine
from serve.errors import BadRequest, Unavailable

URL = Engine("main", url="http://x")


def request(**fields: Any) -> wire.Request:
    return wire.parse(json.dumps({"messages": [{"role": "user", "content": "x"}], **fields}).encode(), Server())


def test_an_engine_by_url_is_ready_and_a_launched_one_is_when_the_parent_says_so() -> None:
    LiveEngine(URL).require_ready()
    engine = LiveEngine(Engine("main", model="m", launcher="vllm"))
    with pytest.raises(Unavailable, match="'main' is starting"):
        engine.require_ready()
    engine.update({"state": "ready", "url": "http://y", "model": "path/m@main"})
    engine.require_ready()
    assert (engine.url, engine.name_for("m"), engine.name_for("")) == ("http://y", "path/m@main", "path/m@main")
    engine.update({"state": "down", "reason": "was killed by SIGKILL"})
    with pytest.raises(Unavailable, match="down: was killed by SIGKILL; try again soon"):
        engine.require_ready()


@pytest.mark.parametrize(
    ("fields", "feature"),
    [
        ({"n": 2}, "n"), ({"logprobs": True}, "logprobs"), ({"logprobs": 0}, "logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"), ({"tools": [{}]}, "tools"), ({"echo": True}, "echo"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"presence_penalty": 0.5}, "presence_penalty"), ({"reasoning_effort": "low"}, "reasoning_effort"),
    ],
)  # fmt: skip
def test_a_used_feature_is_refused_and_an_idle_one_is_not(fields: dict[str, Any], feature: str) -> None:
    engine = LiveEngine(Engine("main", url="http://x", supports=()))
    with pytest.raises(BadRequest, match=f"does not support '{feature}'"):
        engine.refuse(request(**fields), None)
    LiveEngine(Engine("main", url="http://x", supports=tuple(FEATURES))).refuse(request(**fields), None)
    engine.refuse(
        request(n=1, logprobs=False, top_logprobs=0, response_format={"type": "text"}, tools=[], presence_penalty=0.0,
                tool_choice="auto", echo=False, modalities=["text"], prediction=None),
        None,
    )  # fmt: skip


def test_media_are_seen_in_the_messages() -> None:
    engine = LiveEngine(Engine("main", url="http://x", supports=()))
    for kind, feature in (("image_url", "images"), ("input_image", "images"), ("input_audio", "audio")):
        body = request(messages=[{"role": "user", "content": [{"type": kind}]}])
        with pytest.raises(BadRequest, match=feature):
            engine.refuse(body, openai_chat.chat(body, Server()))


def test_vllm_is_known_by_its_models_and_tells_its_context() -> None:
    engine = LiveEngine(URL)
    engine.learn([{"id": "m", "owned_by": "vllm", "max_model_len": 4096}, {"id": 5}, {}])
    assert (engine.kind, engine.context, engine.names) == ("vllm", 4096, ("m",))
    told = LiveEngine(Engine("main", url="http://x", kind="openai", context=10))
    told.learn([{"id": "m", "owned_by": "vllm", "max_model_len": 4096}])
    assert (told.kind, told.context) == ("openai", 10)


def test_extensions_go_where_they_are_known() -> None:
    ours = {"temperature": 0.0, "repetition_penalty": 1.2, "max_tokens": 5}
    clients = {**ours, "top_k": msgspec.Raw(b"7")}
    assert LiveEngine(Engine("m", url="http://x", kind="vllm")).adapt(clients) == clients
    # An engine of unknown make gets what the client itself wrote, not what a profile adds.
    assert LiveEngine(URL).adapt(clients) == {"temperature": 0.0, "max_tokens": 5, "top_k": msgspec.Raw(b"7")}
    adapted = LiveEngine(Engine("m", url="http://x", kind="transformers")).adapt(clients)
    generation = json.loads(adapted["generation_config"])
    assert generation["repetition_penalty"] == 1.2
    assert generation["do_sample"] is False
    assert "top_k" not in generation  # its validation refuses sampling settings without sampling
    clients["temperature"] = 0.5
    sampled = json.loads(
        LiveEngine(Engine("m", url="http://x", kind="transformers")).adapt(clients)["generation_config"]
    )
    assert (sampled["do_sample"], sampled["temperature"], sampled["top_k"]) == (True, 0.5, 7)


def test_without_a_tokenizer_tokens_are_estimated_on_the_safe_side() -> None:
    engine = LiveEngine(URL)
    assert engine.count("four" * 30) == 40
    assert engine.count("法" * 10) == 10
    assert engine.prompt_tokens(Prompt((), messages=(Message("user", "abc"),))) > 1


def test_files_of_a_model_that_cannot_be_read_are_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"engine\.main: its model or tokenizer cannot be read"):
        LiveEngine(Engine("main", model=str(tmp_path), launcher="vllm"))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"engine\.main"):
        LiveEngine(Engine("main", url="http://x", tokenizer=str(tmp_path)))


def test_a_base_model_is_one_without_a_template_and_names_what_works(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 2048}')
    spec = Engine("main", model=str(tmp_path), launcher="transformers")
    engine = LiveEngine(spec)
    assert (engine.base, engine.context) == (True, 2048)
    policies = {
        "raw": Policy("raw"),
        "good": Policy("good", render="base"),
        "far": Policy("far", "other", render="base"),
    }
    with pytest.raises(BadRequest, match=r"renders the chat as text \(good\)"):
        engine.refuse_chat(Config(Server(), {"main": spec}, {}, policies))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    LiveEngine(spec).refuse_chat(Config(Server(), {"main": spec}, {}, policies))
