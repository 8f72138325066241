"""The arms of the effects table: policies, written as a configuration of Trimtab, and their profiles.

Every arm decodes in the same way (what the plan of the run says), so that only the prompt differs: the engine counts as
one of kind "openai", to which Trimtab sends no penalty on repetition. Arms named `penalty` have the profiles' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from prompt_opt import profile

# name -> stages, profile, render
CHAT: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "penalty": (("urial",), "plain", "chat"),
    "instruction": (("urial",), "instruction", "chat"),
    "default": (("urial",), "default", "chat"),
    "default-penalty": (("urial",), "default", "chat"),
    "helpful": (("urial",), "helpful", "chat"),
    "inst-1k": (("urial",), "inst-1k", "chat"),
    "inst-1k-help": (("urial",), "inst-1k-help", "chat"),
    "default-1": (("urial",), "default-1", "chat"),
    "default-2": (("urial",), "default-2", "chat"),
    "opo-spec": (("opo",), "plain", "chat"),
    "opo-always": (("opo",), "plain", "chat"),
    "stack": (("urial", "opo"), "default", "chat"),
    "stack-always": (("urial", "opo"), "default", "chat"),
    "markers-base": (("urial",), "plain", "base"),
    "default-base": (("urial",), "default", "base"),
    "bpo-complement": (("bpo",), "plain", "chat"),
    "bpo-replace": (("bpo",), "plain", "chat"),
    "bpo-demo": (("bpo",), "plain", "chat"),
}
BASE: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "markers": (("urial",), "plain", "base"),
    "instruction": (("urial",), "instruction", "base"),
    "default": (("urial",), "default", "base"),
    "helpful": (("urial",), "helpful", "base"),
    "inst-1k": (("urial",), "inst-1k", "base"),
    "inst-1k-help": (("urial",), "inst-1k-help", "base"),
    "default-1": (("urial",), "default-1", "base"),
    "default-2": (("urial",), "default-2", "base"),
    "opo-spec": (("urial", "opo"), "plain", "base"),
    "opo-always": (("urial", "opo"), "plain", "base"),
    "stack": (("urial", "opo"), "default", "base"),
    "stack-always": (("urial", "opo"), "default", "base"),
}


def profiles(folder: Path, originals: Path) -> dict[str, str]:
    """Files of the profiles that are not shipped, written to `folder`: name -> path.

    `instruction` is `default` without its examples, `default-N` with its first N; those named `inst-1k` are URIAL's
    own files, in the folder `originals`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = profile.load("default")
    paths = {
        "inst-1k": str(originals / "inst_1k_v4.txt"), "inst-1k-help": str(originals / "inst_1k_v4.help.txt"),
    }  # fmt: skip
    for name, count in (("instruction", 0), ("default-1", 1), ("default-2", 2)):
        path = folder / f"{name}.toml"
        path.write_text(profile.to_toml(replace(whole, name=name, exemplars=whole.exemplars[:count])), "utf-8")
        paths[name] = str(path)
    return paths


def configuration(
    arms: Mapping[str, tuple[tuple[str, ...], str, str]], engine: str, model: str, port: int, state: Path,
    index: Path, files: Mapping[str, str],
) -> str:  # fmt: skip
    """The text of trimtab.toml."""
    lines = [
        f'state_dir = "{state}"', "[server]", f"port = {port}", 'policy = "raw"', "timeout_s = 1800",
        "[engine.main]", f'url = "{engine}"', f'model = "{model}"', 'kind = "openai"', "context = 4096",
        "[engine.penalising]", f'url = "{engine}"', f'model = "{model}"', 'kind = "vllm"', "context = 4096",
        "[index.spec]", f'path = "{index}"', 'embedder = "none"',
        "[rewriter.own]", 'engine = "main"', 'template = "instruct"', 'decoding = "greedy"', "max_tokens = 200",
        "timeout_s = 1800",
    ]  # fmt: skip
    for name, path in files.items():
        lines += [f"[profile.{name}]", f'file = "{path}"']
    for name, (stages, used, render) in arms.items():
        used_engine = "penalising" if name.endswith("penalty") else "main"
        lines += [f"[policy.{name}]", f'engine = "{used_engine}"', f"stages = {list(stages)}", f'profile = "{used}"']
        lines += [f'render = "{render}"', "budget_ms = 1800000", 'on_error = "fail"']
        if "opo" in stages:
            lines += [f"[policy.{name}.opo]", 'index = ["spec"]', "k = 2", "budget_tokens = 200"]
            lines += ["floor = 0"] * name.endswith("always")
        if "bpo" in stages:
            lines += [f"[policy.{name}.bpo]", 'rewriter = "own"', f'mode = "{name.removeprefix("bpo-")}"']
    return "\n".join(lines) + "\n"
