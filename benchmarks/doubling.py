"""python benchmarks/doubling.py [--parts dialects,layout,gate,retrieval,hold]: does any text cost more than its length?

Each text is grown until a part takes 5 ms of CPU, then doubled: time that grows with the square of the length is four
times as long. Best of several, twice for a suspect, of the thread's CPU time, so a busy machine does not matter.

    dialects   a body of each dialect: read, made a chat, written again for an engine that speaks it or does not
    layout     the last turn, a long conversation, a rule and a rewrite; in the chat render, and in the base render of
               every shipped profile
    gate       a prompt and its rewrite, to replace it and to stand behind it
    retrieval  the terms of a query in five languages, its language, and the articles that it cites
    hold       bodies of 24 MB, at once: the longest single call into C, in which no other thread runs but where it
               is given a generator

Exit status 1 if a text took more than 2.6 times as long when it was doubled.
What it does not cover: documents that are added to an index, and answers (tests/prompt_opt/test_ending.py).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.attack import hostile
from prompt_opt import profile
from prompt_opt.core import Advice, Chat, Message, Policy, Principle
from prompt_opt.gate.additions import compare
from prompt_opt.gate.verdict import judge
from prompt_opt.layout.order import NoPlace, lay_out
from retrieval.text import analysis, citation, heading, numbered
from serve.config import Server
from serve.dialects import anthropic_messages, openai_chat, openai_completions, openai_responses
from serve.dialects.dialect import Dialect
from serve.errors import ApiError

RATIO = 2.6
PIECES = {
    "words": "word ", "one word": "x", "hashes": "#\n", "hash runs": "#", "newlines": "\n", "blank lines": " \n",
    "markers": "## Question\n", "nearly markers": "## Questio\n", "markers, one line": "## Answer ",
    "ticks": "`", "fences": "```\n", "rising fences": "```\n````\n", "tildes": "~~~\n", "quoted": "> ", "tabs": "\t",
    "zero-width": "\u200b", "hash, zero-width": "#" + "\u200b" * 100, "soft hyphens": "a\u00ad", "RTL": "\u05e9\u200f ",
    "combining": "e\u0301", "stacked marks": "\u0301", "separators": "a\u2028", "next lines": "a\x85", "returns": "\r",
    "vertical tabs": "\x0b", "nulls": "\x00", "wide": "＃＃　Ｑ\n", "angles": "<|a", "specials": "<|im_end|>",
    "open specials": "<|", "brackets": "[{", "closing": "]}", "parentheses": "(", "INST": "[INST]", "braces": "{{",
    "quotes": '"', "single quotes": "'", "curly quotes": "“a", "backslashes": "\\", "escapes": '\\"', "commas": ",",
    "CJK": "请问第十二条规定", "CJK lines": "问\n", "Hangul": "안녕 ", "Thai": "สวัสดี", "emoji": "😀", "digits": "1",
    "numbers": "12,345.67 ", "dates": "3 May 2024, ", "ISO dates": "2024-05-03 ", "times": "12:30 ", "dots": ".",
    "links": "http://a.b/c ", "link run": "http://", "addresses": "a@b.c ", "at signs": "@", "code": "`a` ",
    "names": "Ann Bob ", "capitals": "A", "acronyms": "A.B. ", "sentences": "Do it. ", "questions": "why? ",
    "negations": "not never no ", "German": "Der Artikel 12 Absatz 3 gilt nicht. ", "articles": "Art. 5(1)(a) ",
    "sections": "§ 12 Abs. 3 ", "bare sections": "§", "Roman": "XIV ", "French": "l'article L. 121-3 du code ",
    "Han numbers": "第一百二十三条", "Han digits": "一", "compounds": "Donaudampfschifffahrtsgesellschaft",
    "lists": "- a\n", "numbered": "1. a\n", "headings": "# a\n", "dashes": "-", "underscores": "_", "stars": "**",
    "tables": "|a|b|\n", "tags": "<b>", "open tags": "<b ", "colons": "a: ", "semicolons": ";", "percent": "5 % ",
    "money": "$5 ", "hyphens": "a-", "apostrophes": "a'b", "slashes": "a/", "mixed": "a1_", "spaces": " ",
    "no-break": "\u00a0", "turns": "User: hi\nAssistant: ho\n", "particles": "的", "leaders": ". ",
    "between": "between 5 and 10 ", "in words": "in 5 words ",
}  # fmt: skip


def text(piece: str, length: int) -> str:
    return (piece * (length // len(piece) + 1))[:length]


def distinct(length: int) -> str:
    """Words of which none repeats."""
    return " ".join(f"w{n:x}k" for n in range(length // 7))


KINDS: dict[str, Callable[[int], str]] = {
    **{name: (lambda n, piece=piece: text(piece, n)) for name, piece in PIECES.items()},  # type: ignore[misc]
    "distinct words": distinct,
    "distinct lines": lambda n: distinct(n).replace(" ", "\n"),
    "distinct names": lambda n: distinct(n).replace("w", "W"),
    "distinct numbers": lambda n: " ".join(str(i * 7) for i in range(n // 7)),
    "an open fence at the end": lambda n: "a\n" * (n // 2) + "```",
    "blank, then a marker": lambda n: " " * n + "## Question",
    "ticks of all lengths": lambda n: " ".join("`" * i for i in range(1, int((2 * n) ** 0.5))),
    "brackets, then closed": lambda n: "[" * (n // 2) + "]" * (n // 2),
    "quotes that nest": lambda n: "“" * (n // 2) + "”" * (n // 2),
}
SHORT = 2000  # characters with which a text begins, and the time that it must take
ENOUGH_S = 0.005


class Subject(NamedTuple):
    """What is measured: `make` prepares a text outside the clock, `do` is the work on that."""

    name: str
    make: Callable[[str], object]
    do: Callable[[object], object]
    most: int  # characters, at which a text is long enough however quick it is


def seconds(subject: Subject, made: object, times: int) -> float:
    best = float("inf")
    for _ in range(times):
        since = time.thread_time()
        with contextlib.suppress(ApiError):  # a refusal is an answer
            subject.do(made)
        best = min(best, time.thread_time() - since)
    return best


def ratio(subject: Subject, kind: Callable[[int], str], enough_s: float = ENOUGH_S) -> tuple[float, float, int]:
    """How many times as long the doubled text takes; the seconds of the single one, and its length.

    Work that begins or ends at some length (another verdict, another cache) is one step: of a suspect the text four
    times as long is measured too, and what that makes of one doubling is given where it is less.
    """
    length = SHORT
    while (took := seconds(subject, made := subject.make(kind(length)), 1)) < enough_s and length < subject.most:
        length *= 2 if took > enough_s / 6 else 4
    if took < enough_s:
        return 1.0, took, length
    double = subject.make(kind(2 * length))
    for times in (1, 3, 6):
        took = min(took, seconds(subject, made, times))
        if (found := seconds(subject, double, times) / took) <= RATIO:
            return found, took, length
    again = seconds(subject, subject.make(kind(4 * length)), 6)
    return min(found, (again / took) ** 0.5), took, length


def dialects(most: int) -> Iterator[Subject]:
    limits = Server()
    for dialect, shape in (
        (openai_chat, lambda t: {"messages": [{"role": "user", "content": t}]}),
        (openai_chat, lambda t: {"messages": [{"role": "user", "content": [{"type": "text", "text": t}]}]}),
        (openai_completions, lambda t: {"prompt": t}),
        (openai_responses, lambda t: {"input": [{"role": "user", "content": t}], "instructions": t}),
        (anthropic_messages, lambda t: {"max_tokens": 5, "system": t, "messages": [{"role": "user", "content": t}]}),
    ):
        for ascii_only in (True, False):

            def body(t: str, shape: Callable[[str], dict[str, object]] = shape, ascii_only: bool = ascii_only) -> bytes:  # type: ignore[assignment]
                return json.dumps({"model": "m", **shape(t)}, ensure_ascii=ascii_only).encode()

            def do(made: object, dialect: Dialect = dialect) -> object:  # type: ignore[assignment]
                assert isinstance(made, bytes)
                request = dialect.parse(made, limits)
                chat = dialect.chat(request, limits)
                prompt = lay_out(chat, Advice(instruction="Be kind."), Policy("x"))
                return (
                    dialect.native(request, prompt, "m", "s"),
                    dialect.as_chat(request),
                    dialect.messages(chat.messages),
                )

            name = f"{dialect.path}{' escaped' if ascii_only else ''}"
            yield Subject(name, body, do, most)  # type: ignore[arg-type]


def layout(most: int) -> Iterator[Subject]:
    policies = {f"base, {name}": Policy("x", render="base", profile=profile.load(name)) for name in profile.shipped()}
    policies["chat"] = Policy("x", profile=profile.load(profile.shipped()[0]))
    specials = frozenset({"<fim prefix>", "ENDOFDOC", "§a§", "<|im_end|>", "[INST]", "<s>"})
    for name, policy in policies.items():

        def last(t: str) -> tuple[Chat, Advice]:
            return Chat((Message("system", "Be brief."), Message("user", t))), Advice(instruction="Be kind.")

        def turns(t: str) -> tuple[Chat, Advice]:
            cut = [t[i : i + 500] for i in range(0, len(t), 500)]
            rows = [Message(("user", "assistant")[i % 2], it) for i, it in enumerate(cut)]
            return Chat((*rows, Message("user", "Why?"))), Advice()

        def advised(t: str) -> tuple[Chat, Advice]:
            rules = (Principle("a", t[: len(t) // 3], title="A"),)
            third = t[: len(t) // 3]
            return Chat((Message("user", "Why?"),)), Advice(principles=rules, pinned=rules, rewrite=third)

        for what, make in (("last turn", last), ("turns", turns), ("advice", advised)):
            yield Subject(f"{name}: {what}", make, lambda made, p=policy: lay_out(*made, p, specials), most)  # type: ignore[misc]


def gate(most: int) -> Iterator[Subject]:
    def more(t: str) -> tuple[str, str]:
        return t, t + " Give an example."

    def begun(t: str) -> tuple[str, str]:
        return "Tell me about " + t, "Please tell me, in detail, about " + t

    def other(t: str) -> tuple[str, str]:
        return "Explain the history of tea. " + distinct(len(t)), t

    def cut(t: str) -> tuple[str, str]:
        return t, t[len(t) // 3 :] + " " + t[: len(t) // 3]

    for name, make in (("more", more), ("begun", begun), ("other", other), ("moved", cut)):
        for mode in ("replace", "complement"):
            yield Subject(f"{mode}: {name}", make, lambda made, mode=mode: judge(*made, mode), most)  # type: ignore[misc]
    yield Subject("comparison", begun, lambda made: compare(*made, "replace"), most)  # type: ignore[misc]


def retrieval(most: int) -> Iterator[Subject]:
    several = frozenset({"en", "de", "fr", "zh", "fi"})
    yield Subject("query terms", lambda t: t, lambda t: analysis.query_terms(t, several), most)  # type: ignore[arg-type]
    yield Subject("language", lambda t: t, analysis.detect, most)  # type: ignore[arg-type]
    yield Subject("words of a question", lambda t: f"第12条{t}x", lambda t: citation.query_terms(t, str.split), most)  # type: ignore[arg-type]
    yield Subject("heads", lambda t: f"1 {t}x", lambda t: (heading.head(t), numbered.deep(t)), most)  # type: ignore[arg-type]
    yield Subject("citations", lambda t: t, lambda t: list(citation.citations(t)), most)  # type: ignore[arg-type]


PARTS = {
    "dialects": (dialects, 2**21),
    "layout": (layout, 2**20),
    "gate": (gate, 2**17),
    "retrieval": (retrieval, 2**19),
}


def double(part: str, kinds: list[str], verbose: bool) -> int:
    """How many cost more than their length."""
    make, most = PARTS[part]
    count = slow = 0
    worst = 0.0
    since = time.process_time()
    for subject in make(most):
        for name in kinds:
            found, took, length = ratio(subject, KINDS[name])
            count += 1
            worst = max(worst, found)
            slow += found > RATIO
            if found > RATIO or verbose:
                print(
                    f"  {subject.name}, {name}: {length} characters {took * 1000:.1f} ms, twice {found:.2f}", flush=True
                )
    spent = time.process_time() - since
    print(f"{part}: {count} pairs, {slow} over {RATIO}, worst {worst:.2f} ({spent:.0f} s of CPU)", flush=True)
    return slow


class Holds:
    """A profiler of one thread, which keeps the longest call into C.

    No other thread, and no event loop, runs meanwhile, but within a call that takes its items from a generator.
    """

    def __init__(self) -> None:
        self.longest_s, self.where = 0.0, ""
        self._since: list[float] = []

    def __call__(self, frame: FrameType, event: str, called: object) -> None:
        if event == "c_call":
            self._since.append(time.thread_time())
        elif event in ("c_return", "c_exception") and self._since:
            took = time.thread_time() - self._since.pop()
            if took > self.longest_s and called is not sys.setprofile:
                name = getattr(called, "__qualname__", str(called))
                self.longest_s, self.where = took, f"{name} at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def hold(megabytes: int) -> None:
    """Read each body, lay it out in both renders and write it again."""
    limits = Server()
    shown = profile.load(profile.shipped()[0])
    worst = 0.0
    for name, body in hostile(megabytes * 2**20):
        holds = Holds()
        since = time.thread_time()
        sys.setprofile(holds)
        try:
            with contextlib.suppress(ApiError, NoPlace):
                request = openai_chat.parse(body, limits)
                chat = openai_chat.chat(request, limits)
                for render in ("chat", "base"):
                    policy = Policy("x", render=render, profile=shown)  # type: ignore[arg-type]
                    prompt = lay_out(chat, Advice(instruction="Be kind."), policy)
                    if render == "chat":
                        openai_chat.native(request, prompt, "m", "")
        finally:
            sys.setprofile(None)
        worst = max(worst, holds.longest_s)
        told = f"{(time.thread_time() - since) * 1000:.0f} ms in all, longest call {holds.longest_s * 1000:.0f} ms"
        print(f"  hold, {name}: {told} ({holds.where})", flush=True)
    print(f"hold: {megabytes} MB, longest call of all {worst * 1000:.0f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="dialects,layout,gate,retrieval,hold", help="of those above")
    parser.add_argument("--kinds", default="", help="of texts, with semicolons between (default: all)")
    parser.add_argument("--megabytes", type=int, default=24, help="of a body of the part hold (default: %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="print every pair")
    options = parser.parse_args()
    kinds = options.kinds.split(";") if options.kinds else list(KINDS)
    slow = 0
    for part in options.parts.split(","):
        if part == "hold":
            hold(options.megabytes)
        else:
            slow += double(part, kinds, options.verbose)
    sys.exit(slow > 0)


if __name__ == "__main__":
    main()
