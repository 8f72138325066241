"""Sheets: documents that put several pairs into one random, but consistent, layout.

A model that has read many layouts learns the general skill that a base-model prompt asks for: go on in the format
that the text has used so far, and close what was opened. No layout that a shipped profile uses is ever drawn.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

Pair = tuple[str, str]  # (what is given, what follows from it)

# Natural names for the two halves of a pair, by kind of pair; half of the sheets use random words instead.
LABELS: dict[str, tuple[tuple[str, str], ...]] = {
    "problems": (("Problem", "Working"), ("Exercise", "Solution"), ("Task", "Steps"), ("Sum", "Result"), ("P", "W")),
    "statutes": (("Title", "Text"), ("Heading", "Body"), ("Section", "Provision"), ("Name", "Rule")),
    "dialogue": (("Said", "Replied"), ("First", "Second"), ("Speaker", "Listener"), ("Request", "Response")),
    "passages": (("Opening", "Sequel"), ("Before", "After"), ("Prompt", "Story"), ("Start", "Continuation")),
    "mixed": (("Input", "Output"), ("Request", "Response"), ("Given", "Reply"), ("Prompt", "Result"), ("In", "Out")),
}
HEADERS = (
    "# {}", "## {}", "### {}", "#### {}", "# {}:", "## {}:", "### {}:", "[{}]", "{}:", "{}:", "**{}**", "**{}:**",
    "<{}>", "== {} ==", "-- {}", "{}.", "*{}*", "({})", "> {}", "@{}", "{} =>", "_{}_", "{{{}}}", "% {}",
)  # fmt: skip
FENCES = ('"""', "~~~", "```", "---", "'''", "***", "===", "...", "|||", "+++", "%%%", "^^^", "___")
ODD_UNITS = ("`", "``", "```", "~", "~~", "-", "--", "=", "+", "*", "**", "%", "%%", "|", "^", ":", "!", "<", ">", "/")
PREAMBLES = (
    "Below are {n} entries. Each has a part called {a} and a part called {b}.",
    "The following pages hold several entries; under {a} stands what was given, under {b} what came of it.",
    "{a} and {b}, in turn. Every {b} should be clear, complete and to the point.",
    "This is a collection of pairs.\nRead the {a} with care. Write the {b} fully and honestly, in good order.",
    "Here follow entries in one form. The {b} always belongs to the {a} just above it.",
)
FENCED = (" Each part stands between two lines of {f}.", " Every part opens and closes with {f}.", "")


@dataclass(frozen=True)
class Layout:
    """How one sheet is set: the same for each of its pairs."""

    header: str  # a format string with one place for the label
    labels: tuple[str, str]
    opening: str  # the line above each part; "" for none
    closing: str
    numbered: bool
    gap: str  # between a part and the next header


def draw_layout(rng: random.Random, kind: str, words: Sequence[str], dense: bool) -> Layout:
    """A random layout for pairs of `kind`; `words` are what made-up labels are taken from."""
    labels = rng.choice(LABELS[kind])
    if rng.random() < 0.5:
        first, second = rng.sample(words, 2)
        labels = (first.capitalize(), second.capitalize())
    if rng.random() < 0.2:
        labels = (labels[0].upper(), labels[1].upper())
    opening, closing = draw_fence(rng, dense)
    gap = rng.choice(("\n\n", "\n\n", "\n", "\n\n\n")) if opening else "\n\n"
    header = rng.choice(HEADERS[:7] if dense and rng.random() < 0.5 else HEADERS)
    return Layout(header, labels, opening, closing, rng.random() < 0.15, gap)


def draw_fence(rng: random.Random, dense: bool) -> tuple[str, str]:
    """What opens and what closes a part: a named fence, a run of one mark, angle brackets, or nothing."""
    if dense and rng.random() < 0.3:
        fence = "`" * rng.randint(1, 3)
        return fence, fence
    roll = rng.random()
    if roll < 0.15:
        return "", ""
    if roll < 0.25:
        width = rng.randint(1, 5)
        return "<" * width, ">" * width
    fence = rng.choice(FENCES) if roll < 0.60 else rng.choice("~=-*+%'\"|^_:/\\!&") * rng.randint(2, 8)
    return fence, fence


def draw_sheet(
    rng: random.Random,
    pools: Mapping[str, Sequence[Pair]],
    words: Sequence[str],
    dense: bool = False,
    odd: bool = False,
) -> str:
    """One sheet of two to eight pairs, all of one kind or of several.

    A dense one has four to sixteen, and more of Markdown's headers and fences: with short pairs it is mostly layout.
    Half of odd ones have a fence that only copying can close.
    """
    kinds = [kind for kind in sorted(pools) if pools[kind]]
    mixed = rng.random() < 0.4
    kind = rng.choice(kinds)
    number = rng.randint(4, 16) if dense else rng.randint(2, 8)
    pairs = [rng.choice(pools[rng.choice(kinds) if mixed else kind]) for _ in range(number)]
    layout = draw_layout(rng, "mixed" if mixed else kind, words, dense)
    if odd and rng.random() < 0.5:
        fence = draw_odd_fence(rng)
        layout = replace(layout, opening=fence, closing=fence)
    preamble = ""
    if rng.random() < 0.5:
        text = rng.choice(PREAMBLES) + (rng.choice(FENCED) if layout.opening == layout.closing != "" else "")
        preamble = text.format(n=number, a=layout.labels[0], b=layout.labels[1], f=layout.opening) + "\n\n"
        if rng.random() < 0.3:
            preamble = layout.header.format("Preface") + "\n\n" + preamble
    return preamble + set_pairs(pairs, layout)


def draw_odd_fence(rng: random.Random) -> str:
    """A run of a mark that is rarely repeated, or several marks after each other; never four backticks in a row."""
    if rng.random() < 0.5:
        return rng.choice("$@;,?§¶•¦¤×÷±¬") * rng.randint(2, 6)
    while True:
        fence = "".join(rng.choices(ODD_UNITS, k=rng.randint(2, 4)))
        if "`" * 4 not in fence:
            return fence


def set_pairs(pairs: Sequence[Pair], layout: Layout) -> str:
    """The pairs as text in `layout`."""
    parts = []
    for index, pair in enumerate(pairs, start=1):
        for label, text in zip(layout.labels, pair, strict=True):
            head = layout.header.format(f"{label} {index}" if layout.numbered else label)
            lines = [line for line in (head, layout.opening, text, layout.closing) if line]
            parts.append("\n".join(lines))
    return layout.gap.join(parts) + "\n"
