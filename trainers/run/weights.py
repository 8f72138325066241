"""The weights of a finished run: loaded to compute, an adapter merged, saved and compared with what was trained."""

import json
import math
import sys
import warnings
from pathlib import Path
from typing import Any

from trainers.run.model import folder_of
from trainers.run.record import set_ends, tidy

PARITY = 1e-5  # of the logits, in float32, or of the largest of them where that is above 1
PROBES = (
    "The capital of France is",
    "Why is the sky blue?",
    "Write three tips:\n1.",
    "def add(a, b):\n    return",
    "你好",
)


class WeightsError(Exception):
    """The saved or merged model is not the trained one; the message says by how much it differs."""


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a LoRA adapter rather than a whole model."""
    return (folder / "adapter_config.json").is_file()


def load_trained(folder: Path, dtype: Any = None) -> Any:
    """A run's `final` as a model that computes: full weights, or the base model with the adapter on it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    adapter = json.loads((folder / "adapter_config.json").read_text("utf-8")) if is_adapter(folder) else {}
    base = folder_of(adapter["base_model_name_or_path"]) if adapter else str(folder)
    config = AutoConfig.from_pretrained(base, local_files_only=True)
    scores = adapter.get("task_type") == "SEQ_CLS" or "SequenceClassification" in str(config.architectures)
    more = {"num_labels": 1} if scores and adapter else {}
    kind = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    model = kind.from_pretrained(base, local_files_only=True, dtype=dtype or torch.float32, **more)
    if adapter:
        from peft import PeftModel

        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft uses an old name of transformers'
            model = PeftModel.from_pretrained(model, str(folder))
    return model.eval()


def save(final: Path, draft: Path, dtype: str) -> dict[str, Any]:
    """Merge where there is an adapter, save in `dtype`, load again, and compare logits all along."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(final, local_files_only=True)
    model = load_trained(final)
    check_finite(model)
    before = logits(model, tokenizer)
    checked = {}
    if is_adapter(final):
        model = model.merge_and_unload()
        merged = apart(before, logits(model, tokenizer))
        print(f"logits, adapter against merged (float32): max abs difference {merged:.2e}", file=sys.stderr)
        if not merged < (bound := PARITY * max(1.0, before.abs().max().item())):
            raise WeightsError(
                f"the merged model's logits differ from the adapter's by {merged:.2e} (bound {bound:.0e})"
            )
        checked["merged_logits_max_abs_difference"] = merged
    model.config.use_cache = True
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    if model.can_generate():
        set_ends(model.generation_config, tokenizer)
    model.to(getattr(torch, dtype)).save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    tidy(draft / "tokenizer_config.json")
    saved = apart(before, logits(load_trained(draft), tokenizer))
    print(f"logits, trained against saved ({dtype}): max abs difference {saved:.2e}", file=sys.stderr)
    if not math.isfinite(saved):
        raise WeightsError(f"the model saved as {dtype} gives logits that are not finite")
    if dtype == "float32" and not saved < PARITY * max(1.0, before.abs().max().item()):
        raise WeightsError(f"the saved model's logits differ from the trained one's by {saved:.2e}")
    return {**checked, "saved_logits_max_abs_difference": saved}


def check_finite(model: Any) -> None:
    """WeightsError where a weight is NaN or infinite: whatever such a model answers, it has not learned it."""
    wrong = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if wrong:
        raise WeightsError(f"the trained weights are not finite: {len(wrong)} tensor(s), the first {wrong[0]}")


def logits(model: Any, tokenizer: Any) -> Any:
    """Of every token of the probes, in a row."""
    import torch

    with torch.no_grad():
        each = [model(**tokenizer(text, return_tensors="pt")).logits.float().flatten() for text in PROBES]
    return torch.cat(each)


def apart(one: Any, other: Any) -> float:
    """The largest absolute difference of two tensors of one shape."""
    return float((one - other).abs().max())
