"""The keys of a recipe of rounds, and what cannot be right about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from trainers.ask.engine import Engine
from trainers.rounds.group import Choice
from trainers.rounds.rule import load_rule
from trainers.rounds.selectors import SELECTORS, Selector
from trainers.run.keys import Common, validate
from trainers.run.recipe import RecipeError

ScorerName = Literal["none", "reward", "rule", "judge_marks", "judge_pairs", "self_marks", "adversary"]


@dataclass(frozen=True, kw_only=True)
class Recipe(Common):
    """trainers/recipes/rounds.yaml explains each key."""

    selector: str = "raft"
    rounds: int = 3
    start: Literal["last", "base"] = "last"
    samples: int = 4
    prompts_per_round: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    sampler: Literal["here", "command", "url"] = "here"
    engine_command: str = "vllm serve {model} --port {port}"
    engine_timeout: float = 600.0
    engine_url: str = ""
    engine_model: str = ""
    engine_key_env: str = ""
    engine_details: bool = False
    engine_concurrency: int = 8
    scorer: ScorerName = "reward"
    reward_model: str = ""
    reward_base: str = ""
    pairs: str = ""
    gold_weight: float = 0.1
    rule: str = ""
    judge_url: str = ""
    judge_model: str = ""
    judge_key_env: str = ""
    affix_good: str = ""
    affix_bad: str = ""
    keep: int = 8
    score_beta: float = 1.0
    least_gap: float = 0.0
    agreement: float = 0.5
    same: str = ""
    loss: str | None = None
    beta: float | None = None
    heldout_samples: int = 1

    @property
    def row(self) -> Selector:
        """The selector's row; RecipeError names those that there are."""
        if self.selector not in SELECTORS:
            raise RecipeError(f"no selector {self.selector!r}; selectors: {', '.join(SELECTORS)}")
        return SELECTORS[self.selector]

    @property
    def choice(self) -> Choice:
        """What selectors read."""
        same = load_rule(self.same) if self.same else None
        shares = self.scorer == "judge_pairs"
        return Choice(self.keep, self.score_beta, self.least_gap, self.agreement, shares, same)

    def engine(self, url: str, model: str) -> Engine:
        """The engine that serves the actor, as it is asked."""
        return Engine(url, model, self.engine_key_env, self.temperature, self.max_new_tokens, self.engine_concurrency)

    @property
    def judge(self) -> Engine:
        """The judge, as it is asked: without chance."""
        return Engine(self.judge_url, self.judge_model, self.judge_key_env, temperature=0.0)

    def trained(self) -> dict[str, Any]:
        """Keys of the trained method's own: the selector's, then the recipe's."""
        given = {name: value for name in ("loss", "beta") if (value := getattr(self, name)) is not None}
        return {**self.row.settings, **given}


def check(recipe: Recipe) -> None:
    """Refuse what could only fail later."""
    validate(recipe)
    row = recipe.row
    for name in ("rounds", "samples", "max_new_tokens", "keep", "engine_concurrency", "heldout_samples"):
        if getattr(recipe, name) < 1:
            raise RecipeError(f"{name} must be at least 1")
    if recipe.prompts_per_round is not None and recipe.prompts_per_round < 1:
        raise RecipeError("prompts_per_round must be at least 1, or null for all")
    for name in ("temperature", "score_beta", "top_p", "engine_timeout"):
        if getattr(recipe, name) <= 0:
            raise RecipeError(f"{name} must be above 0")
    if row.scored and recipe.scorer == "none":
        names = ", ".join(name for name in get_args(ScorerName) if name != "none")
        raise RecipeError(f"selector {recipe.selector} reads scores: set scorer to one of {names}")
    if row.scorer and recipe.scorer != row.scorer:
        raise RecipeError(f"selector {recipe.selector} is scored by {row.scorer}: set scorer={row.scorer}")
    judge = ("judge_url", "judge_model")
    needs = {
        f"scorer: {recipe.scorer}": {"reward": ("reward_model",), "rule": ("rule",), "adversary": ("pairs",)}.get(
            recipe.scorer, judge if recipe.scorer.startswith("judge") else ()
        ),
        f"sampler: {recipe.sampler}": ("engine_url", "engine_model") if recipe.sampler == "url" else (),
    }
    for what, keys in needs.items():
        if missing := [name for name in keys if not getattr(recipe, name)]:
            raise RecipeError(f"{what} needs {', '.join(missing)}")
    if recipe.sampler == "url" and recipe.rounds > 1 and not (recipe.lora_rank and recipe.start == "base"):
        raise RecipeError(
            "sampler: url gives a running engine each round's LoRA adapter on the base that it serves: set lora_rank "
            "and start: base, or use sampler: command, which starts the engine again for each round"
        )
    if recipe.scorer == "adversary" and not row.gold:
        names = ", ".join(name for name, other in SELECTORS.items() if other.gold)
        raise RecipeError(f"scorer: adversary needs the data's own answers, which these selectors read: {names}")
    if recipe.gold_weight < 0:
        raise RecipeError("gold_weight must be 0 or more")
    if not 0 < recipe.agreement <= 1:
        raise RecipeError("agreement is a share of the samples: above 0 and at most 1")
    for name in ("affix_good", "affix_bad"):
        if row.affixes and "{prompt}" not in getattr(recipe, name):
            raise RecipeError(f"selector {recipe.selector} needs {name}, with {{prompt}} in it")
    if row.trains == "sft" and (recipe.loss or recipe.beta):
        raise RecipeError(f"selector {recipe.selector} trains sft, which reads neither loss nor beta")
    if recipe.best is not None:
        raise RecipeError("best: a round's training holds nothing out; leave it out")
