"""`trimtab train METHOD …`: finds the trainer and hands it the rest of the command line."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """`entry` is module:function, which takes the arguments after the method and returns a status."""

    entry: str
    makes: str
    paper: str = ""
    formula: str = ""


METHODS = {
    "cpt": Method(
        "trainers.cpt:main",
        "a base model: continued pretraining on plain text, or from nothing",
        "arXiv:2004.10964",
        "-mean log π(x_t | x_<t)",
    ),
    "sft": Method(
        "trainers.sft:main",
        "a model that answers as the examples do",
        "arXiv:2203.02155",
        "-Σ m_t log π(y_t | x, y_<t) / Σ m_t",
    ),
    "reward": Method(
        "trainers.reward:main",
        "a reward model from preference pairs",
        "arXiv:2203.02155",
        "-log σ(r_w - r_l - margin)",
    ),
    "pair": Method(
        "trainers.pair:main",
        "a model aligned with preference pairs; the recipe's loss says how",
        "arXiv:2305.18290",
        "-log σ(β Δ), and the losses of the aliases",
    ),
    "kto": Method(
        "trainers.kto:main",
        "a model aligned with answers that are labelled good or bad, not paired",
        "arXiv:2402.01306",
        "λ_D (1 - σ(β (a - z₀))) or λ_U (1 - σ(β (z₀ - a)))",
    ),
    "bpo": Method(
        "trainers.bpo:main",
        "a rewriter of prompts, from preference pairs and a critic",
        "arXiv:2311.04155",
        "sft on the rewritten prompt: -Σ log π(x' | template(x))",
    ),
    "check": Method("trainers.check:main", "nothing: says what is wrong with training data"),
}
# Each is `pair` with that loss. Δ: how much further the chosen answer's log-ratio to the reference rose than the
# rejected one's; s̄: mean log-probability of an answer's tokens; lo: log odds of it.
LOSSES = {
    "dpo": ("arXiv:2305.18290", "-log σ(β Δ)"),
    "ipo": ("arXiv:2310.12036", "(Δ - 1/(2τ))²"),
    "cdpo": ("ericmitchell.ai/cdpo.pdf", "-(1-ε) log σ(β Δ) - ε log σ(-β Δ)"),
    "robust": ("arXiv:2403.00409", "(-(1-ε) log σ(β Δ) + ε log σ(-β Δ)) / (1-2ε)"),
    "slic": ("arXiv:2305.10425", "max(0, δ - s_w + s_l) - λ s_sft"),
    "rso": ("arXiv:2309.06657", "max(0, 1 - γ Δ)"),
    "simpo": ("arXiv:2405.14734", "-log σ(β (s̄_w - s̄_l) - γ)"),
    "orpo": ("arXiv:2403.07691", "NLL_w - λ log σ(lo_w - lo_l)"),
    "odpo": ("arXiv:2402.10571", "-log σ(β Δ - α log(score_w - score_l))"),
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
    if method in LOSSES:
        method, rest = "pair", [*rest, "--set", f"loss={method}"]
    if method not in METHODS:
        print(f"trimtab train: no method {method!r}; methods: {', '.join([*METHODS, *LOSSES])}", file=sys.stderr)
        return 2
    if any(argument.partition("=")[0] == "--launch" for argument in rest):
        from trainers.launch import start

        return start(method, rest)
    module, _, function = METHODS[method].entry.partition(":")
    entry: Callable[[list[str]], int] = getattr(importlib.import_module(module), function)
    return entry(rest)


def listing() -> str:
    """Each method with what it makes, its paper and its formula; below `pair` the losses that have a name."""
    lines = []
    for name, method in METHODS.items():
        lines.append(f"{name:<8} {method.makes}")
        if method.paper:
            lines.append(f"{'':<8} {method.paper}   {method.formula}")
        if name == "pair":
            lines += [f"  {loss:<6} {paper:<26} {formula}" for loss, (paper, formula) in LOSSES.items()]
    return "\n".join(lines)
