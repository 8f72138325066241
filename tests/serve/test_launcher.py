"""The launcher chooses what fits the machine, starts it under a name that gives nothing away, and knows its health."""

import asyncio
import importlib.util
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toy_gguf

from serve.config import EMBEDDED, ConfigError, Engine
from serve.process import launcher
from serve.process.launcher import Launch, ask_health, command, free_port, resolve


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "secret place" / "tiny-base"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with every package of the local engine, no GPU and no vLLM; the folder returned is its PATH."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    monkeypatch.setenv("PATH", str(binaries))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    monkeypatch.setattr(launcher, "has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(launcher, "_missing_for_transformers", lambda: [])
    return binaries


def program(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_folder_is_served_under_its_own_name_from_beside_it(machine: Path, model: Path) -> None:
    launch = command(resolve(Engine("main", model=str(model), launcher="auto")), 4711)
    assert launch.model_name == "tiny-base"
    assert launch.cwd == str(model.parent)
    assert "secret place" not in " ".join(launch.argv)
    assert launch.argv[1:5] == ("-m", "transformers.cli.transformers", "serve", "tiny-base")
    assert launch.base_url == "http://127.0.0.1:4711"
    assert launch.env["HF_HUB_OFFLINE"] == "1"
    assert launch.env["PYTHONSAFEPATH"] == "1"


def test_relative_folder_and_dot_keep_the_folder_name(
    machine: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model)
    launch = command(resolve(Engine("main", model=".", launcher="transformers")), 1)
    assert (launch.model_name, launch.cwd) == ("tiny-base", str(model.parent))


def test_a_cpu_engine_gets_a_thread_for_each_core_unless_told(
    machine: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    engine = Engine("main", model=str(model), launcher="transformers")
    assert command(resolve(engine), 1).env["OMP_NUM_THREADS"] == "4"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert command(resolve(engine), 1).env["OMP_NUM_THREADS"] == "3"
    monkeypatch.setattr(launcher, "_has_accelerator", lambda: True)
    assert "OMP_NUM_THREADS" not in command(resolve(engine), 1).env


def test_hub_id_may_use_the_network(machine: Path) -> None:
    launch = command(resolve(Engine("main", model="someone/model", launcher="transformers")), 1)
    assert launch.model_name == "someone/model"
    assert "HF_HUB_OFFLINE" not in launch.env


def test_word_of_the_environment_on_offline_is_kept(
    machine: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    launch = command(resolve(Engine("main", model=str(model), launcher="transformers")), 1)
    assert launch.env["HF_HUB_OFFLINE"] == "0"


def test_auto_is_vllm_only_with_a_gpu_and_vllm(machine: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine("main", model=str(model), launcher="auto")
    assert resolve(engine).launcher == "transformers"
    monkeypatch.setattr(launcher, "has_nvidia_gpu", lambda: True)
    assert resolve(engine).launcher == "transformers"
    vllm = program(machine, "vllm")
    assert resolve(engine).launcher == "vllm"
    launch = command(resolve(engine), 4711)
    assert launch.argv == (
        *(str(vllm), "serve", "tiny-base", "--host", "127.0.0.1", "--port", "4711"),
        *("--served-model-name", "tiny-base", "--enable-prefix-caching", "--enable-prompt-tokens-details"),
    )
    monkeypatch.setattr(launcher, "has_nvidia_gpu", lambda: False)
    assert resolve(engine).launcher == "transformers"


def test_vllm_beside_our_python_comes_before_the_path(machine: Path, model: Path) -> None:
    program(machine, "vllm")
    beside = program(Path(sys.executable).parent, "vllm")
    launch = command(resolve(Engine("main", model=str(model), launcher="vllm", served_name="house")), 1)
    assert launch.argv[0] == str(beside)
    assert launch.model_name == "house"


def test_vllm_without_a_script_runs_as_a_module(machine: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package := machine / "vllm").mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(machine))
    launch = command(resolve(Engine("main", model=str(model), launcher="vllm")), 1)
    assert launch.argv[1:5] == ("-m", "vllm.entrypoints.openai.api_server", "--model", "tiny-base")


def adapter(folder: Path, rank: int) -> str:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return str(folder)


def test_vllm_of_another_environment_gets_sizes_adapters_and_more(machine: Path, model: Path) -> None:
    python = program(machine, "other-python")
    engine = Engine(
        "main", model=str(model), python=str(python), args=("--config", "vllm.yaml"), tensor_parallel=2,
        pipeline_parallel=3, adapters={"a": adapter(machine / "one", 4), "b": adapter(machine / "two", 33)},
        launcher="auto",
    )  # fmt: skip
    engine = resolve(engine)
    assert engine.launcher == "vllm"
    argv = command(engine, 1).argv
    assert argv[:5] == (str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", "tiny-base")
    told = " ".join(argv[5:])
    assert "--tensor-parallel-size 2 --pipeline-parallel-size 3" in told
    assert f"--max-lora-rank 64 --lora-modules a={machine / 'one'} b={machine / 'two'}" in told
    assert told.endswith("--config vllm.yaml")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"python": "/no/such/python"}, "python: '/no/such/python' is not a program"),
        ({"adapters": {"a": "/no/such"}}, "adapters.a: '/no/such' holds no LoRA adapter"),
        ({"adapters": {"a": "/no/such"}, "launcher": "transformers"}, "adapters is for vllm"),
        ({"tensor_parallel": 2, "launcher": "transformers"}, "tensor_parallel is for vllm"),
    ],
)
def test_what_vllm_could_not_use_is_told_before_it_starts(
    machine: Path, model: Path, settings: dict[str, Any], says: str
) -> None:
    program(machine, "vllm")
    with pytest.raises(ConfigError, match=says):
        resolve(Engine("main", model=str(model), **{"launcher": "vllm", **settings}))


