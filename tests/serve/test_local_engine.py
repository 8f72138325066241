"""The engine on ONNX Runtime computes what transformers computes, and does what OpenAI's fields ask."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import toy_gguf
from safetensors.torch import load_file, save_file

from serve.config import EMBEDDED
from serve.engine.local.conversion import converted, opened
from serve.engine.local.generation import score
from serve.engine.local.graph import Unsupported, check
from serve.engine.local.session import Session
from serve.engine.local.template import Template
from serve.engine.local.web import Engine, application
from serve.gguf import metadata
from serve.http.listener import Listener
from serve.http.site import Site

DATA = Path(__file__).parent.parent / "data"
BREAD = [{"role": "user", "content": "How do I keep bread fresh?"}]
GREEDY: dict[str, Any] = {"model": "toy", "messages": BREAD, "temperature": 0, "max_tokens": 24}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_CACHE", str(folder / "cache"))
        yield toy_gguf.write(folder / "toy.gguf")


@pytest.fixture(scope="module")
def engine(file: Path) -> Iterator[Engine]:
    it = Engine(file, "toy", 1)
    yield it
    it.scheduler.stop()


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    started, stopped = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        server = Listener(Site({}, application(engine)), drain_s=1)
        await server.start([listener])
        started.set()
        await stopped.wait()
        await server.stop()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
        thread.start()
        assert started.wait(60), "the server does not start"
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        loop.call_soon_threadsafe(stopped.set)
        thread.join(60)
    loop.close()


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as it:
        yield it


# What it computes


def test_log_probabilities_are_those_of_transformers(engine: Engine) -> None:
    """The file holds what transformers 5.23 computes in float32 with the embedded model's own files."""
    expected = json.loads((DATA / "toy_logprobs.json").read_text("utf-8"))
    ids = engine.tokenizer.encode(expected["text"], add_special_tokens=False).ids
    (told,) = asyncio.run(engine.scheduler.result(score(engine.session, ids, 1)))
    assert [it.token for it in told] == ids
    difference = np.abs(np.array([it.logprob for it in told[1:]]) - np.array(expected["logprobs"]))
    assert difference.max() < 0.15, "weights and products are of 8 bits, no more is lost"
    assert difference.mean() < 0.03


def test_a_prompt_in_pieces_gives_the_same_logits_and_a_second_one_reads_only_the_rest(file: Path) -> None:
    session = Session(converted(opened(file), print), 2, 1)
    first = list(range(100, 160))
    slot = session.take(first)
    assert slot is not None
    whole = slot.read(first)[-1].copy()
    slot.busy = False
    again = session.take([*first[:20], 7, 8])
    assert again is not None
    assert again is not slot, "the longer text stays for whoever continues it"
    assert len(again.tokens) == 20
    again.cut(0)
    for at in range(0, 60, 20):
        last = again.read(first[at : at + 20])[-1]
    assert np.abs(whole - last).max() < 1e-4
    assert session.take([1, 2, 3]) is slot
    assert session.take([1, 2, 3]) is None, "all are busy"


