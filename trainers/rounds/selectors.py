"""The selectors, a row each; each is a method's name too: `trimtab train raft …` is `rounds` with selector=raft.

A new selector is a file in trainers/rounds/select, a row here and a test.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Selector:
    """One way to choose what is learned of a round.

    Attributes:
        of: "module:function" of (Group, Choice, Random) -> rows.
        trains: the method that learns the rows, by its name in the table of methods.
        paper, formula: where it is defined, and what is chosen.
        gold: whether the prompts must come with the data's own answers.
        scored: whether it reads scores.
        scorer: the only scorer that the method is defined with; "" for any.
        affixes: whether each prompt is sampled in two variants, a better and a worse one.
        settings: keys of the trained method's recipe, where the rounds' recipe does not say otherwise.
    """

    of: str
    trains: Literal["sft", "pair", "rank"]
    paper: str
    formula: str
    gold: bool = False
    scored: bool = True
    affixes: bool = False
    scorer: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


SELECTORS: Mapping[str, Selector] = {
    "raft": Selector(
        of="trainers.rounds.select.raft:best",
        trains="sft",
        paper="RAFT, arXiv 2304.06767",
        formula="sft on argmax r of K samples (best-of-n distillation)",
    ),
    "rso_sampled": Selector(
        of="trainers.rounds.select.rso:pairs",
        trains="pair",
        paper="RSO, arXiv 2309.06657",
        formula="accept with e^((r − r_max)/β), pair by r, then loss rso",
        settings={"loss": "rso"},
    ),
    "rrhf": Selector(
        of="trainers.rounds.select.rrhf:ranked",
        trains="rank",
        paper="RRHF, arXiv 2304.05302",
        formula="all K samples in the order of r",
        settings={"loss": "rrhf"},
    ),
    "spin": Selector(
        of="trainers.rounds.select.spin:own",
        trains="pair",
        paper="SPIN, arXiv 2401.01335",
        formula="the data's answer ≻ the actor's own, then loss dpo",
        gold=True,
        scored=False,
        settings={"loss": "dpo"},
    ),
    "adversarial": Selector(
        of="trainers.rounds.select.raft:best",
        trains="sft",
        paper="APO, arXiv 2311.08045",
        formula="reward: BT(pairs) + λ BT(the data's answer ≻ own); then sft on argmax r of K samples",
        gold=True,
        scorer="adversary",
    ),
    "rlp": Selector(
        of="trainers.rounds.select.rlp:agreed",
        trains="pair",
        paper="RLP, arXiv 2403.19279",
        formula="best of the largest cluster of samples ≻ worst outside of it, then loss dpo",
        settings={"loss": "dpo"},
    ),
    "rlcd": Selector(
        of="trainers.rounds.select.rlcd:contrast",
        trains="pair",
        paper="RLCD, arXiv 2307.12950",
        formula="y ~ π(p₊) ≻ y ~ π(p₋) under p, then loss dpo",
        scored=False,
        affixes=True,
        settings={"loss": "dpo"},
    ),
    "critic": Selector(
        of="trainers.rounds.select.critique:finds",
        trains="pair",
        paper="CriticGPT, arXiv 2407.00215",
        formula="a critique that quotes the planted flaw ≻ one that misses it, then loss dpo",
        gold=True,
        scored=False,
        settings={"loss": "dpo"},
    ),
    "sppo": Selector(
        of="trainers.rounds.select.sppo:win_rates",
        trains="rank",
        paper="SPPO, arXiv 2405.00675",
        formula="each sample with P̂(y ≻ π), then (s − s^ref − (P̂ − ½)/β)²",
        settings={"loss": "sppo"},
    ),
    "self_rewarding": Selector(
        of="trainers.rounds.select.iterative:ends",
        trains="pair",
        paper="Self-Rewarding, arXiv 2401.10020",
        formula="the best ≻ the worst by the actor's own marks, then loss dpo",
        scorer="self_marks",
        settings={"loss": "dpo"},
    ),
    "iterative_dpo": Selector(
        of="trainers.rounds.select.iterative:ends",
        trains="pair",
        paper="Iterative DPO, arXiv 2312.11456",
        formula="the highest r ≻ the lowest of K samples, then loss dpo",
        settings={"loss": "dpo"},
    ),
}
