"""Instructions whose fulfilment a few lines of code can check, and those lines: 300 questions of our own.

In the manner of IFEval (Zhou et al., arXiv 2311.07911): a topic, and one or two things that the answer must be. The
texts, topics and checks are written for this benchmark.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

TOPICS = (
    "Describe a rainy day in a harbour town.", "Explain why bread rises.", "Write about a lost umbrella.",
    "Give advice to someone who starts to run.", "Explain what a library is for.", "Describe the taste of a lemon.",
    "Write a note to a neighbour about a parcel.", "Explain how a bicycle stays upright.", "Describe an old clock.",
    "Write an invitation to a picnic.", "Explain why the sky is blue.", "Describe a train journey at night.",
    "Give tips for keeping a houseplant alive.", "Write about a cat that likes water.", "Explain what a loan is.",
    "Describe a market in the morning.", "Write a short review of a cafe.", "Explain how to boil an egg.",
    "Describe a mountain in winter.", "Write a thank-you note to a teacher.", "Explain what friendship is.",
    "Describe the sound of a storm.", "Write about the first day in a new job.", "Explain how to save money.",
    "Write a slogan for a bicycle shop.",
)  # fmt: skip
_SENTENCE = re.compile(r"[^.!?]+[.!?]+")
_BULLET = re.compile(r"^\s*[-*•]\s+\S", re.M)


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'’-]+", text)


def _json(text: str) -> bool:
    fenced = re.fullmatch(r"```(?:json)?\n(.*)\n```", text, re.S)
    try:
        return isinstance(json.loads(fenced[1] if fenced else text), dict)
    except ValueError:
        return False


# name -> (what the question says, with {} for the argument; whether a text does it; arguments to draw from)
CHECKS: Mapping[str, tuple[str, Callable[[str, Any], bool], Sequence[Any]]] = {
    "lowercase": ("Write in lowercase letters only.", lambda t, _: t == t.lower() and any(map(str.isalpha, t)), (0,)),
    "capitals": ("WRITE IN CAPITAL LETTERS ONLY.", lambda t, _: t == t.upper() and any(map(str.isalpha, t)), (0,)),
    "no_comma": ("Do not use any comma.", lambda t, _: bool(t) and "," not in t, (0,)),
    "at_most": ("Use at most {} words.", lambda t, n: 0 < len(_words(t)) <= n, (12, 20, 30)),
    "at_least": ("Use at least {} words.", lambda t, n: len(_words(t)) >= n, (25, 40)),
    "sentences": ("Write exactly {} sentences.", lambda t, n: len(_SENTENCE.findall(t)) == n, (1, 2, 3)),
    "bullets": ("Answer with exactly {} bullet points that begin with a hyphen, and nothing else.",
                lambda t, n: len(_BULLET.findall(t)) == n == len([x for x in t.splitlines() if x.strip()]), (2, 3, 4)),
    "word": ("Use the word “{}”.", lambda t, w: w in map(str.lower, _words(t)), ("window", "seven", "quiet", "paper")),
    "no_word": ("Do not use the word “{}”.", lambda t, w: bool(t) and w not in map(str.lower, _words(t)),
                ("the", "and", "is")),
    "begins": ("Begin your answer with the words “{}”.", lambda t, w: t.lstrip("\"“ ").startswith(w),
               ("To be honest", "Once again", "In short")),
    "ends": ("End your answer with the words “{}”.", lambda t, w: t.rstrip("\"”.! ").endswith(w),
             ("that is all", "good luck")),
    "question": ("End with a question.", lambda t, _: t.rstrip("\"” ").endswith("?"), (0,)),
    "json": ("Answer with a JSON object with one key, “text”, and nothing else.", lambda t, _: _json(t), (0,)),
    "title": ("Put a title in double angle brackets above it, such as <<A Title>>.",
              lambda t, _: bool(re.match(r"<<[^<>\n]+>>", t)), (0,)),
    "postscript": ("Add a postscript that begins with “P.S.”.", lambda t, _: "\nP.S." in t, (0,)),
    "parts": ("Write two parts, with a line of three asterisks (***) between them.",
              lambda t, _: len([p for p in re.split(r"^\s*\*\*\*\s*$", t, flags=re.M) if p.strip()]) == 2, (0,)),
}  # fmt: skip


def make(count: int = 300) -> list[dict[str, Any]]:
    """The questions: every check and topic about as often as any other, one in four with two checks."""
    draw = random.Random("effects instructions")
    names = list(CHECKS)
    rows = []
    for number in range(count):
        used = [names[number % len(names)]]
        if number % 4 == 3:
            used.append(draw.choice([name for name in ("word", "no_comma", "question") if name != used[0]]))
        checks = [[name, draw.choice(list(CHECKS[name][2]))] for name in used]
        asked = [draw.choice(TOPICS), *(CHECKS[name][0].format(argument) for name, argument in checks)]
        rows.append({"id": f"i{number}", "kind": used[0], "prompt": " ".join(asked), "check": checks})
    return rows


def follows(checks: Sequence[Sequence[Any]], answer: str) -> bool:
    """Whether the answer does all that was asked for."""
    text = answer.strip()
    return all(CHECKS[name][1](text, argument) for name, argument in checks)
