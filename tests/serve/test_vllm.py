"""Real vLLM, launched by the real command: `engine.main.python` names an environment that has it.

TRIMTAB_VLLM_PYTHON is that environment's interpreter (.ci/run makes one). The engine takes a minute to start.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import psutil
import pytest
from tokenizers import Tokenizer

from serve.config import EMBEDDED
from tests.serve.conftest import Running

PYTHON = os.environ.get("TRIMTAB_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="TRIMTAB_VLLM_PYTHON names no environment with vLLM (.ci/run makes one)"),
]

BLOCK = 128  # tokens that vLLM's cache keeps or loses together on a CPU
BREAD: Any = [{"role": "user", "content": "How do I keep bread fresh?"}]
TEMPLATE = """\
{%- if tools %}<|im_start|>system
You may call these functions: {{ tools | tojson }}<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content or "" }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"day": {"type": "string", "enum": ["today", "tomorrow"]}},
            "required": ["day"],
            "additionalProperties": False,
        },
    },
}
CONFIG = """
[server]
policy = "text"
[engine.main]
model = "{model}"
python = "{python}"
adapters = {{ "tiny-lora" = "{adapter}" }}
args = ["--enforce-eager", "--max-model-len", "4096", "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
  # Or the toy goes on with blanks, which JSON allows.
  "--structured-outputs-config", '{{"backend": "xgrammar", "disable_any_whitespace": true}}']
[policy.text]
render = "base"
[policy.chat]
render = "chat"
[policy.bare]
render = "base"
profile = "plain"
[policy.apart]
render = "base"
cache_salt = "tenant"
[alias]
"aligned" = {{ policy = "text", model = "tiny-lora" }}
{keys}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("vllm")
    model, adapter = folder / "tiny-chat", folder / "adapter"
    shutil.copytree(EMBEDDED, model)
    (model / "chat_template.jinja").write_text(TEMPLATE)
    random_adapter(model, adapter)
    keys = "".join(
        f'[[key]]\nid = "{name}"\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n'
        'rights = ["raw", "traces", "metrics"]\n'
        for name in ("acme", "bolt")
    )
    (folder / "trimtab.toml").write_text(CONFIG.format(model=model, python=PYTHON, adapter=adapter, keys=keys))
    running = Running(folder, "--config", str(folder / "trimtab.toml"))
    running.wait(200, 400)
    yield running
    running.stop()


def random_adapter(model: Path, folder: Path) -> None:
    """A LoRA that changes what the model says: its second factor, which begins as zero, is noise."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model, local_files_only=True)
    with warnings.catch_warnings():  # peft asks transformers by a name that is going
        warnings.simplefilter("ignore", FutureWarning)
        lora = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, weight in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    lora.save_pretrained(folder)


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="acme", max_retries=0, timeout=120) as it:
        yield it


def blanks() -> dict[str, int]:
    """A bias against every token of nothing but blanks."""
    vocabulary = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    every = range(vocabulary.get_vocab_size())
    return {str(i): -100 for i in every if (text := vocabulary.decode([i])) and not text.strip()}


def by(policy: str) -> dict[str, str]:
    return {"x-trimtab-policy": policy}


def cached(answer: Any) -> int:
    details = answer.usage.prompt_tokens_details
    return (details and details.cached_tokens) or 0


def test_both_renders_and_raw_answer(client: openai.OpenAI) -> None:
    for policy, applied in (("text", "urial=applied(3)"), ("chat", "urial=applied(3)"), ("raw", "none")):
        raw = client.chat.completions.with_raw_response.create(
            model="tiny-chat", messages=BREAD, max_tokens=12, extra_headers=by(policy)
        )
        assert raw.headers["x-trimtab-applied"] == applied
        assert raw.parse().choices[0].message.content


