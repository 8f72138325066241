"""The keys of a PPO recipe, and what cannot be right about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainers.ask.engine import Engine
from trainers.run.keys import Common, processes, validate
from trainers.run.recipe import RecipeError

Advantage = Literal["gae", "rloo", "grpo"]
Estimator = Literal["k1", "k2", "k3"]


@dataclass(frozen=True, kw_only=True)
class Recipe(Common):
    """trainers/recipes/ppo.yaml explains each key."""

    answers: int = 1
    max_new_tokens: int = 128
    temperature: float = 1.0
    sampler: Literal["here", "url"] = "here"
    engine_url: str = ""
    engine_model: str = ""
    engine_key_env: str = ""
    engine_concurrency: int = 8
    importance_cap: float = 2.0

    scorer: Literal["reward", "rule", "judge_marks", "judge_pairs"] = "reward"
    reward_model: str = ""
    rule: str = ""
    judge_url: str = ""
    judge_model: str = ""
    judge_key_env: str = ""
    truncated_penalty: float = 0.0
    whiten_rewards: Literal["none", "step", "running"] = "none"
    reward_clip: float = 0.0

    kl_coefficient: float = 0.05
    kl_estimator: Estimator = "k1"
    kl_in: Literal["reward", "loss"] = "reward"
    kl_target: float = 0.0
    kl_horizon: int = 10_000

    advantage: Advantage = "gae"
    gamma: float = 1.0
    lam: float = 0.95
    lam_critic: float | None = None
    lam_length: float = 0.0
    whiten_advantages: bool = True

    clip: float = 0.2
    clip_high: float | None = None
    dual_clip: float = 0.0
    loss_mean: Literal["token", "answer"] = "token"
    entropy_coefficient: float = 0.0
    inner_epochs: int = 1
    minibatch: int | None = None
    ptx: float = 0.0
    ptx_data: str = ""
    ptx_kind: Literal["text", "completion"] = "text"
    ema: float = 0.0

    critic: str = ""
    critic_learning_rate: float | None = None
    critic_warmup: int = 0
    critic_updates: int = 1
    value_clip: float = 0.2
    shared_trunk: bool = False
    stop_gradient: bool = True
    value_coefficient: float = 0.1

    samples_every: int = 10

    @property
    def judge(self) -> Engine:
        """The judge, as it is asked: without chance."""
        return Engine(self.judge_url, self.judge_model, self.judge_key_env, temperature=0.0)

    @property
    def engine(self) -> Engine:
        """The engine that serves the actor, as it is asked."""
        return Engine(
            self.engine_url, self.engine_model, self.engine_key_env, self.temperature, self.max_new_tokens,
            self.engine_concurrency,
        )  # fmt: skip

    @property
    def rows_per_update(self) -> int:
        """Answers of an optimizer step."""
        return self.minibatch or self.batch

    @property
    def has_critic(self) -> bool:
        """Whether values are learned: only GAE reads them."""
        return self.advantage == "gae"


AT_LEAST_ONE = (
    "answers", "max_new_tokens", "engine_concurrency", "kl_horizon", "inner_epochs", "critic_updates", "samples_every",
)  # fmt: skip
NOT_NEGATIVE = (
    "importance_cap", "truncated_penalty", "reward_clip", "kl_coefficient", "kl_target", "lam_length",
    "entropy_coefficient", "ptx", "critic_warmup", "value_clip", "value_coefficient",
)  # fmt: skip


def check(recipe: Recipe) -> None:
    """Refuse what could only fail later; RecipeError names the keys."""
    validate(recipe)
    for name in AT_LEAST_ONE:
        if getattr(recipe, name) < 1:
            raise RecipeError(f"{name} must be at least 1")
    for name in NOT_NEGATIVE:
        if getattr(recipe, name) < 0:
            raise RecipeError(f"{name} must be at least 0")
    for name in ("gamma", "lam", "lam_critic"):
        value = getattr(recipe, name)
        if value is not None and not 0 <= value <= 1:
            raise RecipeError(f"{name} must be from 0 to 1")
    if recipe.temperature <= 0:
        raise RecipeError("temperature must be above 0")
    if not 0 < recipe.clip < 1:
        raise RecipeError("clip must be above 0 and below 1")
    if recipe.clip_high is not None and recipe.clip_high <= 0:
        raise RecipeError("clip_high must be above 0; leave it null for clip on both sides")
    if recipe.dual_clip and recipe.dual_clip <= 1:
        raise RecipeError("dual_clip must be above 1, or 0 for none")
    if not 0 <= recipe.ema < 1:
        raise RecipeError("ema must be at least 0 and below 1")
    _check_sizes(recipe)
    _check_sources(recipe)
    _check_unread(recipe)


def _check_sizes(recipe: Recipe) -> None:
    if recipe.batch % recipe.answers:
        raise RecipeError(f"batch ({recipe.batch}) must be a multiple of answers ({recipe.answers})")
    if recipe.micro_batch % recipe.answers and recipe.answers % recipe.micro_batch:
        raise RecipeError(
            f"micro_batch ({recipe.micro_batch}) and answers ({recipe.answers}): one must be a multiple of the other"
        )
    size, world = recipe.rows_per_update, processes()
    if size < 1 or recipe.batch % size or size % (recipe.micro_batch * world):
        raise RecipeError(
            f"minibatch ({size}) must divide batch ({recipe.batch}) and be a multiple of micro_batch "
            f"({recipe.micro_batch})" + (f" times the processes ({world})" if world > 1 else "")
        )
    if recipe.batch // recipe.answers % world:
        raise RecipeError(
            f"a step's prompts, batch ({recipe.batch}) / answers ({recipe.answers}), must be a multiple of the "
            f"processes ({world})"
        )
    if recipe.advantage != "gae" and recipe.answers < 2:
        raise RecipeError(f"advantage: {recipe.advantage} compares a prompt's answers: set answers to 2 or more")
    if recipe.scorer == "judge_pairs" and recipe.answers < 2:
        raise RecipeError("scorer: judge_pairs compares a prompt's answers: set answers to 2 or more")


def _check_sources(recipe: Recipe) -> None:
    judge = ("judge_url", "judge_model")
    keys = {"reward": ("reward_model",), "rule": ("rule",)}.get(recipe.scorer, judge)
    needs = {
        f"scorer: {recipe.scorer}": keys,
        "sampler: url": ("engine_url", "engine_model", "lora_rank") if recipe.sampler == "url" else (),
        "ptx": ("ptx_data",) if recipe.ptx else (),
    }
    for what, names in needs.items():
        if missing := [name for name in names if not getattr(recipe, name)]:
            raise RecipeError(f"{what} needs {', '.join(missing)}")
    if recipe.sampler == "url" and recipe.temperature != 1:
        raise RecipeError("sampler: url compares the engine's log-probabilities, which are at temperature 1")


def _check_unread(recipe: Recipe) -> None:
    """Keys that nothing would read, or that would make the first ratio differ from 1."""
    if recipe.lora_dropout:
        raise RecipeError(
            "lora_dropout must be 0: with dropout two passes over an answer differ, and so does the ratio"
        )
    if recipe.best is not None:
        raise RecipeError("best: final has the last weights; leave it out")
    if recipe.shared_trunk and not recipe.has_critic:
        raise RecipeError(f"advantage: {recipe.advantage} has no critic; leave shared_trunk out")
    if recipe.shared_trunk and (recipe.critic or recipe.critic_updates > 1 or recipe.critic_learning_rate is not None):
        raise RecipeError("shared_trunk: the values share the actor's trunk and its updates; leave critic, "
                          "critic_updates and critic_learning_rate out")  # fmt: skip
    if recipe.kl_target and recipe.kl_in == "loss":
        raise RecipeError("kl_target adapts the penalty in the reward: set kl_in: reward")