def test_missing_vllm_is_named_with_its_cure(machine: Path, model: Path) -> None:
    with pytest.raises(ConfigError, match=r"pip install .*\[vllm\]'"):
        resolve(Engine("main", model=str(model), launcher="vllm"))


def test_missing_packages_are_named_with_their_cure(
    machine: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"torch, transformers, .*pip install .*\[local\]'"):
        resolve(Engine("main", model=str(model), launcher="transformers"))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("", "is missing"),
        ("no/such/folder/here", "no such folder"),
        ("./nothing", "no such folder"),
        ("gpt2", "not a hub id"),
        ("{tmp}", "without a config.json"),
        ("{tmp}/file.gguf", "is not a GGUF file"),
        ("{tmp}/name@place", "rename the folder"),
    ],
)
def test_model_that_can_not_be_is_refused_at_boot(machine: Path, tmp_path: Path, model: str, says: str) -> None:
    (tmp_path / "file.gguf").touch()
    (tmp_path / "name@place").mkdir()
    (tmp_path / "name@place" / "config.json").touch()
    with pytest.raises(ConfigError, match=says):
        resolve(Engine("main", model=model.replace("{tmp}", str(tmp_path)), launcher="auto"))


def test_own_command_is_used_verbatim_but_for_its_placeholders(machine: Path) -> None:
    program(machine, "docker")
    own = ("docker", "run", "-p", "127.0.0.1:{port}:80", "--name={name}", "{model}", '--json={"a": {"b": 1}}')
    launch = command(resolve(Engine("main", model="/m/x", command=own, served_name="house")), 99)
    assert launch.argv == (
        *("docker", "run", "-p", "127.0.0.1:99:80", "--name=house", "/m/x"),
        '--json={"a": {"b": 1}}',
    )
    assert launch.health_paths == ("/health", "/v1/models")
    assert launch.model_name == "house"


def test_own_command_that_is_told_no_name_calls_the_model_what_it_was_told(machine: Path) -> None:
    program(machine, "serve-it")
    launch = command(Engine("main", model="/m/x", command=("serve-it", "{model}", "{port}")), 99)
    assert launch.model_name == "/m/x"


@pytest.mark.parametrize(
    ("own", "says"), [(("no-such-program", "{port}"), "is not a program"), (("there", "--x"), "where {port} goes")]
)
def test_own_command_that_can_not_work_is_refused(machine: Path, own: tuple[str, ...], says: str) -> None:
    program(machine, "there")
    with pytest.raises(ConfigError, match=says):
        resolve(Engine("main", command=own))


def test_gpu_that_is_hidden_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not launcher.has_nvidia_gpu()