@pytest.mark.parametrize("policy", ["text", "chat"])
def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI, policy: str) -> None:
    asked: Any = {
        "model": "tiny-chat", "messages": BREAD, "max_tokens": 24, "temperature": 0, "extra_headers": by(policy),
    }  # fmt: skip
    whole = client.chat.completions.create(**asked).choices[0].message.content
    pieces = [c.choices[0].delta.content or "" for c in client.chat.completions.create(**asked, stream=True)]
    assert "".join(pieces) == whole
    assert len([piece for piece in pieces if piece]) > 3


@pytest.mark.parametrize("policy", ["text", "chat"])
def test_n_and_logprobs(client: openai.OpenAI, policy: str) -> None:
    answer = client.chat.completions.create(
        model="tiny-chat", messages=BREAD, max_tokens=8, n=2, seed=3, temperature=1.0, logprobs=True, top_logprobs=2,
        extra_headers=by(policy),
    )  # fmt: skip
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].message.content != answer.choices[1].message.content
    tokens = answer.choices[0].logprobs
    assert tokens is not None
    assert tokens.content is not None
    assert 0 < len(tokens.content) <= 8
    assert all(token.logprob <= 0 and len(token.top_logprobs) >= 2 for token in tokens.content)


def test_a_tool_call_comes_through_the_chat_render(client: openai.OpenAI) -> None:
    """The toy would call nothing of its own accord: vLLM's grammar makes it, and every argument is one of the two."""
    answer = client.chat.completions.create(
        model="tiny-chat", messages=BREAD, max_tokens=120, tools=[WEATHER], temperature=0,
        logit_bias=blanks(),
        tool_choice={"type": "function", "function": {"name": "weather"}}, extra_headers=by("chat"),
    )  # fmt: skip
    calls = answer.choices[0].message.tool_calls
    assert calls, answer.choices[0].message.content
    assert calls[0].function.name == "weather"
    assert json.loads(calls[0].function.arguments)["day"] in ("today", "tomorrow")


@pytest.mark.parametrize("policy", ["text", "chat"])
def test_structured_output_is_what_the_schema_says(client: openai.OpenAI, policy: str) -> None:
    schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"],
              "additionalProperties": False}  # fmt: skip
    form: Any = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(
        model="tiny-chat", messages=BREAD, max_tokens=30, response_format=form, temperature=0, extra_headers=by(policy)
    )
    assert isinstance(json.loads(answer.choices[0].message.content or "")["sure"], bool)


def test_an_adapter_is_a_model_name_of_its_own(client: openai.OpenAI) -> None:
    assert "tiny-lora" in {model.id for model in client.models.list()}
    said = {}
    for model in ("tiny-chat", "tiny-lora", "aligned"):
        answer = client.chat.completions.create(
            model=model,
            messages=BREAD,
            max_tokens=16,
            temperature=0,
            extra_headers={} if model == "aligned" else by("text"),
        )
        said[model] = answer.choices[0].message.content
    assert said["tiny-lora"] == said["aligned"] != said["tiny-chat"]
    with pytest.raises(openai.NotFoundError, match="tiny-lora"):
        client.chat.completions.create(model="tiny-nothing", messages=BREAD, max_tokens=1)


def test_the_constant_part_is_in_the_cache_before_anybody_asks(client: openai.OpenAI, server: Running) -> None:
    """Warm-up sent it; every whole block of it is found, for a question never seen."""
    text = client.chat.completions.create(
        model="tiny-chat", messages=[{"role": "user", "content": "Why is the sky blue at noon?"}], max_tokens=1
    )
    other = client.chat.completions.create(
        model="tiny-chat", messages=[{"role": "user", "content": "Who were the Etruscans?"}], max_tokens=1
    )
    assert cached(text) == cached(other) > 0
    assert cached(text) % BLOCK == 0
    assert text.usage is not None
    assert cached(text) >= text.usage.prompt_tokens - BLOCK - 40


