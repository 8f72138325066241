"""The steps of a round. Each leaves its output in the round's folder, whole, and does nothing where that is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from trainers.ask.engine import Answer, Engine, EngineError, ask_bodies
from trainers.ask.journal import write_whole
from trainers.data.layouts import read_rows
from trainers.data.messages import spoken
from trainers.flywheel.flywheel_recipe import Recipe
from trainers.flywheel.server import TRIMTAB, serving, steady_port, write_settings
from trainers.rounds.engine_process import end_with_parent
from trainers.rounds.sample import Prompt, Sample, key_of
from trainers.rounds.score import MarksScorer, PairsScorer, RuleScorer, Scorer, Scores, of_engine

Tell = Callable[[str], None]


class StepError(Exception):
    """A step did not succeed; the message says which, and where its log is."""


def collect(recipe: Recipe, actor: Path, folder: Path, number: int, tell: Tell) -> Path:
    """The file of preferences: exported from the recipe's server, or from one that serves the actor for this.

    Raises:
        EngineError: the server does not start, or the judge is away. StepError: there are no preferences.
    """
    pairs = folder / "pairs.jsonl"
    if pairs.is_file():
        return pairs
    settings = Path(recipe.feedback) if recipe.feedback else prefer(recipe, actor, folder, number, tell)
    draft = pairs.with_suffix(".part")
    command(folder, "feedback", "feedback", "export", "--config", str(settings), "--out", str(draft))
    if not draft.stat().st_size:
        raise StepError(
            f"the server of {settings} has no preferences" if recipe.feedback else
            f"{folder.name}: no question got two answers of different worth: more samples, a higher temperature, or a "
            "rule that tells more of them apart"
        )  # fmt: skip
    os.replace(draft, pairs)
    return pairs


def prefer(recipe: Recipe, actor: Path, folder: Path, number: int, tell: Tell) -> Path:
    """Have the served actor answer, and give the server the preferences; its configuration."""
    settings = write_settings(folder / "serve.toml", {"actor": actor}, {recipe.alias: "actor"}, recipe.launcher)
    began = time.monotonic()
    with serving(settings, recipe.timeout) as url:
        prompts, groups, answers = asked(recipe, url, folder, number)
        cut = sum(answer.finish == "length" for answer in answers.values())
        tell(f"answers: {len(answers)} to {len(prompts)} questions, {cut} cut off ({time.monotonic() - began:.0f} s)")
        scores = scorer_of(recipe).score(prompts, groups, folder)
        wanted = preferences(groups, scores, recipe.least_gap)
        values = [value for group in scores for value in group if value is not None]
        with httpx.Client(timeout=60) as client:
            lost = give(client, url, [(answers[one.key].trace, answers[other.key].trace) for one, other in wanted])
    tell(f"preferences: {len(wanted) - lost} given, mean score {sum(values) / len(values or [0.0]):.3f}"
         + (f", {lost} without a trace" if lost else ""))  # fmt: skip
    return settings


def asked(
    recipe: Recipe, url: str, folder: Path, number: int
) -> tuple[list[Prompt], list[list[Sample]], dict[str, Answer]]:
    """The questions, their samples, and the answers by the samples' keys; each is on disk before it counts."""
    prompts: list[Prompt] = [spoken(row["prompt"], "user") for row in read_rows(recipe.questions, "prompt")]
    engine = Engine(url, recipe.alias, temperature=recipe.temperature, max_tokens=recipe.max_tokens,
                    concurrency=recipe.concurrency, timeout_s=recipe.timeout)  # fmt: skip
    bodies = {
        key_of(at, i): {**engine.body(prompt), "seed": seed_of(recipe, number, at, i)}  # type: ignore[arg-type]
        for at, prompt in enumerate(prompts) for i in range(recipe.samples)
    }  # fmt: skip
    answers = ask_bodies(engine, bodies, folder / "answers.jsonl", "answers")
    groups = [
        [Sample(at, i, (told := answers[key_of(at, i)]).text, "refused" if told.refused else told.finish)
         for i in range(recipe.samples)]
        for at in range(len(prompts))
    ]  # fmt: skip
    return prompts, groups, answers


def seed_of(recipe: Recipe, number: int, at: int, sample: int) -> int:
    """Of one sample: another for each round, question and sample."""
    return ((recipe.seed * 1000 + number) * 100_003 + at * recipe.samples + sample) % 2**31


def scorer_of(recipe: Recipe) -> Scorer:
    """The rule, or the judge, that the recipe names."""
    if recipe.scorer == "rule":
        return RuleScorer(recipe.rule)
    if recipe.scorer == "judge_marks":
        return MarksScorer(of_engine(recipe.judge))
    return PairsScorer(recipe.judge, recipe.seed)


