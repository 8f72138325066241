"""A PPO recipe in OpenRLHF's flags (0.11): each key has flags, stays on our side, or is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from trainers.ppo.ppo_recipe import Recipe
from trainers.run.recipe import RecipeError

Flags = list[str]
UNBOUNDED = "1000000000.0"  # argparse takes -inf for a flag
ADAM = ("0.9", "0.999")  # torch's own decays; OpenRLHF's default is 0.9 and 0.95
ESTIMATORS = {"gae": "gae", "rloo": "rloo", "grpo": "group_norm"}

# Keys whose value is that of these flags.
SAME: Mapping[str, tuple[str, ...]] = {
    "model": ("--actor.model_name_or_path",),
    "reward_model": ("--reward.model_name_or_path",),
    "max_length": ("--data.max_len",),
    "max_new_tokens": ("--rollout.max_new_tokens",),
    "answers": ("--rollout.n_samples_per_prompt",),
    "temperature": ("--rollout.temperature",),
    "micro_batch": ("--train.micro_batch_size", "--rollout.micro_batch_size"),
    "seed": ("--train.seed",),
    "learning_rate": ("--actor.adam.lr",),
    "schedule": ("--actor.lr_scheduler", "--critic.lr_scheduler"),
    "warmup": ("--actor.lr_warmup_ratio", "--critic.lr_warmup_ratio"),
    "weight_decay": ("--actor.adam.weight_decay", "--critic.adam.weight_decay"),
    "max_grad_norm": ("--actor.max_norm", "--critic.max_norm"),
    "lora_rank": ("--ds.lora.rank",),
    "lora_alpha": ("--ds.lora.alpha",),
    "clip": ("--actor.eps_clip",),
    "gamma": ("--algo.advantage.gamma",),
    "lam": ("--algo.advantage.lambd",),
    "inner_epochs": ("--train.max_epochs",),
    "kl_coefficient": ("--algo.kl.init_coef",),
    "kl_estimator": ("--algo.kl.estimator",),
    "kl_horizon": ("--algo.kl.horizon",),
    "critic_warmup": ("--critic.freezing_steps",),
    "save_every": ("--ckpt.save_steps",),
    "logging_every": ("--logger.logging_steps",),
}

# Keys whose flags have to be worked out.
WORKED_OUT: Mapping[str, Callable[[Recipe], Flags]] = {
    "batch": lambda r: ["--rollout.batch_size", str(r.batch // r.answers)],
    "minibatch": lambda r: ["--train.batch_size", str(r.rows_per_update)],
    "critic": lambda r: ["--critic.model_name_or_path", r.critic or r.reward_model] if r.has_critic else [],
    "critic_learning_rate": lambda r: ["--critic.adam.lr", str(r.critic_learning_rate or r.learning_rate)],
    "clip_high": lambda r: (
        [] if r.clip_high is None else ["--actor.eps_clip_low_high", str(r.clip), str(r.clip_high)]
    ),
    "dual_clip": lambda r: ["--actor.dual_clip", str(r.dual_clip)] if r.dual_clip else [],
    "value_clip": lambda r: ["--critic.value_clip", str(r.value_clip) if r.value_clip else UNBOUNDED],
    "kl_target": lambda r: ["--algo.kl.target", str(r.kl_target)] if r.kl_target else [],
    "kl_in": lambda r: ["--algo.kl.use_loss"] if r.kl_in == "loss" else [],
    "advantage": lambda r: ["--algo.advantage.estimator", ESTIMATORS[r.advantage]],
    "loss_mean": lambda r: [
        "--actor.loss_agg_mode", "token-mean" if r.loss_mean == "token" else "seq-mean-token-mean",
    ],
    "entropy_coefficient": lambda r: ["--actor.entropy_coef", str(r.entropy_coefficient)],
    "importance_cap": lambda r: _importance(r.importance_cap),
    "ema": lambda r: ["--train.enable_ema", "--train.ema_beta", str(r.ema)] if r.ema else [],
    "reward_clip": lambda r: ["--reward.clip_range", *_bounds(r.reward_clip)],
    "quantize": lambda r: ["--ds.load_in_4bit"] if r.quantize == "nf4" else [],
    "lora_targets": lambda r: ["--ds.lora.target_modules", *r.lora_targets] if r.lora_targets != ["all-linear"] else [],
    "gradient_checkpointing": lambda r: ["--actor.gradient_checkpointing_enable"] if r.gradient_checkpointing else [],
}  # fmt: skip

# Keys that this side reads, or that move no weight.
OURS = (
    "train", "heldout", "heldout_fraction", "chat_template", "unusable", "steps", "epochs", "report_to", "eval_every",
    "best", "patience", "final_dtype", "threads", "license", "samples_every", "engine_url", "engine_model",
    "engine_key_env", "engine_concurrency", "rule", "judge_url", "judge_model", "judge_key_env", "ptx_data",
    "ptx_kind", "stop_gradient", "value_coefficient",
)  # fmt: skip

# Keys that OpenRLHF has nothing for: what they must be, and why.
REFUSED: Mapping[str, tuple[Callable[[Recipe], bool], str]] = {
    "sampler": (lambda r: r.sampler == "here", "OpenRLHF starts vLLM itself; leave sampler at here"),
    "scorer": (lambda r: r.scorer == "reward", "only scorer: reward is handed over"),
    "truncated_penalty": (
        lambda r: not r.truncated_penalty, "OpenRLHF multiplies or replaces a truncated answer's reward",
    ),
    "whiten_rewards": (lambda r: r.whiten_rewards == "none", "OpenRLHF does not whiten rewards by the step or so far"),
    "lam_critic": (lambda r: r.lam_critic in (None, r.lam), "OpenRLHF has one λ for advantages and targets"),
    "lam_length": (lambda r: not r.lam_length, "OpenRLHF's λ does not depend on the answer's length"),
    "whiten_advantages": (
        lambda r: r.whiten_advantages == r.has_critic, "OpenRLHF whitens advantages with gae, and only then",
    ),
    "critic_updates": (lambda r: r.critic_updates == 1, "OpenRLHF's critic makes as many passes as the policy"),
    "shared_trunk": (lambda r: not r.shared_trunk, "OpenRLHF's critic is a model of its own"),
    "ptx": (lambda r: not r.ptx, "OpenRLHF has no pretraining loss"),
    "bf16": (lambda r: r.bf16 is not False, "OpenRLHF trains in bfloat16 or float16"),
    "lora_dropout": (lambda r: not r.lora_dropout, "with dropout the first ratio is not 1"),
    "pad_token": (lambda r: r.pad_token is None, "OpenRLHF pads with the tokenizer's own, or its end token"),
}  # fmt: skip
FURTHER: tuple[tuple[str, Callable[[Recipe], bool], str], ...] = (
    ("reward_clip", lambda r: r.has_critic or not r.reward_clip, "without a critic OpenRLHF clips after the baseline"),
    ("warmup", lambda r: r.warmup < 1, "OpenRLHF takes a share of the steps"),
    ("epochs", lambda r: r.epochs == int(r.epochs), "OpenRLHF takes whole passes over the prompts"),
    ("kl_target", lambda r: not r.kl_target or r.kl_in == "reward", "a target adapts the penalty in the reward"),
)


def check(recipe: Recipe) -> None:
    """RecipeError for the first key that OpenRLHF would not follow."""
    refusals = [(name, fits, why) for name, (fits, why) in REFUSED.items()]
    for name, fits, why in (*refusals, *FURTHER):
        if not fits(recipe):
            raise RecipeError(f"--backend openrlhf: {name}: {getattr(recipe, name)}: {why}")


def flags_of(recipe: Recipe, prompts: int, out: Path, gpus: int) -> Flags:
    """The command line's flags for a recipe whose `prompts` prompts are in OUT/prompts.jsonl.

    All models and the engines share `gpus` GPUs of one machine; flags given after these replace them.

    Raises:
        RecipeError: a key that OpenRLHF would not follow.
    """
    check(recipe)
    flags = [word for key, names in SAME.items() for name in names for word in (name, str(getattr(recipe, key)))]
    flags += [word for make in WORKED_OUT.values() for word in make(recipe)]
    flags += _passes(recipe, prompts)
    for who in ("actor", "critic"):
        flags += [f"--{who}.adam.betas", *ADAM]
    flags += ["--data.prompt_dataset", str(out / "prompts.jsonl"), "--data.input_key", "input"]
    flags += ["--ckpt.output_dir", str(out / "final"), "--ckpt.path", str(out / "checkpoints"), "--ckpt.load_enable"]
    if "tensorboard" in recipe.report_to:
        flags += ["--logger.tensorboard_dir", str(out / "logs")]
    return flags + placement(gpus)


def placement(gpus: int) -> Flags:
    """Everything on each GPU, in turns: the models sleep while the engines generate, and the other way round."""
    each = [word for who in ("actor", "ref", "critic", "reward") for word in (f"--{who}.num_gpus_per_node", str(gpus))]
    engines = ["--vllm.num_engines", str(gpus), "--vllm.gpu_memory_utilization", "0.5", "--vllm.enable_sleep"]
    return [*each, *engines, "--train.colocate_all", "--ds.enable_sleep", "--ds.zero_stage", "3"]


def _passes(recipe: Recipe, prompts: int) -> Flags:
    """Passes over the prompts; `steps` takes as many prompts as it needs."""
    if recipe.steps is None:
        return ["--train.num_episodes", str(math.ceil(recipe.epochs))]
    needed = recipe.steps * (recipe.batch // recipe.answers)
    if needed > prompts:
        raise RecipeError(
            f"--backend openrlhf: steps: {recipe.steps} take {needed} prompts, and there are {prompts}: set epochs"
        )
    return ["--train.num_episodes", "1", "--data.max_samples", str(needed)]


def _importance(cap: float) -> Flags:
    """min(π_old / π_engine, cap), token by token."""
    if not cap:
        return ["--algo.advantage.is_correction_level", "off"]
    name = "--algo.advantage.is_correction"
    return [f"{name}_level", "token", f"{name}_mode", "clip", f"{name}_gating", "ratio", f"{name}_threshold", "0.0",
            str(cap)]  # fmt: skip


def _bounds(clip: float) -> tuple[str, str]:
    most = f"{clip}" if clip else UNBOUNDED
    return f"-{most}", most
