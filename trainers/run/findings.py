"""What is wrong with training data before a model learns from it, row by row, and how that is shown.

Errors stop a training: nothing good can come of it. Warnings are printed and kept in run.json.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from trainers.data.messages import Row
from trainers.data.tokens import Tokens, answers_of
from trainers.run.keys import Common
from trainers.run.model import Base

NAMED = 5  # rows that a finding names
UNUSABLE = ("empty", "identical", "identical_after_cut", "truncated")  # errors, or dropped, as the recipe says
LEARNT, SHOWN, PLAIN = "\x1b[32m", "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True)
class Finding:
    """Something about the data. `code` is for programs, `rows` are the places of all rows that it is about."""

    level: Literal["error", "warning"]
    code: str
    message: str
    rows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examined:
    """What was found in the data, counts of it, three samples, and how prompts are rendered."""

    findings: list[Finding]
    counts: dict[str, int]
    samples: list[Tokens]
    layout: str

    @property
    def errors(self) -> list[Finding]:
        """The findings that stop a training."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def unusable(self) -> set[str]:
        """Places of the rows that nothing can be learnt from."""
        return {place for finding in self.findings if finding.code in UNUSABLE for place in finding.rows}


def examine(rows: list[Row], heldout: list[Row], encoded: list[Tokens], base: Base, recipe: Common) -> Examined:
    """All findings about rows and their tokens; `encoded` has the rows to learn from and those held out."""
    everything = [*rows, *heldout]
    findings = [*about_rows(rows, everything), *about_tokens(encoded, base, recipe)]
    if recipe.unusable == "drop":
        findings = [dropped(finding) if finding.code in UNUSABLE else finding for finding in findings]
    lengths = sorted(row.longest() for row in encoded)
    counts = {
        "train": len(rows),
        "heldout": len(heldout),
        "tokens_median": lengths[len(lengths) // 2],
        "tokens_longest": lengths[-1],
        "cut": sum(length > recipe.max_length for length in lengths),
    }
    return Examined(findings, counts, encoded[:3], base.layout)


def dropped(finding: Finding) -> Finding:
    """An error about rows as a warning: those rows are dropped."""
    return replace(finding, level="warning", message=f"{finding.message}; dropped")


def about_rows(train: list[Row], rows: list[Row]) -> Iterable[Finding]:
    """Empty texts, pairs without a difference, the same row twice, the same prompt and answer with two labels."""
    yield from gather("error", "empty", "an empty answer", [r["place"] for r in rows if any(map(is_empty, answers(r)))])
    yield from gather("warning", "empty_prompt", "an empty prompt", [r["place"] for r in rows if is_empty(r["prompt"])])
    same = [row["place"] for row in rows if "chosen" in row and row["chosen"] == row["rejected"]]
    yield from gather("error", "identical", "chosen and rejected are the same", same)
    sides = {json.dumps([row["prompt"], row["chosen"], row["rejected"]]) for row in train if "chosen" in row}
    turned = [
        row["place"]
        for row in train
        if "chosen" in row and row["chosen"] != row["rejected"]
        and json.dumps([row["prompt"], row["rejected"], row["chosen"]]) in sides
    ]  # fmt: skip
    yield from gather("warning", "both_orders", "a pair is there in both orders, so its labels contradict", turned)
    seen: Counter[str] = Counter()
    again = []
    for row in train:
        key = json.dumps([row["prompt"], *answers(row), row.get("label"), row.get("scores")])
        seen[key] += 1
        if seen[key] > 1:
            again.append(row["place"])
    yield from gather("warning", "duplicate", "the same as an earlier row", again)
    labels: dict[str, set[bool]] = {}
    for row in train:
        if "label" in row:
            labels.setdefault(json.dumps([row["prompt"], row["completion"]]), set()).add(row["label"])
    torn = [r["place"] for r in train if "label" in r and len(labels[json.dumps([r["prompt"], r["completion"]])]) == 2]
    yield from gather("warning", "both_labels", "the same answer is labelled both true and false", torn)
    level = [row["place"] for row in rows if len(set(row.get("scores", ()))) == 1]
    yield from gather("warning", "equal_scores", "all answers have the same score: no order to learn", level)
    kinds = {row["label"] for row in train if "label" in row}
    if len(kinds) == 1:
        yield Finding("warning", "one_label", f"every label is {kinds.pop()}: there is nothing to learn")


def about_tokens(encoded: list[Tokens], base: Base, recipe: Common) -> Iterable[Finding]:
    """Beginnings, ends, boundaries, truncation, and the mask of what is learnt."""
    tokenizer, limit = base.tokenizer, recipe.max_length
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id

    def where(wrong: Callable[[Tokens], bool]) -> list[str]:
        return [row.place for row in encoded if wrong(row)]

    if tokenizer.pad_token_id in (None, end):
        yield Finding("error", "pad", "the pad token is the end token: set pad_token")
    if begin is not None and begin != end:
        # At the start only: SmolLM2's beginning is ChatML's mark of every turn, and Llama 2 repeats its own.
        twice = where(lambda row: any(row.whole(name)[:2] == [begin, begin] for name in row.answers))
        yield from gather("error", "bos", f"more than one {tokenizer.bos_token} at the start of the text", twice)
        expected = tokenizer("a")["input_ids"][0] == begin
        none = where(lambda row: row.prompt[:1] != [begin]) if expected else []
        yield from gather("warning", "no_bos", f"no {tokenizer.bos_token}, with which the model's texts begin", none)
    ends = where(lambda row: any(ids.count(end) != 1 or ids[-1] != end for ids in row.answers.values()))
    yield from gather("error", "eos", f"not exactly one {tokenizer.eos_token}, at the end of the answer", ends)
    merged = where(lambda row: row.apart)
    yield from gather(
        "warning", "boundary", "prompt and answer would share a token; tokenized apart, as when serving", merged
    )
    full = where(lambda row: len(row.prompt) >= limit)
    yield from gather("error", "truncated", f"max_length ({limit}) leaves no room for an answer", full)
    short = where(lambda row: len(row.prompt) < limit < row.longest())
    yield from gather("warning", "cut", f"an answer cut off at max_length ({limit}), so without its end token", short)
    unlearnt = where(lambda row: bool(row.learned) and not any(row.learned[:limit]) and len(row.prompt) < limit)
    yield from gather("error", "mask", "no token would be in the loss", unlearnt)
    same = where(lambda row: alike(row, limit))
    cut_same = f"chosen and rejected are the same once cut at max_length ({limit})"
    yield from gather("error", "identical_after_cut", cut_same, same)
    beyond = where(lambda row: max(row.highest(), tokenizer.pad_token_id or 0) >= base.vocabulary)
    more = f"token ids that the model's embedding ({base.vocabulary:,} rows) does not have"
    yield from gather("error", "vocabulary", more, beyond)
    if all(len(row.prompt) >= limit for row in encoded):
        yield Finding("error", "nothing", "no row is left to learn from")


def alike(row: Tokens, limit: int) -> bool:
    """Whether a pair's answers differ as a whole, and are the same in the first `limit` tokens of each sequence."""
    if "chosen" not in row.answers or row.answers["chosen"] == row.answers["rejected"]:
        return False
    room = limit - len(row.prompt)
    return room > 0 and row.answers["chosen"][:room] == row.answers["rejected"][:room]


def gather(level: Literal["error", "warning"], code: str, what: str, places: list[str]) -> Iterable[Finding]:
    """One finding for all rows that it is about; none where there are none."""
    if places:
        named = "; ".join(places[:NAMED]) + ("; …" if len(places) > NAMED else "")
        yield Finding(level, code, f"{what}: {len(places)} row(s): {named}", tuple(places))


def summary(errors: list[Finding]) -> str:
    """How many errors there are, and where rows are to blame, the key that drops them."""
    rows = {place for finding in errors if finding.code in UNUSABLE for place in finding.rows}
    drop = f"; --set unusable=drop trains without the {len(rows)} row(s) that cannot be used" if rows else ""
    return f"{len(errors)} error(s) in the data, named above{drop}"


def answers(row: Row) -> list[Any]:
    """The answers of a row, of whatever kind."""
    return list(answers_of(row).values())


def is_empty(said: Any) -> bool:
    """Whether a text, or the text of all messages, is blank."""
    return not (said if isinstance(said, str) else "".join(turn["content"] for turn in said)).strip()


def report(examined: Examined, tokenizer: Any, colour: bool | None = None) -> None:
    """Counts, findings and three samples on stderr; what the loss counts is green where the terminal has colours."""
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ if colour is None else colour
    lines = [f"layout: {examined.layout}", ", ".join(f"{name} {number}" for name, number in examined.counts.items())]
    lines += [f"{finding.level}: {finding.message}" for finding in examined.findings]
    for row in examined.samples:
        lines += [painted(row, name, tokenizer, colour) for name in row.answers]
    print("\n".join(lines), file=sys.stderr)


def painted(row: Tokens, name: str, tokenizer: Any, colour: bool) -> str:
    """One answer after its prompt; without colours, what the loss counts stands between ⟦ and ⟧."""
    ids = row.whole(name)
    mask = row.learned or [0] * len(row.prompt) + [1] * len(row.answers[name])
    text, start = "", 0
    while start < len(ids):
        stop = next((i for i in range(start, len(ids)) if mask[i] != mask[start]), len(ids))
        piece = tokenizer.decode(ids[start:stop])
        if mask[start]:
            text += f"{LEARNT}{piece}{PLAIN}" if colour else f"⟦{piece}⟧"
        else:
            text += f"{SHOWN}{piece}{PLAIN}" if colour else piece
        start = stop
    return f"--- {row.place}, {name}\n{text}"
