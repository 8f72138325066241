"""`trimtab train pick`: of much training data the part that is complex, good and diverse (DEITA, arXiv:2312.15685).

    trimtab train pick --data FILE --size 6000 --out picked.jsonl --judge-url http://127.0.0.1:8000 --judge-model NAME

Each row's score is its complexity times its quality, both from 1 to 6: the columns `complexity` and `quality`, or a
judge's marks of the prompt and of the answer. From the highest score down, a row is picked if none that was picked is
as like it as --threshold says (cosine of the prompts' and answers' vectors). The picked rows keep all their columns.
A judge's marks are kept beside --out: a run that stops goes on with the same command.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainers.ask.engine import Engine, EngineError, Messages, ask_all
from trainers.ask.journal import write_rows
from trainers.data.jsonl import DataError
from trainers.data.layouts import completion, number
from trainers.data.messages import ShapeError
from trainers.data.rows import rows_of

ASPECTS = ("complexity", "quality")
WORDS = Path(__file__).with_name("pick.toml")
_MARK = re.compile(r"(?<![\d.])([1-6])(?![\d.]*\d)")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 2 for wrong data or options, 1 for an engine that fails, 130 for Ctrl-C."""
    options = _parser().parse_args(argv)
    try:
        placed = list(rows_of(options.data))
        kept = pick(placed, options)
        write_rows(Path(options.out), (placed[at][1] for at in kept))
    except (DataError, OSError) as error:
        print(f"train pick: {error}", file=sys.stderr)
        return 2
    except EngineError as error:
        print(f"train pick: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ntrain pick: stopped; the marks are kept, and the same command goes on", file=sys.stderr)
        return 130
    short = "" if len(kept) == options.size else f" ({options.size} were asked for: the others are too similar)"
    print(f"{len(kept)} of {len(placed)} rows in {options.out}{short}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trimtab train pick", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", required=True, metavar="FILE", help="prompts and answers, in any of the usual layouts")
    add("--out", required=True, metavar="FILE", help="JSONL of the picked rows")
    add("--size", required=True, type=int, metavar="N", help="rows to pick, at most")
    add("--threshold", type=float, default=0.9, metavar="T", help="the cosine from which two rows are alike (0.9)")
    add("--embedder", default="all-MiniLM-L6-v2", metavar="NAME", help="the embedder's name or folder")
    add("--judge-url", default="", metavar="URL", help="an OpenAI-compatible engine, for rows without both columns")
    add("--judge-model", default="", metavar="NAME", help="its model")
    add("--judge-key-env", default="", metavar="NAME", help="environment variable that holds its key")
    return parser


def pick(placed: Sequence[tuple[str, dict[str, Any]]], options: argparse.Namespace) -> list[int]:
    """The places of the picked rows, best first.

    Raises:
        DataError: a row without prompt and answer, or without scores where no judge is named. EngineError: the judge.
    """
    if options.size < 1 or not 0 < options.threshold <= 1:
        raise DataError("--size must be 1 or more, and --threshold above 0 and at most 1")
    texts = [_texts(place, row) for place, row in placed]
    scores = _scores(placed, texts, options)

    from tqdm import tqdm

    from retrieval.embedding.embedder import load
    from trainers.data.diversity import descending, diverse

    model, size = load(options.embedder), 256
    joined = [f"{prompt}\n{answer}" for prompt, answer in texts]
    parts = [model.documents(joined[at : at + size]) for at in tqdm(range(0, len(joined), size), desc="vectors")]

    import numpy as np

    order = tqdm(descending(scores), desc="rows")
    return diverse(scores, np.concatenate(parts), options.size, options.threshold, order)


def _texts(place: str, row: dict[str, Any]) -> tuple[str, str]:
    try:
        [shaped] = completion({key: value for key, value in row.items() if value is not None})
    except ShapeError as error:
        raise DataError(f"{place}: {str(error) or 'no prompt and answer'}") from error
    prompt, answer = shaped["prompt"], shaped["completion"]
    return _text(prompt), _text(answer)


def _text(side: Any) -> str:
    return side if isinstance(side, str) else "\n".join(turn["content"] for turn in side)


def _scores(
    placed: Sequence[tuple[str, dict[str, Any]]], texts: Sequence[tuple[str, str]], options: argparse.Namespace
) -> list[float]:
    """Complexity times quality of each row, from its columns, else from the judge."""
    without = [at for at, (_, row) in enumerate(placed) if any(row.get(name) is None for name in ASPECTS)]
    marks = _judged([texts[at] for at in without], options, placed[without[0]][0]) if without else []
    asked = dict(zip(without, marks, strict=True))
    found = []
    for at, (place, row) in enumerate(placed):
        try:
            found.append(asked[at] if at in asked else number(row, "complexity") * number(row, "quality"))
        except ShapeError as error:
            raise DataError(f"{place}: {error}") from error
    return found


def _judged(texts: Sequence[tuple[str, str]], options: argparse.Namespace, place: str) -> list[float]:
    """The product of a judge's two marks; 0 where one cannot be read, so that the row comes last."""
    if not options.judge_url or not options.judge_model:
        raise DataError(f"{place}: no complexity and quality; add both columns, or --judge-url and --judge-model")
    judge = Engine(options.judge_url, options.judge_model, options.judge_key_env, temperature=0.0, max_tokens=16)
    words = tomllib.loads(WORDS.read_text("utf-8"))
    product = [1.0] * len(texts)
    for name in ASPECTS:
        asked = [_question(words[name], prompt, answer) for prompt, answer in texts]
        answers = ask_all(judge, asked, Path(f"{options.out}.{name}.jsonl"), name)
        read = [_MARK.search(answer.text) for answer in answers]
        product = [sofar * (float(mark[1]) if mark else 0.0) for sofar, mark in zip(product, read, strict=True)]
    return product


def _question(words: str, prompt: str, answer: str) -> Messages:
    from trainers.judge.pairwise import quoted

    parts = [quoted("The request:", prompt)]
    if "{answer}" in words:
        parts.append(quoted("The answer:", answer))
    return [
        {"role": "system", "content": words.replace("{answer}", "answer").strip()},
        {"role": "user", "content": "\n\n".join(parts)},
    ]


if __name__ == "__main__":
    sys.exit(main())
