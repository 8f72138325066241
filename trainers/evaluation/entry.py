"""`trimtab eval`: the same prompts through several arms, and what changed, with intervals.

    read the plan → find the arms → say what it takes → ask → compare → (judge) → report

Status: 0 done; 1 an arm was given up or a question got no answer, or a limit of --check is not kept; 2 the plan is
wrong; 3 a limit of --check has too few questions to say; 130 stopped.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

EXAMPLES = """
examples:
  two policies of a server, on XSTest, and a report in runs/x:
    trimtab eval --url http://127.0.0.1:8000 --arm urial-plain --arm urial --prompts xstest_prompts.csv --out runs/x

  what that would take, without sending a prompt; and how many prompts an effect of ten points needs:
    trimtab eval … --dry-run
    trimtab eval --effect 0.1

  an engine as it is, the same behind a policy, and another decoding; a sample of 100 prompts, all kinds in it:
    trimtab eval --arm raw=http://127.0.0.1:9000#llama --arm law=http://127.0.0.1:8000,policy=law \\
      --arm hot=http://127.0.0.1:8000,policy=law,temperature=1 --prompts question.jsonl --sample 100 --out runs/y

  with a judge that is none of the models, first held against people's labels:
    trimtab eval … --judge https://api.openai.com#gpt-4o --judge-key-env OPENAI_API_KEY --calibrate testset-v1.json

  with a rule of your own in the judge's place: a Python function of the messages and the answer (short.py: def good …):
    trimtab eval … --rule short.py:good

  which of two answers each policy's whole prompt makes likelier: no generation, no judge:
    trimtab eval --url http://127.0.0.1:8000 --arm raw --arm urial --pairs pairs.jsonl \\
      --scorer http://127.0.0.1:9000#llama --out runs/p

  the report once more, from the folder alone; no server need be up:
    trimtab eval --report --out runs/x --baseline urial

  a release check: limits on what is measured (docs: Evaluation), for CI and for a change that requires it:
    trimtab eval … --check check.toml --out runs/x        # 0 passed, 1 failed, 3 too few questions to say

  all of it from a file, which may say everything that a flag says; flags change it:
    trimtab eval --config trainers/evaluation/plan.yaml --out runs/z

An arm is POLICY, NAME=POLICY or NAME=URL, then #MODEL, then ,KEY=VALUE for key_env, policy, temperature, max_tokens,
top_p, stop … or body.FIELD. Two revisions of an index are two policies, or two URLs. The first arm is the baseline.

An interrupted run resumes with the same command, and no question is asked twice. A conversation
that was cut off starts again from its first turn. With another plan in the same folder it refuses.
"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        prog="trimtab eval",
        description="Ask the same prompts of several arms, and say what changed, with intervals.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--config", type=Path, default=None, metavar="PLAN", help="a plan file: YAML with the flags' names as keys")
    add("--out", type=Path, default=None, metavar="FOLDER", help="what was asked and answered, and the report")
    add("--url", help="the server whose policies the arms name")
    add("--key-env", metavar="NAME", help="the environment variable that holds the key of --url")
    add("--arm", action="append", dest="arms", metavar="ARM", help="once for each arm; see below")
    add("--baseline", metavar="NAME", help="the arm that the others are compared with (default: the first)")
    add("--prompts", action="append", metavar="FILE",
        help="once for each file: JSONL, JSON, CSV, Parquet; FORM=FILE where columns do not show it")  # fmt: skip
    add("--pairs", action="append", metavar="FILE",
        help="instead of --prompts: prompts with better and worse answers, whose likelihoods are compared")  # fmt: skip
    add("--scorer", metavar="URL#MODEL", help="the engine behind the arms' policies, which scores --pairs")
    add("--scorer-key-env", metavar="NAME", help="the environment variable that holds its key")
    add("--format", metavar="FORM", help="the form of all files (default: auto); a wrong one lists them")
    add("--limit", type=int, metavar="N", help="the first N of each file")
    add("--sample", type=int, metavar="N", help="N of each file, by chance, every kind with its share")
    add("--samples", type=int, metavar="K", help="answers to each prompt (default: 1)")
    add("--seed", type=int, help="of the sample, of the order, and of each answer (default: 0)")
    add("--temperature", type=float, help="of all arms that do not say theirs (default: each engine's or policy's own)")
    add("--max-tokens", type=int, metavar="N", help="of an answer (default: each engine's or policy's own)")
    add("--letters", action=argparse.BooleanOptionalAction,
        help="ask for the log-probabilities of a choice's letters, where there are choices (default: yes)")  # fmt: skip
    add("--stream", action=argparse.BooleanOptionalAction,
        help="stream the answers (default: yes); some engines tell token counts of whole answers only")  # fmt: skip
    add("--turns", choices=("auto", "questions", "blocks"),
        help="when another arm's turn comes (default: by blocks where an engine keeps one prefix)")  # fmt: skip
    add("--concurrency", type=int, metavar="N", help="requests at a time, of one host (default: 8)")
    add("--requests-per-minute", type=float, metavar="N", help="of one host, at most (default: no limit)")
    add("--retries", type=int, metavar="N", help="after the first attempt, 1, 2, 4 … seconds apart (default: 5)")
    add("--timeout", type=float, metavar="S", help="seconds without data from the engine (default: 120)")
    add("--price", type=_price, metavar="IN,OUT", help="of a million tokens in and out")
    add("--dry-run", action="store_true", default=False, help="find the arms, read the prompts, say what it would take")
    add("--report", action="store_true", default=False,
        help="write the report of --out anew from what it holds; --baseline and --price may be others")  # fmt: skip
    add("--effect", type=float, default=0.0, metavar="D", help="say how many prompts it takes to show this difference")
    add("--check", type=Path, default=None, metavar="FILE",
        help="limits that an arm must keep: writes check.json, check.xml (JUnit), sets the exit status")  # fmt: skip
    add("--judge", metavar="URL#MODEL", help="an engine that compares each arm's answers with the baseline's")
    add("--judge-key-env", metavar="NAME", help="the environment variable that holds its key")
    add("--judge-may-be-an-arm", action="store_true", help="allow a judge that is the model of an arm")
    add("--aspects", action="store_true", help="have the judge mark each answer by six aspects too")
    add(
        "--calibrate",
        metavar="FILE",
        help="pairs with people's labels, as PandaLM's, on which the judge is tried first",
    )
    add("--rule", metavar="FILE.py:FUNCTION",
        help="instead of a judge: a function of messages and answer, whose higher number wins")  # fmt: skip
    return made


