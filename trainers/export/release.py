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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainers.data.jsonl import DataError
from trainers.data.tokens import encode_prompt
from trainers.export.card import card
from trainers.export.served import Served
from trainers.methods.table import METHODS, Method, resolve
from trainers.run.recipe import RecipeError
from trainers.run.record import write_json
from trainers.run.weights import WeightsError, is_adapter, save


class ExportError(Exception):
    """The run cannot be exported, or what came out is not what was trained; the message says which."""


def export(run: Path, out: Path, dtype: str, keep_adapter: bool, license: str) -> dict[str, Any]:
    """Make OUT, whole or not at all; returns what was checked.

    Args:
        dtype: of the saved weights, "bfloat16" or "float32".
        keep_adapter: also copy a LoRA adapter to OUT/adapter.
        license: for the model card, as the hub spells it; "" for the recipe's.

    Raises:
        ExportError: no finished run, an unknown method, OUT is taken, or the template is not the trained one.
        WeightsError: the merged or saved model is not the trained one.
    """
    record = read_run(run)
    last = read_run(run / record["last"]) if "last" in record else record  # of a run of several trainings, the last
    method, _ = method_of(run, record), method_of(run, last)
    served: Served = resolve(method.export)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"--out {out} already exists; name a new folder")
    draft = out.with_name(out.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise ExportError(f"--out {out} cannot be written: {error.strerror}") from error
    checked: dict[str, Any] = {"dtype": dtype}
    checked |= save(run / "final", draft, dtype)
    checked |= {"template": same_tokens(run, served, last, draft)}
    if keep_adapter:
        if "merged_logits_max_abs_difference" not in checked:
            raise ExportError("--keep-adapter: the run trained all weights; there is no adapter")
        shutil.copytree(run / "final", draft / "adapter", ignore=shutil.ignore_patterns("token*", "*.jinja"))
    (draft / "README.md").write_text(card(out.name, method, served, record, last, checked, license), encoding="utf-8")
    write_json(draft / "run.json", {**published(record), "exported": checked})
    for path in draft.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if out.exists():
        out.rmdir()
    os.replace(draft, out)
    return checked


def read_run(run: Path) -> dict[str, Any]:
    """run.json of a finished run; ExportError where the run is not finished."""
    try:
        record: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExportError(f"--run {run}: no run.json there; a run that is not finished has none") from None
    if not (run / "final" / "config.json").is_file() and not is_adapter(run / "final"):
        raise ExportError(f"--run {run}: no model in {run / 'final'}")
    return record


def method_of(run: Path, record: Mapping[str, Any]) -> Method:
    """The row of the method that made the run.

    Raises:
        ExportError: no row has its name, so nobody knows how its export would be checked.
    """
    name = str(record.get("method"))
    if name not in METHODS:
        raise ExportError(
            f"--run {run}: run.json names the method {name!r}, which has no row in the table of methods; "
            f"methods: {', '.join(METHODS)}"
        )
    return METHODS[name]


def published(record: Mapping[str, Any]) -> dict[str, Any]:
    """run.json without the folders of the machine that it ran on."""

    def name(value: Any) -> Any:
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return {**record, "recipe": {key: name(value) for key, value in record["recipe"].items()}}


# ---------------------------------------------------------------- templates


def same_tokens(run: Path, served: Served, last: Mapping[str, Any], draft: Path) -> dict[str, Any]:
    """The prompts of the training data, as trained and as the exported tokenizer makes them, must be the same ids.

    Raises:
        ExportError: they differ; the message names the first token that does.
    """
    from transformers import AutoTokenizer

    before, after = (AutoTokenizer.from_pretrained(path, local_files_only=True) for path in (run / "final", draft))
    pairs = served.prompts(run, last, before)
    for prompt, asked in pairs:
        wanted, got = encode_prompt(prompt, before), as_served(asked, after)
        if wanted != got:
            at = next((i for i, two in enumerate(zip(wanted, got, strict=False)) if two[0] != two[1]), len(got))
            raise ExportError(
                f"the exported template is not the trained one: token {at} of {str(prompt)[:60]!r}… would be "
                f"{after.decode(got[at : at + 1])!r}, and {after.decode(wanted[at : at + 1])!r} was trained on"
            )
    kind = served.template or ("chat" if after.chat_template else "plain text")
    print(f"template ({kind}): {len(pairs)} prompts, the same tokens as trained", file=sys.stderr)
    return {"kind": kind, "prompts_compared": len(pairs)}


def as_served(asked: Any, tokenizer: Any) -> list[int]:
    """What an engine makes of `prompt` (/v1/completions) or `messages` (/v1/chat/completions)."""
    if isinstance(asked, str):
        ids: list[int] = tokenizer(asked)["input_ids"]
        return ids
    made = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=True)
    return list(made["input_ids"])


# ---------------------------------------------------------------- the command


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 where the run cannot be exported."""
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
    except (ExportError, WeightsError, RecipeError, DataError) as error:
        print(f"trimtab export: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
