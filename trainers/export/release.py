"""trimtab export: a finished run becomes a folder that vLLM, `transformers serve` and `trimtab serve` load.

    trimtab export --run runs/dpo --out models/mine --license apache-2.0
    trimtab export --run runs/dpo --out models/mine --dtype float32 --keep-adapter

A LoRA adapter is merged, and the merged model must give the adapter's logits. The exported tokenizer must turn the
run's own prompts into the tokens that were trained on, asked as a server asks it. README.md, the model card, is made
from run.json. `--keep-adapter` also puts the adapter into OUT/adapter, for vLLM's --enable-lora.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainers.data.jsonl import DataError
from trainers.run.recipe import RecipeError

PARITY = 1e-5  # of the logits, in float32, or of the largest of them where that is above 1
PROBES = (
    "The capital of France is",
    "Why is the sky blue?",
    "Write three tips:\n1.",
    "def add(a, b):\n    return",
    "你好",
)
ROWS = 50  # of the training data, whose tokens are compared


class ExportError(Exception):
    """The run cannot be exported, or what came out is not what was trained; the message says which."""


def export(run: Path, out: Path, dtype: str, keep_adapter: bool, license: str) -> dict[str, Any]:
    """Make OUT, whole or not at all; returns what was checked.

    Raises:
        ExportError: no finished run, OUT is taken, merged logits differ, or the template is not the trained one.
    """
    from trainers.export.card import card

    record = read_run(run)
    last = read_run(run / record["last"]) if "last" in record else record  # of a run of several trainings, the last
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"--out {out} is there already; name a new folder")
    draft = out.with_name(out.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise ExportError(f"--out {out} cannot be written: {error.strerror}") from error
    checked: dict[str, Any] = {"dtype": dtype}
    checked |= save(run / "final", draft, dtype)
    checked |= {"template": same_tokens(run, record, last, draft)}
    if keep_adapter:
        if "merged_logits_max_abs_difference" not in checked:
            raise ExportError("--keep-adapter: the run trained all weights; there is no adapter")
        shutil.copytree(run / "final", draft / "adapter", ignore=shutil.ignore_patterns("token*", "*.jinja"))
    (draft / "README.md").write_text(card(out.name, record, last, checked, license), encoding="utf-8")
    (draft / "run.json").write_text(
        json.dumps({**published(record), "exported": checked}, indent=2) + "\n", encoding="utf-8"
    )
    for path in draft.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if out.exists():
        out.rmdir()
    os.replace(draft, out)
    return checked


def read_run(run: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExportError(f"--run {run}: no run.json there; a run that is not finished has none") from None
    if not (run / "final" / "config.json").is_file() and not is_adapter(run / "final"):
        raise ExportError(f"--run {run}: no model in {run / 'final'}")
    return record


def published(record: Mapping[str, Any]) -> dict[str, Any]:
    """run.json without the folders of the machine that it ran on."""

    def name(value: Any) -> Any:
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return {**record, "recipe": {key: name(value) for key, value in record["recipe"].items()}}


# ---------------------------------------------------------------- weights


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def load_trained(folder: Path, dtype: Any = None) -> Any:
    """A run's `final` as a model that computes: full weights, or the base model with the adapter on it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    from trainers.run.model import folder_of

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

    from trainers.run.record import tidy

    tokenizer = AutoTokenizer.from_pretrained(final, local_files_only=True)
    model = load_trained(final)
    before = logits(model, tokenizer)
    checked = {}
    if is_adapter(final):
        model = model.merge_and_unload()
        merged = apart(before, logits(model, tokenizer))
        print(f"logits, adapter against merged (float32): max abs difference {merged:.2e}", file=sys.stderr)
        if not merged < (bound := PARITY * max(1.0, before.abs().max().item())):
            raise ExportError(
                f"the merged model's logits differ from the adapter's by {merged:.2e} (bound {bound:.0e})"
            )
        checked["merged_logits_max_abs_difference"] = merged
    model.config.use_cache = True
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    if model.can_generate():
        given = model.generation_config
        given.bos_token_id, given.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        given.pad_token_id = tokenizer.pad_token_id
    model.to(getattr(torch, dtype)).save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    tidy(draft / "tokenizer_config.json")
    saved = apart(before, logits(load_trained(draft), tokenizer))
    print(f"logits, trained against saved ({dtype}): max abs difference {saved:.2e}", file=sys.stderr)
    if dtype == "float32" and not saved < PARITY * max(1.0, before.abs().max().item()):
        raise ExportError(f"the saved model's logits differ from the trained one's by {saved:.2e}")
    return {**checked, "saved_logits_max_abs_difference": saved}