def test_a_conversion_is_made_once_and_whole(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    said: list[str] = []
    place = converted(opened(file), said.append)
    assert any("%" in line for line in said)
    assert converted(opened(file), lambda line: pytest.fail(line)) == place
    assert [folder.name for folder in (tmp_path / "gguf").iterdir()] == [place.parent.name], "nothing else is left"


@pytest.mark.parametrize(
    ("change", "named"),
    [({"general.architecture": "gemma3"}, "gemma3"), ({"llama.expert_count": 8}, "expert_count"),
     ({"llama.rope.scaling.type": "yarn"}, "rope.scaling")],
)  # fmt: skip
def test_a_model_that_it_does_not_compute_is_refused(file: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(Unsupported, match=named):
        check({**metadata(file), **change})


# A folder of transformers


def bfloat16_copy(folder: Path, **changes: Any) -> Path:
    """The embedded model's folder as `trimtab export` writes it, with `changes` of its config.json."""
    shutil.copytree(EMBEDDED, folder)
    weights = {name: tensor.bfloat16() for name, tensor in load_file(EMBEDDED / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changes), "utf-8")
    (folder / "chat_template.jinja").write_text(toy_gguf.TEMPLATE, "utf-8")
    return folder


def test_a_folder_is_read_as_the_gguf_file_of_the_same_model(file: Path, tmp_path: Path) -> None:
    one, other = opened(file), opened(bfloat16_copy(tmp_path / "exported"))
    assert one.tensors == other.tensors
    for name in one.tensors:
        np.testing.assert_allclose(one.weights(name), other.weights(name), rtol=2**-8, err_msg=name)
    facts = {key for key in one.meta if key.startswith("llama.") and key in other.meta}
    assert {key: pytest.approx(one.meta[key]) for key in facts} == {key: other.meta[key] for key in facts}
    assert (one.bos, one.ends) == (other.bos, other.ends)
    words = "In 1984, the café sold 25 loaves."
    ids, same = (source.tokenizer.encode(words, add_special_tokens=False).ids for source in (one, other))
    assert ids == same
    assert Template(one.meta).render(BREAD) == Template(other.meta).render(BREAD)


def test_two_trainings_of_one_model_are_two_conversions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one tensor alone differs, as after a LoRA of few modules."""
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    folder = bfloat16_copy(tmp_path / "model")
    first = converted(opened(folder), lambda _: None)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.self_attn.v_proj.weight"][0, 0] += 1
    save_file(weights, folder / "model.safetensors")
    assert converted(opened(folder), lambda _: None) != first


def test_a_template_may_mark_what_a_loss_counts() -> None:
    """As the trainers' own templates do: `{% generation %}` is transformers', and no part of Jinja."""
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}!{% endfor %}"
    assert Template({"tokenizer.chat_template": source}).render(BREAD) == f"{BREAD[0]['content']}!"


@pytest.mark.parametrize(
    ("change", "named"),
    [({"model_type": "qwen2"}, "qwen2"), ({"hidden_act": "gelu"}, "gelu"), ({"head_dim": 48}, "heads of 48"),
     ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope.scaling")],
)  # fmt: skip
def test_a_folder_that_it_does_not_compute_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(Unsupported, match=named):
        check((found := opened(bfloat16_copy(tmp_path / "other", **change))).meta, frozenset(found.tensors))


# What it does with a request


def test_stream_and_whole_answer_are_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY)
    chunks = list(client.chat.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens <= 24
    assert whole.usage.prompt_tokens_details is not None
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")


def test_a_stop_string_ends_the_answer_and_is_not_in_it(client: openai.OpenAI) -> None:
    text = client.chat.completions.create(**GREEDY).choices[0].message.content or ""
    stop = text[8:14]
    cut = client.chat.completions.create(**GREEDY, stop=[stop, "\x00"])
    assert cut.choices[0].message.content == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    streamed = client.chat.completions.create(**GREEDY, stop=stop, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in streamed if c.choices) == text[: text.index(stop)]


def test_the_same_seed_gives_the_same_answers_and_another_others(client: openai.OpenAI) -> None:
    def answers(seed: int) -> list[str | None]:
        asked = {**GREEDY, "temperature": 1.5, "n": 3, "seed": seed}
        return [choice.message.content for choice in client.chat.completions.create(**asked).choices]

    first = answers(1)
    assert answers(1) == first
    assert len(set(first)) == 3
    assert answers(2) != first


def test_several_streamed_choices_are_told_apart(client: openai.OpenAI) -> None:
    texts = {0: "", 1: ""}
    asked = {**GREEDY, "temperature": 1.5, "n": 2, "seed": 5}
    for chunk in client.chat.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(texts.values()) == [c.message.content for c in client.chat.completions.create(**asked).choices]


def test_penalties_and_biases_change_what_is_said(client: openai.OpenAI, engine: Engine) -> None:
    plain = client.chat.completions.create(**GREEDY).choices[0].message.content
    for field in ({"frequency_penalty": 2.0}, {"presence_penalty": 2.0}, {"extra_body": {"repetition_penalty": 2.0}}):
        assert client.chat.completions.create(**GREEDY, **field).choices[0].message.content != plain  # type: ignore[call-overload]
    (token, *_) = engine.tokenizer.encode("bread", add_special_tokens=False).ids
    biased = client.chat.completions.create(**{**GREEDY, "max_tokens": 2}, logit_bias={str(token): 100})
    assert biased.choices[0].message.content == engine.spell(token) * 2


def test_top_p_and_top_k_of_one_are_greedy(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(**GREEDY).choices[0].message.content
    for field in ({"top_p": 0.0001}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1.0}}):
        asked = {**GREEDY, "temperature": 2.0, **field}
        assert client.chat.completions.create(**asked).choices[0].message.content == plain


def test_log_probabilities_are_told_with_alternatives(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=2).choices[0]
    assert choice.logprobs is not None
    entries = choice.logprobs.content or []
    assert "".join(entry.token for entry in entries) == choice.message.content
    assert all(entry.logprob == max(it.logprob for it in entry.top_logprobs) for entry in entries), "it was greedy"


def test_a_prompts_own_log_probabilities_are_told(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "toy", "prompt": ["Bread is food.", "Bread"], "echo": True, "logprobs": 1}
    one, two = client.completions.create(**asked, max_tokens=0).choices
    assert one.text.endswith("Bread is food.")
    assert one.logprobs is not None
    assert one.logprobs.token_logprobs is not None
    assert one.logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in one.logprobs.token_logprobs[1:])
    assert one.logprobs.tokens is not None
    assert two.logprobs is not None
    assert one.logprobs.token_logprobs[1] == pytest.approx((two.logprobs.token_logprobs or [])[1], abs=0.05)


@pytest.mark.parametrize(
    ("field", "value"),
    [("tools", [{"type": "function"}]), ("response_format", {"type": "json_object"}), ("temperature", "hot"),
     ("n", 0), ("stop", 5), ("logit_bias", {"bread": 1}), ("top_logprobs", 2), ("invented", 1), ("audio", {})],
)  # fmt: skip
def test_what_it_cannot_do_is_refused_by_name(url: str, field: str, value: Any) -> None:
    refused = httpx.post(f"{url}/v1/chat/completions", json={**GREEDY, field: value}, timeout=60)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == field


def test_too_long_a_prompt_and_an_odd_chat_are_refused(url: str) -> None:
    for messages, code in (
        ([{"role": "user", "content": "bread " * 5000}], "context_length_exceeded"),
        ([{"role": "nobody", "content": "x"}], "no_chat_template"),
    ):
        refused = httpx.post(f"{url}/v1/chat/completions", json={**GREEDY, "messages": messages}, timeout=60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, code)
    assert httpx.post(f"{url}/v1/chat/completions", content=b"{", timeout=60).status_code == 400


def test_answers_take_turns_and_one_that_is_left_frees_its_slot(client: openai.OpenAI, engine: Engine) -> None:
    long: dict[str, Any] = {**GREEDY, "max_tokens": 3000, "extra_body": {"ignore_eos": True}}
    streams = [client.chat.completions.create(**long, stream=True) for _ in range(4)]
    for stream in streams:
        assert next(iter(stream)).choices
        stream.close()
    assert client.chat.completions.create(**GREEDY).choices[0].message.content
    give_up = time.monotonic() + 60
    while any(slot.busy for slot in engine.session.slots):
        assert time.monotonic() < give_up, "an answer that nobody reads goes on"
        time.sleep(0.01)


def test_models_and_health_answer(url: str) -> None:
    (card,) = httpx.get(f"{url}/v1/models", timeout=60).json()["data"]
    assert (card["id"], card["max_model_len"]) == ("toy", 4096)
    assert json.loads(httpx.get(f"{url}/health", timeout=60).text) == {"status": "ok"}
