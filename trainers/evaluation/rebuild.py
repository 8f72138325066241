"""The report of a run once more, from what its folder holds: no arm is asked, and no judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from trainers.ask.journal import Journal
from trainers.evaluation import folder
from trainers.evaluation.arms.arm import Arm, Identity
from trainers.evaluation.arms.sampling import Asked, jobs, read_answer, write_answer
from trainers.evaluation.checks.limit import Check, CheckError
from trainers.evaluation.plan import Plan
from trainers.evaluation.procedure import checked_arm, conclude, outcome, principles, report
from trainers.run.recipe import RecipeError, fill

_FREE = ("baseline", "price", "rule")  # of a plan: what changes how a run is read, and not what was asked


def rebuild(out: Path, given: Mapping[str, Any], check: Check | None = None) -> int:
    """The command's status. `given`, of a plan, may repeat what the run's own says; those of _FREE may differ.

    With a `check` its limits are held against what the folder holds.

    Raises:
        CheckError: the check names no arm of the run, or the run is one of --pairs.
        FolderError: no run is there. RecipeError: the plan is another one. JournalError: it is running.
        EngineError: the judge had not finished; what needs none is written.
    """
    run = folder.run_of(out)
    if run["plan"].get("pairs"):
        from trainers.evaluation.likelihood import likelihood_run

        if check is not None:
            raise CheckError("--check does not work with --pairs: it measures answers")
        return likelihood_run.rebuild(out, run, fill(Plan, run["plan"] | dict(given)))
    questions = folder.questions_of(out, run)
    kept_plan = fill(Plan, run["plan"])
    plan = fill(Plan, run["plan"] | dict(given))
    for key in (field.name for field in fields(Plan) if field.name not in _FREE):
        if (was := getattr(kept_plan, key)) != (now := getattr(plan, key)):
            raise RecipeError(f"--report sends no requests, so {key} must stay the same: {was!r}, not {now!r}")
    found = [_arm(name, row) for name, row in run["fixed"]["arms"].items()]
    arms = [arm for arm, _ in found]
    names = [arm.name for arm in arms]
    baseline = plan.baseline or names[0]
    if baseline not in names:
        raise RecipeError(f"the baseline {baseline!r} is no arm; the arms are {', '.join(names)}")
    with Journal(out / "answers.jsonl", read_answer, write_answer) as kept:
        todo = jobs(arms, questions, plan.samples, plan.seed)
        said = {name: [a for job in todo if job.arm == name and (a := kept.get(job.key))] for name in names}
    asked = Asked(said, {}, run["limits"], turned_away=run["turned_away"])
    answers = principles([], asked, out)
    if "arms" not in run:  # it was stopped before its end
        run |= outcome(plan, found, asked, answers, len(questions) * plan.samples, baseline) | {"finished": ""}
    notes = [note for note in run["notes"] if note != run.get("untried")]
    told = run | {"baseline": baseline, "price": plan.price, "rule": plan.rule, "plan": asdict(plan), "notes": notes}
    if check is not None:
        checked_arm(check, arms, baseline)
    report(plan, out, told, questions, answers, baseline, asks=False)
    return conclude(check, out, found, told, questions, answers, baseline, plan.seed) if check is not None else 0


def _arm(name: str, row: Mapping[str, Any]) -> tuple[Arm, Identity]:
    told = dict(row["identity"])
    identity = replace(Identity(**told), stages=tuple(told["stages"]), indexes=tuple(told["indexes"]))
    return Arm(name, row["url"], row["model"], row["policy"], decoding=row["decoding"]), identity
