"""The command line of `trimtab serve` and `trimtab check`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from serve.config import Flags

HERE = "trimtab.toml"
CONFIG_HELP = "the configuration (default: ./trimtab.toml, where there is one)"
EPILOG = """\
examples:
  trimtab serve                                        a small model on this machine
  trimtab serve --upstream https://api.openai.com --key-env OPENAI_API_KEY
  trimtab serve --upstream http://localhost:11434      before an LLM that you have: change one base URL
  trimtab serve --model ./my-model --engine transformers
  trimtab serve --config trimtab.toml --workers 2
"""


def parser(prog: str, about: str) -> argparse.ArgumentParser:
    """The flags that both commands share. What they leave open, the file says; what it leaves open has a default."""
    it = argparse.ArgumentParser(
        prog, description=about, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    it.add_argument("--config", metavar="FILE", help=CONFIG_HELP)
    engine = it.add_argument_group(
        "the engine (default: SmolLM2 where `make serve` has installed it, else the embedded toy)"
    )
    engine.add_argument("--upstream", metavar="URL", help="an OpenAI-compatible server that you already have")
    engine.add_argument("--key-env", metavar="NAME", help="environment variable that holds the upstream's API key")
    engine.add_argument("--model", metavar="PATH_OR_ID", help="launch this model; with --upstream: the default model")
    engine.add_argument(
        "--engine", metavar="NAME", help="what launches --model: auto (default), vllm, transformers, llama.cpp, onnx"
    )
    policy = it.add_argument_group("the policy")
    policy.add_argument("--policy", metavar="NAME", help="for requests that name none (default: urial or raw)")
    policy.add_argument("--render", metavar="KIND", help="of the built-in policies: base or chat (default: by model)")
    server = it.add_argument_group("the server")
    server.add_argument("--host", metavar="ADDRESS", help="default 127.0.0.1")
    server.add_argument("--port", metavar="N", type=int, help="default 8000; 0 picks a free one")
    server.add_argument("--workers", metavar="N", type=int, help="worker processes (default 1)")
    server.add_argument("--state-dir", metavar="DIR", help="where traces are kept (default ./state)")
    server.add_argument("--trial", metavar="ID", help="serve as if this change were in force, from copies")
    return it


def parse(argv: Sequence[str]) -> Flags:
    """The flags of an argument list that has been parsed before, so that is known to be right."""
    return Flags(**vars(parser("trimtab serve", "").parse_args(argv)))


def found(config: str | None) -> str | None:
    """The configuration to read: the one that is named, else trimtab.toml in this folder, where there is one."""
    if config is None and Path(HERE).is_file():
        print(f"trimtab: the configuration is ./{HERE}", file=sys.stderr)
        return HERE
    return config


def settled(argv: Sequence[str]) -> list[str]:
    """The arguments with the configuration named, so that whoever reads them later reads the same file."""
    named = parse(argv).config
    return list(argv) if named or not (file := found(named)) else [*argv, "--config", file]