def logits(model: Any, tokenizer: Any) -> Any:
    """Of every token of the probes, in a row."""
    import torch

    with torch.no_grad():
        each = [model(**tokenizer(text, return_tensors="pt")).logits.float().flatten() for text in PROBES]
    return torch.cat(each)


def apart(one: Any, other: Any) -> float:
    return float((one - other).abs().max())


# ---------------------------------------------------------------- templates


def same_tokens(run: Path, record: Mapping[str, Any], last: Mapping[str, Any], draft: Path) -> dict[str, Any]:
    """The prompts of the training data, as trained and as the served tokenizer makes them, must be the same ids."""
    from transformers import AutoTokenizer

    from trainers.data.tokens import encode_prompt

    trained, served = (AutoTokenizer.from_pretrained(path, local_files_only=True) for path in (run / "final", draft))
    pairs = list(rewriter_prompts(run, trained) if record["method"] == "bpo" else chat_prompts(last))
    for prompt, asked in pairs:
        wanted, got = encode_prompt(prompt, trained), as_served(asked, served)
        if wanted != got:
            at = next((i for i, two in enumerate(zip(wanted, got, strict=False)) if two[0] != two[1]), len(got))
            raise ExportError(
                f"the exported template is not the trained one: token {at} of {str(prompt)[:60]!r}… would be "
                f"{served.decode(got[at : at + 1])!r}, and {served.decode(wanted[at : at + 1])!r} was trained on"
            )
    kind = "the rewriter's" if record["method"] == "bpo" else "chat" if served.chat_template else "plain text"
    print(f"template ({kind}): {len(pairs)} prompts, the same tokens as trained", file=sys.stderr)
    return {"kind": kind, "prompts_compared": len(pairs)}


def as_served(asked: Any, tokenizer: Any) -> list[int]:
    """What an engine makes of `prompt` (/v1/completions) or `messages` (/v1/chat/completions)."""
    if isinstance(asked, str):
        ids: list[int] = tokenizer(asked)["input_ids"]
        return ids
    made = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=True)
    return list(made["input_ids"])


def rewriter_prompts(run: Path, tokenizer: Any) -> list[tuple[str, str]]:
    """(what was trained on, what the server sends) for the prompts of a bpo run."""
    from prompt_opt.rewriter.settings import Rewriter
    from prompt_opt.rewriter.template import BPO
    from trainers.bpo.rewrites import read_rewrites
    from trainers.bpo.samples import specials_of

    rewriter = Rewriter("exported", "engine", BPO, specials=specials_of(tokenizer))
    rows = read_rewrites(run, "train")[:ROWS]
    trained = [json.loads(line)["prompt"] for line in (run / "sft_train.jsonl").read_text("utf-8").splitlines()[:ROWS]]
    return [(one, rewriter.body(row["prompt"], "replace")["prompt"]) for one, row in zip(trained, rows, strict=True)]


def chat_prompts(last: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """(prompt of a row, what a client sends for it); of the training data, or of some words where that is gone."""
    from trainers.data.layouts import read_rows

    recipe = last["recipe"]
    prompts: list[Any]
    try:
        kind = {"sft": "completion", "kto": "labelled"}.get(last["method"], "preference")
        prompts = [row["prompt"] for row in read_rows(recipe["train"], kind)[:ROWS]]
    except DataError as error:
        print(f"the template is compared on made-up prompts: {error}", file=sys.stderr)
        prompts = list(PROBES)
    if "plain text" in last.get("layout", ""):
        return [(prompt, prompt) for prompt in prompts]
    return [(p, [{"role": "user", "content": p}] if isinstance(p, str) else p) for p in prompts]


# ---------------------------------------------------------------- the command


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "trimtab export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="the OUT of a finished `trimtab train`")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the model")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the saved weights")
    parser.add_argument("--keep-adapter", action="store_true", help="put the LoRA adapter beside the merged model")
    parser.add_argument("--license", default="", help="the model card's, as the hub spells it: apache-2.0, mit, …")
    options = parser.parse_args(argv)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        export(options.run, options.out, options.dtype, options.keep_adapter, options.license)
    except (ExportError, RecipeError, DataError) as error:
        print(f"trimtab export: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
