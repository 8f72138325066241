"""The model card of an exported run, made from its run.json."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from trainers.export.served import Served
from trainers.methods.table import Method


def card(
    name: str,
    method: Method,
    served: Served,
    run: Mapping[str, Any],
    last: Mapping[str, Any],
    checked: Mapping[str, Any],
    license: str,
) -> str:
    """README.md: what it is, what it was made of, what was measured and how it is served.

    Args:
        run, last: run.json of the whole run, and of its last training (the same for most methods).
    """
    recipe = run["recipe"]
    license = license or recipe.get("license") or ""
    base = recipe.get("model") or run.get("init", "?")
    public = base if base.count("/") == 1 and not base.startswith((".", "/")) else ""
    front = {
        "library_name": "transformers",
        "pipeline_tag": served.pipeline,
        **({"license": license} if license else {}),
        **({"base_model": public} if public else {}),
        "tags": ["trimtab", run["method"]],
    }
    loss = last.get("loss", {})
    about = f"{method.title[0].upper()}{method.title[1:]} ({method.paper})"
    if loss:
        about += f": {loss['name']} ({loss['paper']})"
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", "", f"# {name}", ""]
    lines += [f"{about}. Base model: {public or base.rstrip('/').rsplit('/', 1)[-1]}.", ""]
    if not license:
        lines += [
            "**No licence was given.** It follows from the base model's and the data's; export with --license.",
            "",
        ]
    lines += ["## Data", "", *data(run), "", "## Measured", "", *measured(run), "", "## Served", ""]
    lines += [*served.lines(name), "", "## Made", "", *made(run, last, checked)]
    return "\n".join(lines) + "\n"


def data(run: Mapping[str, Any]) -> Iterator[str]:
    """Hashes, numbers of rows, and what was dropped."""
    for what, digest in run.get("data_sha256", {}).items():
        yield f"- {what.removeprefix('the data of ')}: sha256 `{digest}`"
    if rows := run.get("rows"):
        yield f"- rows: {', '.join(f'{number:,} {part}' for part, number in rows.items())}"
    if counts := run.get("data", {}).get("counts"):
        yield f"- {counts['pairs']:,} pairs; {counts['unchanged']:,} prompts that the critic left as they are"
        dropped = ", ".join(f"{reason} {number:,}" for reason, number in counts["dropped"].items())
        yield f"- dropped: {dropped or 'none'}"


def measured(run: Mapping[str, Any]) -> Iterator[str]:
    """A table of the held-out numbers, before training where they were measured."""
    before, after = run.get("heldout_before", {}), run.get("heldout", {})
    skipped = ("runtime", "per_second", "epoch", "_tokens", "seconds")
    before, after = flat(before), flat(after)
    rows = {k: v for k, v in after.items() if _number(v) and not any(word in k for word in skipped)}
    if not rows:
        yield "Nothing was held out, so nothing was measured."
        return
    yield "| held out | before | after |"
    yield "| --- | --- | --- |"
    for key, value in rows.items():
        was = before.get(key)
        yield f"| {key.removeprefix('eval_')} | {f'{was:.4g}' if _number(was) else ''} | {value:.4g} |"


def flat(found: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested numbers (cpt has them by block and source) under names such as "512/text/loss"."""
    out: dict[str, Any] = {}
    for key, value in found.items():
        out |= flat(value, f"{above}{key}/") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return out


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def made(run: Mapping[str, Any], last: Mapping[str, Any], checked: Mapping[str, Any]) -> Iterator[str]:
    """How it was trained, saved and checked, and with which versions."""
    trained, whole = last.get("trained_parameters"), last.get("parameters")
    if trained and whole:
        spent = f"{last.get('steps', '?')} steps, {last.get('seconds', 0):,} s"
        yield f"- {trained:,} of {whole:,} parameters trained, {spent}"
    if (merged := checked.get("merged_logits_max_abs_difference")) is not None:
        yield f"- the adapter is merged; logits differ from the adapter's by at most {merged:.1e} (float32)"
    saved = checked["saved_logits_max_abs_difference"]
    yield f"- saved as {checked['dtype']}; logits differ from the trained ones by at most {saved:.1e}"
    template = checked["template"]
    yield f"- {template['kind']} template: {template['prompts_compared']} prompts give the tokens that were trained on"
    versions = ", ".join(f"{name} {number}" for name, number in run.get("versions", {}).items())
    yield f"- {versions}; Python {run.get('python', '?')}; trimtab at {run.get('commit') or 'no commit'}"
    yield "- the recipe and all numbers: run.json"
