"""The flywheel: served answers become preferences, preferences a model, and the model is served beside the old one.

    trimtab train flywheel --config flywheel --out runs/wheel --set questions=asked.jsonl --set rule=short.py:good

    serve -> answers -> preferences (rule or judge) -> train pair -> export -> serve both -> eval -> and again

Each step is the command that you would type (`trimtab serve`, `feedback export`, `train pair`, `export`, `eval`), in a
process of its own, over HTTP. A round's folder, OUT/round-N, holds what each step left; nothing counts before it is on
disk, so the same command resumes after a kill at any step. OUT/rounds.json names the finished rounds, OUT/trimtab.toml
serves the model that came out best beside the first one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainers.ask.engine import EngineError
from trainers.ask.journal import JournalError, write_whole
from trainers.data.jsonl import DataError, file_hash
from trainers.flywheel.flywheel_recipe import Recipe, check
from trainers.flywheel.server import write_settings
from trainers.flywheel.steps import StepError, collect, compare, discard, learn, publish
from trainers.rounds.manifest import read
from trainers.run.model import folder_of, say
from trainers.run.recipe import RecipeError, read_recipe

FREE = ("rounds", "concurrency", "timeout", "judge_key_env")
METRICS = ("words", "clean_ending", "language_matches")


def turn(recipe: Recipe, out: Path) -> list[dict[str, Any]]:
    """Run the rounds that are not finished; all of them, as rounds.json has them.

    Raises:
        RecipeError: the recipe is wrong, or not the one that OUT was begun with. DataError: the questions are.
        EngineError, StepError: a step did not succeed; the same command resumes there.
    """
    check(recipe)
    begin(recipe, out)
    base = Path(folder_of(recipe.model)).resolve()
    rounds = read(out)
    for number in range(len(rounds) + 1, recipe.rounds + 1):
        found = one(recipe, base, in_service(rounds, base), out / f"round-{number}", number)
        rounds = [*rounds, found]
        write_whole(out / "rounds.json", json.dumps(rounds, indent=2) + "\n")
        discard(out / f"round-{number}")
    names = {recipe.alias: "best", f"{recipe.alias}-first": "first"}
    write_settings(out / "trimtab.toml", {"first": base, "best": in_service(rounds, base)}, names, recipe.launcher)
    return rounds


def begin(recipe: Recipe, out: Path) -> None:
    """Keep the recipe and the hashes of its files in OUT; RecipeError where OUT was begun with others."""
    data = {name: getattr(recipe, name) for name in ("questions", "heldout")}
    if recipe.scorer == "rule":
        data["rule"] = recipe.rule.rpartition(":")[0]
    hashes = {f"the file of {name}": file_hash(Path(file)) for name, file in data.items() if file}
    path, now = out / "recipe.json", asdict(recipe) | hashes
    if path.is_file():
        before = json.loads(path.read_text("utf-8"))
        if changed := [key for key in now if now[key] != before.get(key) and key not in FREE]:
            raise RecipeError(f"{out} was begun with other values of {', '.join(changed)}; use another --out")
    try:
        write_whole(path, json.dumps(now, indent=2) + "\n")
    except OSError as error:
        raise RecipeError(f"--out {out} cannot be written: {error.strerror}") from error


def in_service(rounds: Sequence[dict[str, Any]], base: Path) -> Path:
    """The model of the last round that was kept, or the first one."""
    return next((Path(found["model"]) for found in reversed(rounds) if found["kept"]), base)


def one(recipe: Recipe, base: Path, actor: Path, folder: Path, number: int) -> dict[str, Any]:
    """One round; what rounds.json says of it."""
    folder.mkdir(parents=True, exist_ok=True)

    def tell(words: str) -> None:
        say(f"[round {number} of {recipe.rounds}] {words}")

    pairs = collect(recipe, actor, folder, number, tell)
    run = learn(recipe, actor, pairs, folder, number)
    tell(f"trained on {count_of(pairs)} pairs: {run['steps']} steps, {run['seconds']:.0f} s")
    model = publish(folder)
    tell(f"exported to {model}")
    models = {"first": base} | ({"before": actor} if actor != base else {}) | {"after": model.resolve()}
    reports = compare(recipe, models, folder)
    against = {name: outcome(report, "after") for name, report in reports.items()}
    kept = keeps(recipe.keep, against.get("before", against["first"])["win_rate"])
    for name, found in against.items():
        tell(f"after against {name}: {sentence(found)}")
    tell("the new model is served from now on" if kept else "the model before it stays in service")
    return {"round": number, "model": str(model.resolve()), "pairs": count_of(pairs), "kept": kept, "against": against}


def outcome(report: dict[str, Any], arm: str) -> dict[str, Any]:
    """What a report says of an arm against its baseline: the win rate, and how it got longer or shorter meanwhile."""
    preferred = report["judge"][arm]
    measures = {c["measure"]["name"]: c for c in report["comparisons"] if c["arm"] == arm}
    return {
        "win_rate": preferred["mean_rate"], "at_equal_length": (preferred["controlled"] or {}).get("rate"),
        "wins": preferred["wins"], "losses": preferred["losses"], "ties": preferred["ties"] + preferred["split"],
        **{
            name: {side: measures[name][side] for side in ("before", "after", "difference")}
            for name in ("rule", *METRICS) if name in measures
        },
    }  # fmt: skip


def keeps(rule: str, rate: dict[str, float] | None) -> bool:
    """Whether the new model goes into service: by its win rate's interval over the model before it, ties as halves."""
    if rule == "always" or rate is None:
        return rule != "if_better"
    return rate["low"] > 0.5 if rule == "if_better" else rate["high"] >= 0.5


def sentence(found: dict[str, Any]) -> str:
    """An outcome in a line."""
    rate, equal, words = found["win_rate"], found["at_equal_length"], found.get("words")
    parts = [f"{found['wins']} wins, {found['losses']} losses, {found['ties']} ties"]
    if rate:
        parts.insert(0, f"win rate {rate['value']:.1%} ({rate['low']:.1%} to {rate['high']:.1%})")
    if equal:
        parts.append(f"at equal length {equal['value']:.1%} ({equal['low']:.1%} to {equal['high']:.1%})")
    if words:
        parts.append(f"words {words['before']['value']:.1f} to {words['after']['value']:.1f}")
    return "; ".join(parts)


def count_of(pairs: Path) -> int:
    """Rows of a JSONL file."""
    with pairs.open("rb") as file:
        return sum(1 for _ in file)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        prog="trimtab train flywheel", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--config", type=Path, required=True, help="a recipe: a file, or a shipped one's name")
    made.add_argument("--out", type=Path, required=True, help="folder for the rounds and the final trimtab.toml")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the recipe, changed")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """0: done; 2: the recipe or the data is wrong; 1: a step failed, and the same command resumes; 130: interrupted."""
    options = parser().parse_args(argv)
    # Converted models go into the run's own folder, and disappear with it.
    os.environ.setdefault("TRIMTAB_CACHE", str((options.out / "cache").resolve()))
    try:
        rounds = turn(read_recipe(options.config, Recipe, options.set), options.out)
    except (RecipeError, DataError) as error:
        print(f"train flywheel: {error}", file=sys.stderr)
        return 2
    except (EngineError, JournalError, StepError) as error:
        print(f"train flywheel: {error}; the same command resumes", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train flywheel: interrupted; the same command resumes", file=sys.stderr)
        return 130
    for found in rounds:
        print(f"round {found['round']} against the first: {sentence(found['against']['first'])}")
    print(f"next: trimtab serve --config {options.out / 'trimtab.toml'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
