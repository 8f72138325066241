"""How an exported rewriter is asked: by the server's own template, so that is what its tokens are compared on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prompt_opt.rewriter.settings import Rewriter
from prompt_opt.rewriter.template import BPO
from trainers.bpo.rewrites import read_rewrites
from trainers.bpo.samples import specials_of
from trainers.export.served import ROWS, Prompts, Served


def rewriter_prompts(run: Path, last: Mapping[str, Any], tokenizer: Any) -> Prompts:
    """(what was trained on, what the server sends) for the prompts of a bpo run."""
    rewriter = Rewriter("exported", "engine", BPO, specials=specials_of(tokenizer))
    rows = read_rewrites(run, "train")[:ROWS]
    trained = [json.loads(line)["prompt"] for line in (run / "sft_train.jsonl").read_text("utf-8").splitlines()[:ROWS]]
    return [(one, rewriter.body(row["prompt"], "replace")["prompt"]) for one, row in zip(trained, rows, strict=True)]


def rewriter_lines(name: str) -> Iterator[str]:
    """The configuration of a policy that uses the rewriter."""
    yield "As the rewriter of a policy; in trimtab.toml:"
    yield ""
    yield from (
        "```toml", "[engine.rewriter]", f'model = "PATH/{name}"', "", "[rewriter.mine]", 'engine = "rewriter"',
        'template = "bpo"', 'decoding = "greedy"', "", "[policy.better]", 'stages = ["bpo"]', "",
        "[policy.better.bpo]", 'rewriter = "mine"', "```",
    )  # fmt: skip


REWRITER = Served(rewriter_prompts, rewriter_lines, template="the rewriter's")
