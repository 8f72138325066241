"""OpenRLHF's own argument parser, run without what it would train with.

    python -m trainers.backend.openrlhf_parser --actor.eps_clip 0.2 …     the values as it understands them, as JSON
    python -m trainers.backend.openrlhf_parser --list-flags               its version, and every flag with what it takes

Its parser stands below `if __name__ == "__main__"` in a module that imports Ray, vLLM, DeepSpeed and flash-attn at the
top. All of these are replaced by empty modules here, so only `pip install --no-deps openrlhf` is needed. The values are
those that it would train with: its own checks of them have run. Must run in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Never

from trainers.run.recipe import RecipeError

MODULE = "openrlhf.cli.train_ppo_ray"
REPLACED = ("ray", "openrlhf.trainer", "openrlhf.utils")
KEPT = "openrlhf.utils.config"  # it nests the parsed values


def installed() -> bool:
    """Whether there is an OpenRLHF to ask."""
    return importlib.util.find_spec("openrlhf") is not None


def parsed(flags: Sequence[str]) -> dict[str, Any]:
    """The flags as OpenRLHF's parser understands them, nested by their dots.

    Raises:
        RecipeError: it refuses them; the message is its own.
    """
    line = [sys.executable, "-m", "trainers.backend.openrlhf_parser", *flags]
    packages = Path(__file__).parents[2]
    paths = os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(line, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RecipeError(f"OpenRLHF refuses the flags: {done.stderr.strip().splitlines()[-1]}")
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


class ParsedError(Exception):
    """The parser is done, and the training would begin."""


class Empty(ModuleType):
    """A module that has every name; each is an empty module again."""

    def __getattr__(self, name: str) -> Empty:
        if name.startswith("__"):
            raise AttributeError(name)
        return Empty(name)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an empty module for everything below REPLACED."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """An empty package, with the real one's folder so that KEPT is found in it."""
        if name == KEPT or not any(name == top or name.startswith(f"{top}.") for top in REPLACED):
            return None
        spec = importlib.machinery.ModuleSpec(name, self, is_package=True)
        spec.submodule_search_locations = [os.path.join(each, name.rpartition(".")[2]) for each in path or ()]
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """An empty one; Ray's first use is where the training begins."""
        module = Empty(spec.name)
        if spec.name == "ray":
            module.__dict__["is_initialized"] = begins
        return module

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


def begins() -> Never:
    """In the place of `ray.is_initialized`, which the training asks first."""
    raise ParsedError


def values_of(flags: Sequence[str]) -> Any:
    """The namespace that the training would get."""
    sys.meta_path.insert(0, Finder())
    sys.argv = [MODULE, *flags]
    try:
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    except ParsedError as error:
        at = error.__traceback__
        while at is not None:
            if at.tb_frame.f_code.co_name == "train":
                return at.tb_frame.f_locals["args"]
            at = at.tb_next
    raise SystemExit(f"{MODULE} did not reach its training: this version of OpenRLHF is built otherwise")


def plain(value: Any) -> Any:
    """Namespaces as dicts."""
    return {key: plain(each) for key, each in vars(value).items()} if isinstance(value, SimpleNamespace) else value


def listed() -> dict[str, Any]:
    """The version, and for each flag its type, the number of its values and its choices."""
    found: list[argparse.ArgumentParser] = []

    def caught(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> Never:
        found.append(parser)
        raise ParsedError

    sys.meta_path.insert(0, Finder())
    argparse.ArgumentParser.parse_args = caught  # type: ignore[method-assign,assignment]
    with contextlib.suppress(ParsedError):
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    flags = {
        action.option_strings[0]: {
            "type": getattr(action.type, "__name__", None), "values": action.nargs,
            "choices": list(action.choices) if action.choices else None,
        }
        for action in found[0]._actions if action.option_strings
    }  # fmt: skip
    return {"version": version("openrlhf"), "module": MODULE, "flags": flags}


if __name__ == "__main__":
    if sys.argv[1:] == ["--list-flags"]:
        print(json.dumps(listed(), indent=1))
    else:
        print(json.dumps(plain(values_of(sys.argv[1:]))))
