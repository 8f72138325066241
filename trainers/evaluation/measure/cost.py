"""What a run will take: requests, tokens, money, time; before it starts, and better from its first answers."""

from __future__ import annotations

from collections.abc import Sequence

from trainers.evaluation.arms.sampling import Job
from trainers.evaluation.core import Answer, Question
from trainers.evaluation.plan import Plan

_CHARACTERS = 4  # to a token, about, in English


def before(plan: Plan, arms: int, questions: Sequence[Question], left: Sequence[Job], kept: int) -> str:
    """Several lines; what is not known yet is said to be."""
    turns = sum(len(job.question.turns) for job in left)
    lettered = sum(bool(job.question.expect.get("choices")) and not job.sample for job in left) if plan.letters else 0
    read = sum(map(_prompt_tokens, (job.question for job in left)))
    extra = f", and {lettered:,} for the letters of choices" if lettered else ""
    there = f" ({kept:,} are there already)" if kept else ""
    whole = arms * len(questions) * plan.samples
    lines = [
        f"{len(questions):,} questions x {arms} arms x {plan.samples} = {whole:,} answers"
        f"{there}; {turns:,} requests{extra}",
        f"prompts: about {read:,} tokens ({_CHARACTERS} characters each; what a policy adds is not in it)",
    ]
    if plan.max_tokens:
        written = plan.max_tokens * turns
        lines.append(f"answers: at most {written:,} tokens ({plan.max_tokens} each)")
        lines += [f"cost:    at most {_money(plan, read, written)}, without what policies add"] if plan.price else []
    else:
        lines.append("answers: as long as the engines let them be (no --max-tokens)")
    if plan.judge:
        whole = len(questions) * plan.samples
        parts = [f"{2 * (arms - 1) * whole:,} verdicts, both orders of each pair"]
        parts += [f"{arms * whole:,} answers to mark"] if plan.aspects else []
        parts += ["two for each pair of --calibrate"] if plan.calibrate else []
        lines.append(f"judge:   at most {', '.join(parts)}; the tokens of these are not in what is said above")
    return "\n".join(lines)


def after(plan: Plan, some: Sequence[Answer], left: int, seconds: float) -> str:
    """From the first answers, in one line. `left` are still to come."""
    read = [a.prompt_tokens for a in some if a.prompt_tokens is not None]
    written = [a.completion_tokens for a in some if a.completion_tokens is not None]
    parts = [f"{_time(seconds / len(some) * left)} more"]
    if read and written:
        whole = len(some) + left
        ins, outs = round(sum(read) / len(read) * whole), round(sum(written) / len(written) * whole)
        parts.append(f"{ins:,} tokens in and {outs:,} out in all")
        parts += [_money(plan, ins, outs)] if plan.price else []
    return f"from the first {len(some)} answers: about {', '.join(parts)}"


def spent(plan: Plan, answers: Sequence[Answer]) -> str:
    """The tokens that were used, and the money."""
    ins = sum(a.prompt_tokens or 0 for a in answers)
    outs = sum(a.completion_tokens or 0 for a in answers)
    unknown = sum(a.status == "ok" and a.prompt_tokens is None for a in answers)
    money = f", {_money(plan, ins, outs)}" if plan.price else ""
    if answers and all(a.prompt_tokens is None for a in answers):
        return "unknown: no answer came with its token counts"
    return f"{ins:,} tokens in and {outs:,} out{money}" + (f" ({unknown} answers did not say)" if unknown else "")


def _prompt_tokens(question: Question) -> int:
    """Of all its requests: each turn is sent with those before it. The arm's own answers are not known."""
    start = len(question.system) + sum(len(text) for _, text in question.history)
    sizes = [start + sum(map(len, question.turns[: n + 1])) for n in range(len(question.turns))]
    return sum(size // _CHARACTERS + 1 for size in sizes)


def _money(plan: Plan, read: int, written: int) -> str:
    return f"{(read * plan.price[0] + written * plan.price[1]) / 1e6:,.2f} at {plan.price[0]:g} and {plan.price[1]:g}"


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
