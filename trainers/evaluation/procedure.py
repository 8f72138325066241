"""One evaluation, from its plan to its report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainers.ask.host import EngineError
from trainers.ask.journal import Journal
from trainers.evaluation import folder
from trainers.evaluation.arms.arm import Arm, Identity, find
from trainers.evaluation.arms.sampling import Asked, Job, ask_arms, jobs, read_answer, write_answer
from trainers.evaluation.checks.limit import Check, CheckError
from trainers.evaluation.core import Answer, Question
from trainers.evaluation.measure import cost
from trainers.evaluation.measure.counts import counts
from trainers.evaluation.measure.traces import read_found, with_principles, write_found
from trainers.evaluation.plan import Plan, all_questions, read_sets
from trainers.rounds.rule import load_rule


def run(plan: Plan, out: Path | None, dry: bool, argv: Sequence[str], check: Check | None = None) -> int:
    """The command's status; without `out`, or `dry`, only what it would take is said, and nothing is sent.

    With a `check` the status is that of the check.

    Raises:
        CheckError: it names no arm. ArmError, RecipeError, DataError, FolderError: the plan is wrong, or another one.
        EngineError: a server is away, or the judge cannot judge. JournalError: the folder is in use.
    """
    arms = plan.read_arms()
    if check is not None:
        checked_arm(check, arms, plan.baseline or arms[0].name)
    if plan.rule:
        load_rule(plan.rule)
    sets = read_sets(plan)
    questions = all_questions(sets)
    found = [find(arm) for arm in arms]
    arms = [arm for arm, _ in found]
    todo = jobs(arms, questions, plan.samples, plan.seed, plan.turns)
    if dry or out is None:
        print(cost.before(plan, len(arms), questions, todo, 0))
        return 0
    _judge_allowed(plan, arms)
    what = folder.fixed(plan, found, sets, questions)
    with Journal(out / "answers.jsonl", read_answer, write_answer) as kept:  # of two at once one begins
        before = folder.begin(out, what, questions, len(kept.known))
        told: dict[str, Any] = {
            "version": version("trimtab"), "command": ["trimtab", "eval", *argv],
            "started": before.get("started") or time.strftime("%Y-%m-%dT%H:%M:%S%z"), "plan": asdict(plan),
            "limits": before.get("limits", []), "turned_away": before.get("turned_away", 0),
        }  # fmt: skip
        folder.write(out / "run.json", {**told, "fixed": what})
        there = sum(kept.get(job.key) is not None for job in todo)
        left = [job for job in todo if kept.get(job.key) is None]
        print(cost.before(plan, len(arms), questions, left, there))
        asked = _ask(plan, arms, todo, kept, there)
    asked.turned_away += told["turned_away"]
    asked.notes = told["limits"] = list(dict.fromkeys([*told["limits"], *asked.notes]))
    answers = principles(arms, asked, out)
    baseline = plan.baseline or arms[0].name
    told |= outcome(plan, found, asked, answers, len(questions) * plan.samples, baseline)
    if not left and "finished" in before:
        told["finished"] = before["finished"]
    folder.write(out / "run.json", {**told, "fixed": what})
    _say(told, asked)
    print(f"used: {cost.spent(plan, [a for some in answers.values() for a in some])}")
    report(plan, out, {**told, "fixed": what}, questions, answers, baseline)
    status = 1 if asked.stopped or any(arm["failed"] for arm in told["arms"]) else 0
    if check is None:
        return status
    _, now = find(checked_arm(check, arms, baseline))
    told |= {"fixed": what}
    return conclude(check, out, found, told, questions, answers, baseline, plan.seed, now=now)


def checked_arm(check: Check, arms: Sequence[Arm], baseline: str) -> Arm:
    """The arm that a check is of.

    Raises:
        CheckError: there is none of that name, or none but the baseline.
    """
    named = [arm for arm in arms if (arm.name == check.arm if check.arm else arm.name != baseline)]
    if not named:
        valid = ", ".join(arm.name for arm in arms)
        raise CheckError(f"no arm {check.arm!r} to check; the arms are {valid}")
    return named[0]


def conclude(
    check: Check, out: Path, found: Sequence[tuple[Arm, Identity]], told: Mapping[str, Any],
    questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]], baseline: str, seed: int,
    *, now: Identity | None = None,
) -> int:  # fmt: skip
    """Hold the answers against the check's limits, write check.json and check.xml, say it; the command's status.

    `now` is the checked arm's identity after its last answer, where it was asked for.
    """
    from trainers.evaluation.checks.result import STATUS, Checked, write_result
    from trainers.evaluation.checks.ruling import rule

    known = {arm.name: (arm, identity) for arm, identity in found}
    arm, identity = known[checked_arm(check, [arm for arm, _ in found], baseline).name]
    missing = [row["name"] for row in told["arms"] if row["answered"] + row["refused"] < row["wanted"]]
    why = f"not every question was answered by {', '.join(missing)}" if missing else ""
    if now is not None and now.digest != identity.digest:
        why = f"the policy was changed while it was asked: its digest was {identity.digest}, now it is {now.digest}"
    checked = Checked(
        arm.name, arm.policy, identity.digest, identity.model, baseline, known[baseline][1].digest,
        told["fixed"]["questions_sha256"], why,
    )  # fmt: skip
    rulings = rule(check, questions, answers, arm.name, baseline, seed)
    result = write_result(out, check, checked, rulings)
    print("\n".join([f"  {ruling.words}" for ruling in rulings] + ([f"  {why}"] if why else [])))
    print(f"check of {arm.name} (digest {identity.digest or 'unknown'}): {result}; {out / 'check.json'}, check.xml")
    return STATUS[result]


def _ask(plan: Plan, arms: Sequence[Arm], todo: Sequence[Job], kept: Journal[Answer], there: int) -> Asked:
    with tqdm(total=len(todo), initial=there, desc="answers", unit="") as bar:

        def early(some: Sequence[Answer], seconds: float) -> None:
            bar.write(cost.after(plan, some, len(todo) - there - len(some), seconds))

        return ask_arms(arms, todo, kept, plan.manner, bar, early)


def principles(arms: Sequence[Arm], asked: Asked, out: Path) -> dict[str, list[Answer]]:
    """The answers by arm, with the ids of the principles that their traces name."""
    with Journal(out / "traces.jsonl", read_found, write_found) as kept:
        answers, missing = with_principles(arms, asked.answers, kept)
    if missing:
        unknown = f"the principles of {missing} answers are unknown: their traces could not be read"
        asked.notes = [*asked.notes, unknown]
    return answers


def outcome(
    plan: Plan, found: Sequence[tuple[Arm, Identity]], asked: Asked, answers: Mapping[str, Sequence[Answer]],
    wanted: int, baseline: str,
) -> dict[str, Any]:  # fmt: skip
    """What run.json says of how it went: how far each arm came, and what is not as one would think."""
    arms = []
    for arm, identity in found:
        statuses = [answer.status for answer in answers[arm.name]]
        arms.append({
            "name": arm.name, "url": arm.url, "model": identity.model, "policy": arm.policy,
            "decoding": dict(arm.decoding), "digest": identity.digest, "stages": list(identity.stages),
            "engine": identity.engine, "profile": identity.profile, "indexes": list(identity.indexes),
            "wanted": wanted, "answered": statuses.count("ok"), "refused": statuses.count("refused"),
            "failed": statuses.count("failed"), "stopped": asked.stopped.get(arm.name, ""),
        })  # fmt: skip
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "baseline": baseline, "arms": arms, "notes": asked.notes,
        "turned_away": asked.turned_away, "concurrency": plan.concurrency, "price": plan.price,
        "judge": plan.judge, "calibrate": plan.calibrate, "rule": plan.rule,
    }  # fmt: skip


def _say(told: Mapping[str, Any], asked: Asked) -> None:
    for arm in told["arms"]:
        missing = arm["wanted"] - arm["answered"] - arm["refused"]
        parts = [f"{arm['refused']} refused by the engine"] if arm["refused"] else []
        parts += [f"{missing} without an answer, which the same command asks again"] if missing else []
        if parts or arm["stopped"]:
            print(
                f"arm {arm['name']!r}: {arm['answered']} of {arm['wanted']} answered" + "".join(f", {p}" for p in parts)
            )
        if arm["stopped"]:
            print(f"  given up: {arm['stopped']}")
    if asked.turned_away:
        print(f"{asked.turned_away} requests were rejected by a busy host and retried")
    for note in asked.notes:
        print(f"note: {note}")


def _judge_allowed(plan: Plan, arms: Sequence[Arm]) -> None:
    if plan.judge:
        from trainers.evaluation.judging.judge_run import check

        check(plan, arms)


def report(
    plan: Plan, out: Path, told: Mapping[str, Any], questions: Sequence[Question],
    answers: Mapping[str, Sequence[Answer]], baseline: str, *, asks: bool = True,
) -> None:  # fmt: skip
    """Compare what there is to compare, have it judged where that was asked for, and write it down.

    Without `asks` the judge is not asked, and counts where it has said everything.

    Raises EngineError where the judge could not be asked to the end, once the rest is written.
    """
    from trainers.evaluation.report.report_files import write_report
    from trainers.evaluation.report.terminal import judged as told_by_judge
    from trainers.evaluation.report.terminal import table
    from trainers.evaluation.stats.compare import compare

    some = {name: said for name, said in answers.items() if any(answer.status == "ok" for answer in said)}
    if baseline not in some or len(some) < 2:
        print("nothing to compare: the baseline and one arm more must have answers")
        return
    judged: Any = None
    away: EngineError | None = None
    marks: Mapping[str, Any] = {}
    described: Mapping[str, Any] = {}
    if plan.judge:
        from trainers.evaluation.judging.aspect_scores import MEASURES
        from trainers.evaluation.judging.judge_run import judge

        try:
            judged = judge(plan, questions, some, baseline, out / "judge", asks=asks)
        except EngineError as error:  # what needs no judge is told all the same
            away, untried = error, f"the judge did not finish, and this is without it: {error}"
        else:
            marks, described = (judged.scores.marks, MEASURES) if judged.scores else ({}, {})
            untried = judged.untried
        told = {**told, "untried": untried, "notes": [*told["notes"], *([untried] if untried else [])]}
        folder.write(out / "run.json", told)
        if untried:
            print(f"note: {untried}")
    if plan.rule:
        from trainers.evaluation.judging.rule_run import RULE, by_rule

        judged = by_rule(plan.rule, questions, some, baseline, plan.seed)
        marks, described = judged.marks, {RULE.name: RULE}
    comparisons = compare(questions, some, baseline, marks, described=described, seed=plan.seed)
    if plan.rule:
        write_report(out, told, questions, answers, comparisons, None, judged.preferences, verdicts=judged.verdicts)
    elif judged:
        write_report(
            out, told, questions, answers, comparisons, judged.calibration, judged.preferences,
            verdicts=judged.verdicts, scores=judged.scores, described=described,
        )  # fmt: skip
    else:
        write_report(out, told, questions, answers, comparisons)
    width = shutil.get_terminal_size((120, 24)).columns
    print(table(comparisons, width, counts(answers, len(questions) * plan.samples)))
    if plan.rule:
        print(told_by_judge(judged.preferences, baseline, width=width, rule=plan.rule))
    elif judged:
        print(told_by_judge(judged.preferences, baseline, judged.calibration, width))
    print(f"report: {out / 'report.html'} (and report.json)")
    if away:
        raise away
