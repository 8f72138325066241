"""`trimtab profile search`: find a profile for a model, and check it on pairs that the search did not see.

    read the pairs → split → score candidates on the first part, greedily → compare with a profile on the rest

The folder holds scores.jsonl (a line a score, on disk before it counts), profile.toml and search.json. An interrupted
search resumes with the same command. Status: 0 done; 1 the engine cannot be asked; 2 a mistake in what was asked for;
130 stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prompt_opt import profile
from prompt_opt.core import Profile
from trainers.ask.host import EngineError
from trainers.ask.journal import Journal, JournalError, write_whole
from trainers.data.jsonl import DataError
from trainers.evaluation.arms.arm import ArmError, find, read_arm
from trainers.evaluation.likelihood.margin import MEASURES, read_row, write_row
from trainers.evaluation.likelihood.pair_file import Pair, read_pairs
from trainers.evaluation.search.candidates import Candidates
from trainers.evaluation.search.greedy import Step, search
from trainers.evaluation.search.held_out import checked, said
from trainers.evaluation.search.pool import Pool, read_pool

OBJECTIVES = [name for name, measure in MEASURES.items() if measure.better]


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        prog="trimtab profile",
        description="Choose a profile's instruction and examples for a model, by likelihoods of labelled answers.",
    )
    add = (
        made.add_subparsers(dest="verb", required=True, metavar="search")
        .add_parser("search", help="greedy, on a part of the pairs; checked on the rest")
        .add_argument
    )
    add("--scorer", required=True, metavar="URL#MODEL", help="the engine; it gives log-probabilities of a prompt")
    add("--scorer-key-env", default="", metavar="NAME", help="the environment variable that holds its key")
    add("--pairs", action="append", required=True, metavar="FILE", help="prompts with better and worse answers")
    add("--render", choices=("base", "chat"), default="base", help="of the policy that will use it (default: base)")
    add("--against", default="default", metavar="PROFILE", help="what to beat, and whose markers and decoding to keep")
    add("--pool", action="append", default=[], metavar="FILE", help="JSONL: instruction, or user and assistant")
    add("--profiles", default="default,helpful", help="profiles whose parts are candidates (default: default,helpful)")
    add("--examples", type=int, default=3, metavar="N", help="at most (default: 3)")
    add("--dev", type=int, default=60, metavar="N", help="pairs to search on; the rest are held out (default: 60)")
    add("--objective", choices=OBJECTIVES, default="margin_per_token", help="(default: margin_per_token)")
    add("--limit", type=int, default=0, metavar="N", help="the first N pairs of each file")
    add("--seed", type=int, default=0)
    add("--concurrency", type=int, default=1, metavar="N", help="requests at a time (default: 1)")
    add("--timeout", type=float, default=120.0, metavar="S", help="seconds without data from the engine (default: 120)")
    add("--out", type=Path, required=True, metavar="FOLDER")
    return made


def main(argv: list[str] | None = None) -> int:
    """The exit status, as this module's docstring lists them."""
    args = parser().parse_args(argv)
    try:
        return run(args)
    except (ArmError, DataError, profile.ProfileError, ValueError) as error:
        print(f"trimtab profile search: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `trimtab` itself handles that the reader of its output has gone
        raise
    except (EngineError, JournalError, OSError) as error:
        print(f"trimtab profile search: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ntrimtab profile search: interrupted; the same command resumes from {args.out}", file=sys.stderr)
        return 130


def run(args: argparse.Namespace) -> int:
    """Search, check, write. Raises what `main` turns into a status."""
    against = profile.load(args.against)
    profile.to_toml(against)  # what could not be written in the end is refused now
    pool = read_pool(args.pool, [name for name in args.profiles.split(",") if name])
    pairs, notes = read_pairs(args.pairs, args.limit, 0, args.seed)
    random.Random(f"split {args.seed}").shuffle(pairs)  # noqa: S311 (a split, no secret)
    dev, held = pairs[: args.dev], pairs[args.dev :]
    if len(dev) < 2 or len(held) < 2:
        raise DataError(f"{len(pairs)} pairs are too few for --dev {args.dev} and two or more held out")
    engine, _ = find(replace(read_arm(f"scorer={args.scorer}"), key_env=args.scorer_key_env))
    for note in notes:
        print(f"note: {note}")
    print(
        f"{len(pool.instructions)} instructions and {len(pool.exemplars)} examples to choose from; "
        f"{len(dev)} pairs to search on, {len(held)} held out"
    )
    began = time.monotonic()
    with Journal(args.out / "scores.jsonl", read_row, write_row) as kept:
        candidates = Candidates(engine, args.render, kept, args.concurrency, args.timeout)
        steps, found = _searched(args, candidates, against, pool, dev)
        found = replace(found, name=args.out.name, source=f"found by trimtab profile search; {against.source}")
        sides = [candidates.values(each, held, args.objective) for each in (against, found)]
    told = checked(sides[0], sides[1], args.seed)
    write_whole(args.out / "profile.toml", profile.to_toml(found))
    document = {
        "schema": "trimtab-profile-search/1", "engine": {"url": engine.url, "model": engine.model},
        "render": args.render, "objective": args.objective, "against": args.against, "dev": len(dev),
        "steps": [_told(step) for step in steps], "held_out": told, "answers_scored": candidates.spent,
        "seconds": round(time.monotonic() - began, 1), "pairs": args.pairs, "seed": args.seed, "notes": notes,
    }  # fmt: skip
    write_whole(args.out / "search.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(said(args.against, told))
    print(
        f"profile: {args.out / 'profile.toml'} ({len(found.exemplars)} examples); {candidates.spent:,} answers scored "
        f"in {document['seconds']:.0f} s"
    )
    return 0


def _searched(
    args: argparse.Namespace, candidates: Candidates, against: Profile, pool: Pool, dev: Sequence[Pair]
) -> tuple[list[Step], Profile]:  # fmt: skip
    """The rounds of the search, each told when it is done, and the best profile, or `against`."""

    def score(candidate: Profile) -> float:
        values = candidates.values(candidate, dev, args.objective)
        if len(values) < len(dev) / 2:
            return float("-inf")  # too long for the engine's context
        return sum(values.values()) / len(values)

    best, reached = against, score(against)
    print(f"{args.against}: {reached:+.4f} on the pairs to search on", flush=True)
    steps = []
    for step in search(against, pool, args.examples, score):
        taken = "taken" if step.taken else "not better, so the search ends"
        print(f"{step.name}: the best of {len(step.tried)} has {step.score:+.4f}; {taken}", flush=True)
        steps.append(step)
        if step.score > reached:
            best, reached = step.best, step.score
    if best is against:
        print(f"nothing found is better than {args.against} there, so the profile is {args.against} itself")
    return steps, best


def _told(step: Step) -> dict[str, Any]:
    scores, best = [_finite(value) for _, value in step.tried], _finite(step.score)
    return {"name": step.name, "scores": scores, "best": best, "taken": step.taken}


def _finite(value: float) -> float | None:
    return value if value > float("-inf") else None