def preferences(groups: Sequence[Sequence[Sample]], scores: Scores, least_gap: float) -> list[tuple[Sample, Sample]]:
    """(better, worse) of each question: its highest and its lowest score, where these are more than the gap apart.

    Answers that were cut off, refused or are empty teach nothing: a model would learn to end where they were cut.
    """
    found = []
    for group, values in zip(groups, scores, strict=True):
        usable = [
            (value, sample) for sample, value in zip(group, values, strict=True)
            if value is not None and sample.finish not in ("length", "refused") and sample.text.strip()
        ]  # fmt: skip
        if not usable:
            continue
        (high, best), (low, worst) = max(usable, key=_value), min(usable, key=_value)
        if high - low > least_gap and best.text != worst.text:
            found.append((best, worst))
    return found


def _value(scored: tuple[float, Sample]) -> float:
    return scored[0]


def give(client: httpx.Client, url: str, traces: Sequence[tuple[str, str]]) -> int:
    """POST each preference; how many the server could not take, as it has lost a trace (it was killed hard).

    One that is given twice is kept once. Raises EngineError for any other refusal.
    """
    lost = 0
    for chosen, rejected in traces:
        reply = client.post(f"{url}/v1/feedback", json={"chosen": chosen, "rejected": rejected})
        if reply.status_code == httpx.codes.NOT_FOUND:
            lost += 1
        elif reply.status_code != httpx.codes.OK:
            raise EngineError(f"the server refuses a preference: {reply.status_code} {reply.text[:200]}")
    return lost


def learn(recipe: Recipe, actor: Path, pairs: Path, folder: Path, number: int) -> dict[str, Any]:
    """`trimtab train pair` on the round's pairs; what its run.json holds."""
    run = folder / "train" / "run.json"
    if not run.is_file():
        fixed = recipe.arguments(model=actor, train=pairs, seed=recipe.seed + number)
        command(folder, "train", "train", "pair", "--config", recipe.train, "--out", str(run.parent), *fixed)
    return dict(json.loads(run.read_text("utf-8")))


def publish(folder: Path) -> Path:
    """`trimtab export`: the folder of the round's model, which appears whole or not at all."""
    model = folder / "model"
    if not model.is_dir():
        command(folder, "export", "export", "--run", str(folder / "train"), "--out", str(model), "--dtype", "float32")
    return model


def compare(recipe: Recipe, models: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """Serve the models side by side, and `trimtab eval` them; its report for each of them as baseline but the last.

    `models`: the first, the one in service where it is another one, and the new one, by names for clients.
    """
    out, port = folder / "eval", steady_port(folder / "port", folder / "eval")
    reports = {name: folder / f"against-{name}.json" for name in list(models)[:-1]}
    first = next(iter(models))
    aliases = {f"{recipe.alias}-{name}": name for name in models}
    settings = write_settings(folder / "compare.toml", models, aliases, recipe.launcher, port)
    plan = ["--prompts", recipe.heldout, "--temperature", "0", "--max-tokens", str(recipe.max_tokens),
            "--concurrency", str(recipe.concurrency), "--timeout", f"{recipe.timeout:g}", "--seed", str(recipe.seed),
            "--url", f"http://127.0.0.1:{port}", *judging(recipe)]  # fmt: skip
    for name in models:
        plan += ["--arm", f"{name}={name}#{recipe.alias}-{name}"]
    if not reports[first].is_file():
        with serving(settings, recipe.timeout, port):
            command(folder, "eval", "eval", *plan, "--out", str(out))
        write_whole(reports[first], (out / "report.json").read_text("utf-8"))
    for name, path in reports.items():
        if not path.is_file():
            command(folder, "report", "eval", "--report", "--out", str(out), "--baseline", name)
            write_whole(path, (out / "report.json").read_text("utf-8"))
    return {name: json.loads(path.read_text("utf-8")) for name, path in reports.items()}


def judging(recipe: Recipe) -> list[str]:
    """`trimtab eval`'s flags for the same rule or judge that the preferences are of."""
    if recipe.scorer == "rule":
        return ["--rule", recipe.rule]
    key = ["--judge-key-env", recipe.judge_key_env] if recipe.judge_key_env else []
    return ["--judge", f"{recipe.judge_url}#{recipe.judge_model}", *key]


def command(folder: Path, log: str, *arguments: str) -> None:
    """Run a `trimtab` command to its end; StepError with the end of its log where it fails."""
    file = folder / f"{log}.log"
    with file.open("ab") as out:
        status = subprocess.run(
            [*TRIMTAB, *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
            preexec_fn=end_with_parent,
        ).returncode
    if status:
        last = file.read_text("utf-8", "replace").strip().splitlines()[-1:] or [""]
        raise StepError(f"trimtab {arguments[0]} ended with status {status}: {last[0]} (all of it in {file})")


def discard(folder: Path) -> None:
    """Take away what a round no longer needs once it counts: checkpoints of its training."""
    for path in (folder / "train").glob("checkpoint-*"):
        shutil.rmtree(path)
