"""`trimtab train METHOD …`: finds the trainer and hands it the rest of the command line."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

from trainers.methods.losses import LOSSES


@dataclass(frozen=True)
class Method:
    """`entry` is module:function, which takes the arguments after the method and returns a status."""

    entry: str
    makes: str
    paper: str = ""
    formula: str = ""


METHODS = {
    "cpt": Method(
        "trainers.methods.cpt:main",
        "a base model: continued pretraining on plain text, or from nothing",
        "arXiv:2004.10964",
        "-mean log π(x_t | x_<t)",
    ),
    "sft": Method(
        "trainers.methods.sft:main",
        "a model that answers as the examples do",
        "arXiv:2203.02155",
        "-Σ m_t log π(y_t | x, y_<t) / Σ m_t",
    ),
    "reward": Method(
        "trainers.methods.reward:main",
        "a reward model from preference pairs",
        "arXiv:2203.02155",
        "-log σ(r_w - r_l - margin)",
    ),
    "pair": Method(
        "trainers.methods.pair:main",
        "a model aligned with preference pairs; the recipe's loss says how",
        "arXiv:2305.18290",
        "-log σ(β Δ), or the loss that the recipe names; each is a method's name too:",
    ),
    "kto": Method(
        "trainers.methods.kto:main",
        "a model aligned with answers that are labelled good or bad, not paired",
        "arXiv:2402.01306",
        "λ_D (1 - σ(β (a - z₀))) or λ_U (1 - σ(β (z₀ - a)))",
    ),
    "bpo": Method(
        "trainers.bpo.method:main",
        "a rewriter of prompts, from preference pairs and a critic",
        "arXiv:2311.04155",
        "sft on the rewritten prompt: -Σ log π(x' | template(x))",
    ),
    "check": Method("trainers.data.check:main", "nothing: says what is wrong with training data"),
}
USAGE = "usage: trimtab train METHOD [options]   (trimtab train METHOD --help; trimtab train --list)"


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "--list"):
        if arguments[:1] != ["--list"]:
            print(USAGE + "\n")
        print(listing())
        return 0 if arguments else 2
    method, *rest = arguments
    if method in LOSSES:  # `trimtab train simpo …` is pair with that loss
        method, rest = "pair", [*rest, "--set", f"loss={method}"]
    if method not in METHODS:
        print(f"trimtab train: no method {method!r}; methods: {', '.join([*METHODS, *LOSSES])}", file=sys.stderr)
        return 2
    if any(argument.partition("=")[0] == "--launch" for argument in rest):
        from trainers.run.launch import start

        return start(method, rest)
    module, _, function = METHODS[method].entry.partition(":")
    entry: Callable[[list[str]], int] = getattr(importlib.import_module(module), function)
    return entry(rest)


def listing() -> str:
    """Each method with what it makes, its paper and its formula; below `pair` its losses, which name it too."""
    lines = []
    for name, method in METHODS.items():
        lines.append(f"{name:<8} {method.makes}")
        if method.paper:
            lines.append(f"{'':<8} {method.paper}: {method.formula}")
        if name == "pair":
            lines += [f"  {loss:<14} {row.paper:<34} {row.formula}" for loss, row in LOSSES.items()]
    return "\n".join(lines)
