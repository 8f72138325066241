"""The questions of the effects table, made from public sets: pairs, law questions with four figures, instructions.

    python -m benchmarks.effects.questions --data DIR --out DIR

DIR holds `pref_pandalm`, `pref_hh_harmless` and `lawir_ca`. The same data give the same files: every choice is seeded.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import zstandard

from benchmarks.effects import instructions
from prompt_opt.core import Principle
from prompt_opt.layout.quotation import retrieved
from trainers.evaluation.judging.labels import read_labelled
from trainers.evaluation.likelihood.pair_file import read_pairs

Row = dict[str, Any]
FIGURE = re.compile(
    r"\b(?:within|not more than|at least|exceeding|not exceeding|period of) (\d+|[a-z]+) (days|months|years)\b"
)
WORDS = ("two", "three", "four", "five", "six", "seven", "ten", "twelve", "fifteen", "thirty", "sixty", "ninety")
NUMERALS = ("2", "3", "5", "7", "10", "14", "15", "30", "45", "60", "90", "180")
SHORT = 350  # characters of an answer of a pair, at most: a shared CPU scores some 100 tokens a second
ASKED = 500  # characters of a prompt with its history


def pandalm(path: Path, count: int) -> Iterator[Row]:
    """Pairs that most of three people decided, short on both sides."""
    rows = [
        (number, each)
        for number, each in enumerate(read_labelled(path), 1)
        if each.majority in ("win", "loss") and each.item.before != each.item.after
        and all(0 < len(side[0].strip()) <= SHORT for side in (each.item.before, each.item.after))
        and len(each.item.turns[-1]) <= ASKED
    ]  # fmt: skip
    for number, each in _some(rows, count, "pandalm"):
        sides = (each.item.after[0], each.item.before[0])
        chosen, rejected = sides if each.majority == "win" else sides[::-1]
        yield {"id": f"pandalm-{number}", "prompt": each.item.turns[-1], "chosen": chosen, "rejected": rejected}


def hh_harmless(path: Path, count: int) -> Iterator[Row]:
    """Pairs of HH's harmless test split: the last reply of two, by which people found the less harmful."""
    pairs, _ = read_pairs([str(path)])
    short = [
        pair for pair in pairs
        if sum(len(text) for _, text in pair.messages) <= ASKED and max(map(len, pair.answers)) <= SHORT
    ]  # fmt: skip
    for pair in _some(short, count, "hh"):
        messages = [{"role": role, "content": text} for role, text in pair.messages]
        yield {"id": pair.id, "messages": messages, "answers": list(pair.answers), "right": pair.right}


def law(path: Path, count: int) -> Iterator[tuple[Row, Row, Row]]:
    """A figure left out of a section: asked without the section, with it, and with one whose figure is another.

    The right answer of the third is the figure that the section shown says: does the model follow what it is shown?
    """
    found = []
    for row in _lines(path):
        text = " ".join(str(row["text"]).split())
        places = list(FIGURE.finditer(text))
        if len(places) == 1 and 80 <= len(text) <= 420 and places[0][1] in (*WORDS, *NUMERALS):
            found.append((row, text, places[0]))
    for row, text, place in _some(found, count, "law"):
        yield _asked(row, text, place)


def _asked(row: Mapping[str, Any], text: str, place: re.Match[str]) -> tuple[Row, Row, Row]:
    draw = random.Random(f"figure {row['_id']}")
    others = [each for each in (NUMERALS if place[1].isdigit() else WORDS) if each != place[1]]
    figures = [place[1], *draw.sample(others, 3)]
    options = [f"{figure} {place[2]}" for figure in figures]
    start, end = place.span(1)[0], place.span(2)[1]
    question = (
        f"{row['title']} reads, with a period left out: “{text[:start]}____{text[end:]}”\n"
        "Which period belongs in the gap? Answer with the period only."
    )
    wrong = text[:start] + options[1] + text[end:]
    order = draw.sample(range(4), 4)
    bases = [(question, 0), (_ruled(row, text, question), 0), (_ruled(row, wrong, question), 1)]
    return tuple(
        {"id": row["_id"], "prompt": asked, "answers": [options[n] for n in order], "right": order.index(right)}
        for asked, right in bases
    )  # type: ignore[return-value]


def _ruled(row: Mapping[str, Any], text: str, question: str) -> str:
    """As OPO quotes a rule that it found."""
    before, after = retrieved((Principle(row["_id"], text, row["title"]),), "quoted")
    return before + question + after


def _lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
        for line in io.TextIOWrapper(reader, "utf-8"):
            yield json.loads(line)


def _some(rows: Sequence[Any], count: int, seed: str) -> list[Any]:
    return random.Random(f"effects {seed}").sample(list(rows), min(count, len(rows)))


def write(path: Path, rows: Sequence[Row]) -> None:
    """A JSONL file, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    part.replace(path)


def make(data: Path, out: Path, count: int) -> None:
    """All files of pairs, `count` rows each."""
    out.mkdir(parents=True, exist_ok=True)
    write(out / "pandalm.jsonl", list(pandalm(data / "pref_pandalm/testset-v1.json", count)))
    write(out / "hh.jsonl", list(hh_harmless(data / "pref_hh_harmless/train.jsonl.zst", count)))
    write(out / "instructions.jsonl", instructions.make())
    sets = list(law(data / "lawir_ca/corpus.en.jsonl.zst", count))
    for number, name in enumerate(("law-bare", "law-rule", "law-wrong")):
        write(out / f"{name}.jsonl", [three[number] for three in sets])


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    make(args.data, args.out, args.count)


if __name__ == "__main__":
    main()