def _price(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not IN,OUT, such as 0.5,1.5") from None


def main(argv: list[str] | None = None) -> int:
    """The exit status, as this module's docstring lists them.

    Raises:
        ModuleNotFoundError: a module of the extra `eval` is not installed.
    """
    options = vars(parser().parse_args(argv))
    config, out, dry, anew, effect = (options.pop(name) for name in ("config", "out", "dry_run", "report", "effect"))
    limits = options.pop("check")
    for module in ("numpy", "yaml"):  # before a question is asked, not when its answers are compared
        if find_spec(module) is None:
            raise ModuleNotFoundError(name=module)
    if effect:
        return _effect(effect, len(options.get("arms", ())))
    from trainers.ask.host import EngineError
    from trainers.ask.journal import JournalError
    from trainers.data.jsonl import DataError
    from trainers.evaluation.arms.arm import ArmError
    from trainers.evaluation.checks.limit import CheckError, read_check
    from trainers.evaluation.folder import FolderError
    from trainers.evaluation.plan import read_plan
    from trainers.evaluation.procedure import run
    from trainers.evaluation.rebuild import rebuild
    from trainers.run.recipe import RecipeError, read_values

    try:
        check = read_check(limits) if limits else None
        if anew:
            if out is None:
                raise RecipeError("no --out: the folder of the run whose report to rewrite")
            return rebuild(out, (read_values(config) if config else {}) | options, check)
        plan = read_plan(config, options)
        if out is None and not dry:
            raise RecipeError("no --out: the folder for questions, answers and the report")
        from trainers.evaluation.likelihood import likelihood_run

        argv = sys.argv[1:] if argv is None else argv
        if not plan.pairs:
            return run(plan, out, dry, argv, check)
        if check is not None:
            raise CheckError("--check does not work with --pairs: it measures answers")
        return likelihood_run.run(plan, out, dry, argv)
    except (RecipeError, ArmError, CheckError, DataError, FolderError) as error:
        print(f"trimtab eval: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `trimtab` itself handles that the reader of its output has gone
        raise
    except (EngineError, JournalError, OSError) as error:  # OSError: the disk is full, or the folder not ours
        print(f"trimtab eval: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ntrimtab eval: interrupted; answers are kept in {out}, and the same command resumes", file=sys.stderr)
        return 130


def _effect(effect: float, arms: int) -> int:
    """How many prompts it takes depends on how many of them the arms answer differently, which nobody knows yet."""
    from trainers.evaluation.stats.significance import needed_for

    size, others = abs(effect), max(1, arms - 1)
    if not 0 < size <= 1:
        print("trimtab eval: --effect is a difference of two rates, such as 0.1 for ten points", file=sys.stderr)
        return 2
    corrected = f", corrected for {others} comparisons" if others > 1 else ""
    print(f"to show a difference of {100 * size:g} points with 80% power at 5%{corrected}:")
    for share in sorted({size, 0.15, 0.3, 0.5}):
        if share >= size:
            count = needed_for(size, share, comparisons=others)
            print(f"  {count:>7,} prompts if the arms differ on {100 * share:g}% of them")
    return 0
