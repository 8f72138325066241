"""The embedded model behind the real command, as a newcomer meets it: `trimtab serve`, then openai-python."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.serve.conftest import Running

pytestmark = pytest.mark.slow

BREAD = [{"role": "user", "content": "How do I keep bread fresh?"}]


@pytest.fixture(scope="module")
def server(embedded: Running) -> Running:
    return embedded


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as it:
        yield it


def test_it_answers_with_urial_by_default(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="trimtab-tiny", messages=BREAD, max_tokens=24)
    assert raw.headers["x-trimtab-applied"] == "urial=applied(3)"
    answer = raw.parse()
    assert answer.model == "trimtab-tiny"
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 500
    assert answer.usage.completion_tokens <= 24


def test_streamed_and_whole_answers_are_the_same(client: openai.OpenAI) -> None:
    asked: Any = {"model": "trimtab-tiny", "messages": BREAD, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    pieces = [
        c.choices[0].delta.content or "" for c in client.chat.completions.create(**asked, stream=True) if c.choices
    ]
    assert "".join(pieces) == whole
    assert len(pieces) > 3


def test_a_second_turn_is_answered(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="trimtab-tiny", messages=BREAD, max_tokens=16).choices[0].message
    chat: Any = [*BREAD, first, {"role": "user", "content": "And cheese?"}]
    assert client.chat.completions.create(model="trimtab-tiny", messages=chat, max_tokens=16).choices


def test_usage_comes_last_in_a_stream_that_asks_for_it(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="trimtab-tiny", messages=BREAD, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_temperature_is_heeded_and_a_seed_repeats(client: openai.OpenAI) -> None:
    def said(seed: int, temperature: float) -> str | None:
        answer = client.chat.completions.create(
            model="trimtab-tiny", messages=BREAD, max_tokens=24, temperature=temperature, seed=seed
        )
        return answer.choices[0].message.content

    assert said(1, 1.2) == said(1, 1.2)
    assert said(1, 1.2) != said(2, 1.2)
    assert said(1, 0) == said(2, 0)


def test_a_client_stop_ends_the_answer(client: openai.OpenAI) -> None:
    asked: Any = {"model": "trimtab-tiny", "messages": BREAD, "max_tokens": 40}
    whole = client.chat.completions.create(**asked).choices[0].message.content or ""
    stop = whole[10:14]
    cut = client.chat.completions.create(**asked, stop=[stop]).choices[0]
    assert cut.message.content == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2), ("logprobs", True), ("response_format", {"type": "json_object"}), ("presence_penalty", 0.5),
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": {}}}]),
    ],
)  # fmt: skip
def test_what_the_engine_cannot_do_is_refused_by_name(client: openai.OpenAI, field: str, value: Any) -> None:
    asked: Any = {"model": "trimtab-tiny", "messages": BREAD, field: value}
    with pytest.raises(openai.BadRequestError, match=field):
        client.chat.completions.create(**asked)


def test_an_image_is_refused(client: openai.OpenAI) -> None:
    image: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError, match="image"):
        client.chat.completions.create(model="trimtab-tiny", messages=[{"role": "user", "content": [image]}])


def test_a_raw_chat_names_the_policies_that_would_work(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="urial, urial-helpful, urial-plain"):
        client.chat.completions.create(model="trimtab-tiny", messages=BREAD, extra_headers={"X-Trimtab-Policy": "raw"})


def test_raw_completions_are_relayed(client: openai.OpenAI) -> None:
    raw: Any = {"X-Trimtab-Policy": "raw"}
    answer = client.completions.create(
        model="trimtab-tiny", prompt="It was a dark", max_tokens=8, temperature=0, extra_headers=raw
    )
    assert answer.choices[0].text
    pieces = client.completions.create(
        model="trimtab-tiny", prompt="It was a dark", max_tokens=8, temperature=0, stream=True, extra_headers=raw
    )
    assert "".join(piece.choices[0].text for piece in pieces) == answer.choices[0].text


def test_another_model_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="trimtab-tiny"):
        client.chat.completions.create(model="gpt-4o", messages=BREAD)


def test_no_path_of_this_machine_reaches_a_client(server: Running, client: openai.OpenAI) -> None:
    raw = client.completions.with_raw_response.create(
        model="trimtab-tiny", prompt="x", max_tokens=2, extra_headers={"X-Trimtab-Policy": "raw"}
    )
    shown = raw.text + str(server.get("/v1/models")) + str(raw.headers)
    assert str(Path(__file__).parent.parent.parent) not in shown


def test_a_killed_engine_comes_back_by_itself(server: Running, client: openai.OpenAI) -> None:
    engine = next(
        p for p in server.family() if "transformers" in " ".join(p.cmdline()) and "guard" not in " ".join(p.cmdline())
    )
    engine.send_signal(signal.SIGKILL)
    server.wait(503, 5)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="trimtab-tiny", messages=BREAD, max_tokens=4)
    assert caught.value.status_code == 503
    assert "main" in str(caught.value)
    server.wait(200)
    assert client.chat.completions.create(model="trimtab-tiny", messages=BREAD, max_tokens=4).choices


def test_nothing_is_left_of_a_server_that_is_killed(tmp_path: Path) -> None:
    running = Running(tmp_path, "--model", "trimtab-tiny", "--engine", "transformers")
    running.wait(200)
    family = running.family()
    assert len(family) >= 3  # a worker, the guard, the engine
    running.process.kill()
    running.process.wait(timeout=5)
    _, left = psutil.wait_procs(family, timeout=5)
    running.stop()
    assert left == []
