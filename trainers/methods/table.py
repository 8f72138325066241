"""The training methods, a row each: the command, `train check`, `--launch`, export and the card read this table.

A new method is a module with a frozen `Recipe` and `main(argv) -> int`, a row here, a recipe in trainers/recipes, a
test and a line in the docs.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainers.data.layouts import Kind


@dataclass(frozen=True, kw_only=True)
class Method:
    """One training method. Strings of the form "module:name" are imported only when they are used.

    Attributes:
        entry: the command, which takes the arguments after the method's name and returns an exit status. Its module
            also has the method's `Recipe`.
        reads: the kind of rows that it learns from.
        title: what it makes, for `--list` and the model card.
        paper: where the method is defined.
        formula: what it minimises, in nats.
        export: a `trainers.export.served.Served`: how the exported model is asked, and so how the export is checked.
        several: whether `--launch` may run it in several processes.
    """

    entry: str
    reads: Kind
    title: str
    paper: str
    formula: str
    export: str = "trainers.export.served:CHAT"
    several: bool = True

    @property
    def recipe(self) -> Any:
        """The dataclass of the method's recipe; imports its module."""
        return resolve(f"{self.entry.partition(':')[0]}:Recipe")

    def check(self, recipe: Any) -> None:
        """What the method would refuse before it trains: its own check, or that of the common keys (RecipeError)."""
        from trainers.run.keys import validate  # reads YAML, which `--list` has no need of

        module = importlib.import_module(self.entry.partition(":")[0])
        getattr(module, "check", validate)(recipe)


def resolve(name: str) -> Any:
    """The object that "module:name" stands for."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


METHODS: Mapping[str, Method] = {
    "cpt": Method(
        entry="trainers.methods.cpt:main",
        reads="text",
        title="a base model: continued pretraining on plain text, or from nothing",
        paper="arXiv:2004.10964",
        formula="-mean log π(x_t | x_<t)",
        export="trainers.export.served:TEXT",
        several=False,
    ),
    "sft": Method(
        entry="trainers.methods.sft:main",
        reads="completion",
        title="a model that answers as the examples do",
        paper="arXiv:2203.02155",
        formula="-Σ m_t log π(y_t | x, y_<t) / Σ m_t",
    ),
    "reward": Method(
        entry="trainers.methods.reward:main",
        reads="preference",
        title="a reward model from preference pairs",
        paper="arXiv:2203.02155",
        formula="-log σ(r_w - r_l - margin)",
        export="trainers.export.served:SCORE",
    ),
    "strength": Method(
        entry="trainers.methods.strength:main",
        reads="preference",
        title="a reward model from noisy pairs, whose wrong labels an ensemble finds",
        paper="arXiv:2401.06080",
        formula="-log σ(r_w - r_l - m̂), m̂ the mean margin of the ensemble",
        export="trainers.export.served:SCORE",
        several=False,
    ),
    "weak": Method(
        entry="trainers.methods.weak:main",
        reads="preference",
        title="a strong reward model from a weaker one's labels",
        paper="arXiv:2312.09390",
        formula="(1−α) CE(r_w - r_l, p_weak) + α CE(r_w - r_l, 1[r_w > r_l])",
        export="trainers.export.served:SCORE",
        several=False,
    ),
    "detector": Method(
        entry="trainers.methods.detector:main",
        reads="labelled",
        title="a detector of harmful answers, hardened on implicit ones",
        paper="arXiv:2311.17391",
        formula="-y log σ(r) - (1 - y) log σ(-r)",
        export="trainers.export.served:SCORE",
    ),
    "pair": Method(
        entry="trainers.methods.pair:main",
        reads="preference",
        title="a model aligned with preference pairs; the recipe's loss says how",
        paper="arXiv:2305.18290",
        formula="-log σ(β Δ), or the loss that the recipe names; each is a method's name too:",
    ),
    "kto": Method(
        entry="trainers.methods.kto:main",
        reads="labelled",
        title="a model aligned with answers that are labelled good or bad, not paired",
        paper="arXiv:2402.01306",
        formula="λ_D (1 - σ(β (a - z₀))) or λ_U (1 - σ(β (z₀ - a)))",
    ),
    "rank": Method(
        entry="trainers.methods.rank:main",
        reads="ranking",
        title="a model aligned with lists of scored answers",
        paper="arXiv:2304.05302",
        formula="Σ_{r_i > r_j} max(0, s̄_j - s̄_i) + NLL of the best, or the list loss that the recipe names",
    ),
    "rahf": Method(
        entry="trainers.methods.rahf:main",
        reads="preference",
        title="a model whose hidden states are those that a better prompt gives it",
        paper="arXiv:2312.15997",
        formula="mean (h_θ - (h₀ + α (h⁺ - h⁻)))²",
        several=False,
    ),
    "rounds": Method(
        entry="trainers.rounds.iteration:main",
        reads="prompt",
        title="a model trained on its own samples, scored and selected round by round; the selector says how",
        paper="arXiv:2304.06767",
        formula="sample K answers, score, select, train; each selector is a method's name too:",
        several=False,
    ),
    "ppo": Method(
        entry="trainers.ppo.ppo_run:main",
        reads="prompt",
        title="a model that learns from scores of its own answers, with a critic; rloo and grpo learn without one",
        paper="arXiv:1707.06347",
        formula="-min(u Â, clip(u, 1 ± ε) Â), r_t = -β log(π/π_ref) + [t is the end] score; optimum π_ref e^{r/β}",
    ),
    "bpo": Method(
        entry="trainers.bpo.method:main",
        reads="preference",
        title="a rewriter of prompts, from preference pairs and a critic",
        paper="arXiv:2311.04155",
        formula="sft on the rewritten prompt: -Σ log π(x' | template(x))",
        export="trainers.bpo.rewriter_export:REWRITER",
    ),
}
