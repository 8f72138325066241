"""The LoRA adapter of a recipe, and the quantized base under it (QLoRA, arXiv:2305.14314)."""

from importlib.util import find_spec
from typing import Any

from trainers.run.keys import Common
from trainers.run.model import folder_of
from trainers.run.recipe import RecipeError


def lora(recipe: Common, task: str = "CAUSAL_LM") -> Any:
    """peft's configuration of the adapter; None for full weights.

    Raises:
        RecipeError: a target names no module, or the embedding of a model whose output shares its weights.
    """
    if not recipe.lora_rank:
        return None
    everything = recipe.lora_targets == ["all-linear"]
    if not everything:
        check_targets(recipe.lora_targets, folder_of(recipe.model), task)
    from peft import LoraConfig

    return LoraConfig(
        task_type=task,
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules="all-linear" if everything else recipe.lora_targets,
    )


def check_targets(targets: list[str], folder: str, task: str) -> None:
    """Refuse targets that peft would not find, or that could not be merged after the training.

    Merging an adapter into an embedding that is also the output layer changes both, and so the trained model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForCausalLM if task == "CAUSAL_LM" else AutoModelForSequenceClassification
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model = kind.from_config(config)  # type: ignore[no-untyped-call]
    modules = dict(model.named_modules())
    for target in targets:
        found = [module for name, module in modules.items() if name == target or name.endswith(f".{target}")]
        if not found:
            names = sorted({name.rpartition(".")[2] for name, one in modules.items() if getattr(one, "weight", None) is
                            not None})  # fmt: skip
            raise RecipeError(f"lora_targets: the model has no module {target!r}; modules: {', '.join(names)}")
        shared = (model.get_input_embeddings(), model.get_output_embeddings())
        if config.get_text_config().tie_word_embeddings and None not in shared and any(one in shared for one in found):
            raise RecipeError(
                f"lora_targets: {target!r} is both embedding and output layer of this model (tied weights), so an "
                "adapter there could not be merged after the training; leave it out"
            )


def quantization(recipe: Common) -> dict[str, Any]:
    """model_init_kwargs for a base in 4-bit NormalFloat; {} where the recipe does not ask for it.

    Raises:
        RecipeError: there is no adapter to train, no GPU, or bitsandbytes is not installed.
    """
    if recipe.quantize == "none":
        return {}
    import torch

    if not recipe.lora_rank:
        raise RecipeError("quantize: nf4 trains an adapter on a frozen 4-bit base; set lora_rank")
    if not torch.cuda.is_available():
        raise RecipeError("quantize: nf4 needs a CUDA GPU, and there is none here")
    if find_spec("bitsandbytes") is None:
        raise RecipeError("quantize: nf4 needs bitsandbytes, which is not installed: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # type: ignore[no-untyped-call]
    return {"quantization_config": config}