def test_tenants_share_no_block_and_a_tenant_shares_its_own(server: Running) -> None:
    question: Any = [{"role": "user", "content": "Tell me of the sea. " * 40}]

    def ask(tenant: str) -> int:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=tenant, max_retries=0, timeout=120) as client:
            answer = client.chat.completions.create(
                model="tiny-chat", messages=question, max_tokens=1, extra_headers=by("apart")
            )
        return cached(answer)

    constant = ask("acme")  # what warm-up put there, under acme's salt
    again = ask("acme")
    assert again >= constant + BLOCK
    assert ask("bolt") == constant  # its own warm-up, and nothing of acme's question


def test_what_vllm_found_in_its_cache_is_counted(client: openai.OpenAI, server: Running) -> None:
    before = hits(server)
    client.chat.completions.create(
        model="tiny-chat", messages=[{"role": "user", "content": "What do owls eat?"}], max_tokens=1
    )
    assert hits(server) >= before + BLOCK


@pytest.mark.parametrize("policy", ["raw", "chat", "text"])
def test_responses_are_answered_and_streamed(client: openai.OpenAI, server: Running, policy: str) -> None:
    """Natively, but for the base render."""
    asked: Any = {"model": "tiny-chat", "input": "How do I keep bread fresh?", "max_output_tokens": 16,
                  "temperature": 0, "extra_headers": by(policy)}  # fmt: skip
    raw = client.responses.with_raw_response.create(**asked)
    answer = raw.parse()
    assert raw.headers["x-trimtab-applied"] == ("none" if policy == "raw" else "urial=applied(3)")
    assert answer.output_text
    assert answer.usage is not None
    assert answer.usage.output_tokens == 16
    events = list(client.responses.create(**asked, stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == answer.output_text


@pytest.mark.parametrize("policy", ["raw", "chat", "text"])
def test_messages_are_answered_and_streamed(server: Running, policy: str) -> None:
    """Natively, but for the base render."""
    asked: Any = {"model": "tiny-chat", "messages": BREAD, "max_tokens": 16, "system": "Be brief.",
                  "extra_body": {"temperature": 0}, "extra_headers": by(policy)}  # fmt: skip
    with anthropic.Anthropic(base_url=server.url, api_key="acme", max_retries=0, timeout=120) as client:
        answer = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            text = "".join(stream.text_stream)
        assert answer.content[0].type == "text"
        assert answer.content[0].text == text
        assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 16)
        counted = client.messages.count_tokens(
            model="tiny-chat", messages=BREAD, system="Be brief.", extra_headers=by(policy)
        )
    usage = answer.usage
    used = usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    assert abs(counted.input_tokens - used) <= (16 if policy == "text" else 0)


def test_the_chats_constant_part_is_found_by_responses_and_messages(client: openai.OpenAI, server: Running) -> None:
    """vLLM renders all three alike, so what one of them left in its cache serves the others."""
    asked: Any = {"model": "tiny-chat", "extra_headers": by("chat")}
    client.chat.completions.create(messages=[{"role": "user", "content": "Why is it dark?"}], max_tokens=1, **asked)
    before = hits(server)
    chat = client.chat.completions.create(messages=[{"role": "user", "content": "Who was Ada?"}], max_tokens=1, **asked)
    found = hits(server) - before
    assert found > BLOCK
    before = hits(server)
    client.responses.create(input="Where do bees go?", max_output_tokens=16, **asked)
    assert hits(server) - before == found == cached(chat)
    before = hits(server)
    with anthropic.Anthropic(base_url=server.url, api_key="acme", max_retries=0, timeout=120) as it:
        it.messages.create(messages=[{"role": "user", "content": "When do cats sleep?"}], max_tokens=1, **asked)
    assert hits(server) - before == found


def hits(server: Running) -> float:
    lines = [p.cmdline() for p in server.family()]
    port = next(line[line.index("--port") + 1] for line in lines if "vllm.entrypoints.openai.api_server" in line)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        found = re.search(r"^vllm:prefix_cache_hits_total\{.*\} (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_every_process_of_vllm_goes_with_the_parent(tmp_path: Path, server: Running) -> None:
    """Last, for it ends the server."""
    family = server.family()
    assert len(family) > 2
    server.process.kill()
    server.process.wait(30)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
