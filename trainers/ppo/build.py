"""Loads the networks that a recipe names: the actor with its reference, the critic, and a second head."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig

from trainers.ppo.networks import Actor, Critic
from trainers.ppo.ppo_recipe import Recipe
from trainers.ppo.shards import cut
from trainers.run.adapter import lora, quantization
from trainers.run.model import Base
from trainers.run.recipe import RecipeError
from trainers.run.weights import load_trained


def half(recipe: Recipe) -> bool:
    """Whether to compute in bfloat16, as the recipe says and the machine can."""
    able = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return able if recipe.bf16 == "auto" else bool(recipe.bf16)


def actor_of(recipe: Recipe, base: Base, device: torch.device) -> Actor:
    """The model with its adapter, or with a frozen copy beside it; the same first weights in every process."""
    dtype = torch.bfloat16 if half(recipe) and recipe.lora_rank else torch.float32  # full weights learn in float32

    def loaded() -> Any:
        return AutoModelForCausalLM.from_pretrained(
            base.path, local_files_only=True, dtype=dtype, **quantization(recipe)
        )

    torch.manual_seed(recipe.seed)
    model = loaded()
    _check_context(model, recipe)
    frozen = None
    if recipe.lora_rank:
        model = adapted(model, recipe, "CAUSAL_LM")
    else:
        frozen = loaded().requires_grad_(False).to(device).eval()
    head = None
    if recipe.shared_trunk:
        head = nn.Linear(model.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    return Actor(ready(model, recipe), frozen, recipe.temperature, head, recipe.stop_gradient).to(device)


def critic_of(recipe: Recipe, base: Base, device: torch.device) -> Critic | None:
    """From the recipe's critic, else the reward model, else the model with a head of zeros; None without a critic."""
    if not recipe.has_critic or recipe.shared_trunk:
        return None
    torch.manual_seed(recipe.seed + 1)
    start = recipe.critic or (recipe.reward_model if recipe.scorer == "reward" else "")
    if start:
        model = load_trained(Path(start))
        model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
        if getattr(model, "score", None) is None or model.config.num_labels != 1:
            raise RecipeError(f"critic {start}: not a reward model (a sequence classifier with one label)")
    else:
        model = AutoModelForSequenceClassification.from_pretrained(
            base.path, local_files_only=True, dtype=torch.float32, num_labels=1
        )
        nn.init.zeros_(model.score.weight)
    return Critic(ready(adapted(model, recipe, "SEQ_CLS") if recipe.lora_rank else model, recipe)).to(device)


def cut_networks(recipe: Recipe, actor: Actor, critic: Critic | None, mesh: Any) -> None:
    """FSDP2: cut policy, reference and critic into pieces; their heads of one number stay whole.

    Raises:
        RecipeError: what needs whole weights in a process.
    """
    if recipe.quantize != "none" or recipe.sampler == "url":
        raise RecipeError("FSDP2 cuts the weights into pieces, so quantize must be none and sampler must be here")
    for model in (actor.bare, actor.frozen, None if critic is None else critic.trunk):
        if model is not None:
            cut(model, mesh)


def check_folders(recipe: Recipe) -> None:
    """RecipeError where the reward model or the critic is not there."""
    given = {"reward_model": recipe.reward_model if recipe.scorer == "reward" else "", "critic": recipe.critic}
    for name, folder in given.items():
        if folder and not any(Path(folder, file).is_file() for file in ("config.json", "adapter_config.json")):
            raise RecipeError(f"{name} {folder}: no model there; it is the `final` of a reward run, or an export of it")


def adapted(model: Any, recipe: Recipe, task: str) -> Any:
    """The model with a new adapter, which alone is trained."""
    from peft import get_peft_model

    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft uses an old name of transformers'
        return get_peft_model(model, lora(recipe, task))


def ready(model: Any, recipe: Recipe) -> Any:
    """Without dropout, so that two passes over an answer are the same; activations recomputed where the recipe says."""
    model.eval()
    if recipe.gradient_checkpointing:  # transformers recomputes in training mode only
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
        model.train()
    return model


def sampling_of(recipe: Recipe, model: Any, tokenizer: Any) -> GenerationConfig:
    """How the actor samples: from its own distribution at the temperature, without what its files add to it."""
    had = model.generation_config.eos_token_id
    ends = list(dict.fromkeys([tokenizer.eos_token_id, *(had if isinstance(had, list) else [])]))
    return GenerationConfig(
        do_sample=True, temperature=recipe.temperature, top_k=0, top_p=1.0, max_new_tokens=recipe.max_new_tokens,
        use_cache=True, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # type: ignore[no-untyped-call]  # fmt: skip


def _check_context(model: Any, recipe: Recipe) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit and recipe.max_length > limit:
        raise RecipeError(f"max_length ({recipe.max_length}) is more than the model's context ({limit})")