@pytest.mark.parametrize(
    ("answers", "well"),
    [
        ({"/health": 200}, True),
        ({"/health": 503, "/v1/models": 200}, False),  # it knows /health and says no
        ({"/health": 404, "/v1/models": 200}, True),
        ({"/health": 404, "/v1/models": 401}, True),
        ({"/health": 404, "/v1/models": 404}, False),
    ],
)
async def test_health_is_asked_on_the_next_path_only_where_the_first_is_unknown(
    answers: dict[str, int], well: bool
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        writer.write(f"HTTP/1.1 {answers[path]} X\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        reason = await ask_health(launch_at(server.sockets[0].getsockname()[1]), 5)
    assert (reason == "") is well


async def test_what_does_not_answer_or_speaks_no_http_is_unwell() -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        await writer.drain()
        writer.close()

    assert "failed" in await ask_health(launch_at(free_port()), 5)
    async with await asyncio.start_server(silence, "127.0.0.1") as server:
        assert "within 0.1 s" in await ask_health(launch_at(server.sockets[0].getsockname()[1]), 0.1)
    async with await asyncio.start_server(nonsense, "127.0.0.1") as server:
        assert "HTTP" in await ask_health(launch_at(server.sockets[0].getsockname()[1]), 5)


def launch_at(port: int) -> Launch:
    return Launch("own", (), {}, None, f"http://127.0.0.1:{port}", ("/health", "/v1/models"), "m")


# A GGUF file


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / "weights").mkdir()
    return toy_gguf.write(tmp_path / "weights" / "toy.gguf")


def test_gguf_file_goes_to_llama_cpp_where_it_is_there_and_to_our_engine_where_it_is_not(
    machine: Path, weights: Path
) -> None:
    engine = Engine("main", model=str(weights), launcher="auto")
    ours = command(resolve(engine), 4711)
    assert ours.argv[1:3] == ("-m", "serve.engine.local")
    assert (ours.model_name, ours.health_paths) == ("toy", ("/health",))
    server = program(machine, "llama-server")
    launch = command(resolve(engine), 4711)
    assert launch.argv[:3] == (str(server), "-m", str(weights))
    assert launch.argv[launch.argv.index("--alias") + 1] == launch.model_name == "toy"
    assert launch.argv[launch.argv.index("-c") + 1] == "4096", "the model's own context"
    assert resolve(replace(engine, launcher="onnx")).launcher == "onnx"


def test_our_engine_serves_a_folder_of_transformers_too(machine: Path, tmp_path: Path) -> None:
    launch = command(resolve(Engine("main", model=str(EMBEDDED), launcher="onnx")), 4711)
    assert launch.argv[1:4] == ("-m", "serve.engine.local", str(EMBEDDED))
    assert launch.model_name == EMBEDDED.name
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ConfigError, match="not 'qwen2'"):
        resolve(Engine("main", model=str(tmp_path), launcher="onnx"))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ConfigError, match=r"without \*\.safetensors"):
        resolve(Engine("main", model=str(tmp_path), launcher="onnx"))


def test_llama_cpp_python_runs_in_the_environment_that_is_named(machine: Path, weights: Path) -> None:
    python = program(machine, "python-with-llama")
    engine = Engine("main", model=str(weights), launcher="llama.cpp", python=str(python), context=1024, served_name="m")
    launch = command(resolve(engine), 4711)
    assert launch.argv[:3] == (str(python), "-m", "llama_cpp.server")
    assert launch.argv[launch.argv.index("--n_ctx") + 1] == "1024"
    assert launch.argv[launch.argv.index("--model_alias") + 1] == launch.model_name == "m"
    assert launch.health_paths == ("/openapi.json",), "the others wait while it generates"


@pytest.mark.parametrize(
    ("launcher", "model", "says"),
    [
        ("llama.cpp", "{weights}", "llama-server on the PATH"),
        ("llama.cpp", "someone/model", "is not a GGUF file"),
        ("auto", "package:no-such-distribution-at-all", "is not installed"),
        ("onnx", "nowhere.gguf", "is no file"),
        ("onnx", "someone/model", "is not a GGUF file or a folder"),
    ],
)
def test_gguf_engine_that_cannot_start_is_refused_at_boot(
    machine: Path, weights: Path, launcher: Any, model: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve(Engine("main", model=model.replace("{weights}", str(weights)), launcher=launcher))


def test_model_of_another_architecture_wants_llama_cpp(machine: Path, tmp_path: Path) -> None:
    other = toy_gguf.write(tmp_path / "other.gguf", architecture="gemma3")
    with pytest.raises(ConfigError, match=r"'gemma3': install llama\.cpp"):
        resolve(Engine("main", model=str(other), launcher="auto"))
