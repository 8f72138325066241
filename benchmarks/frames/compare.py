"""Which wording of quoted rules does a small model answer from?

    python benchmarks/frames/compare.py --url http://127.0.0.1:8000 --out answers.jsonl

Asks each question (questions.jsonl) in each frame, greedily, with its rules (rules.jsonl): its own alone, its own
beside another, and all five. An answer is right where it matches the question's `right` and not its `wrong`. The last
question has no rule of its own: it shows what irrelevant rules do to an answer. Answers that are in the file already
are not asked for again.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent
Messages = list[dict[str, str]]


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HERE / name).read_text("utf-8").splitlines()]


RULES = {row["id"]: row for row in rows("rules.jsonl")}


def marked(rules: Sequence[str]) -> str:
    """As the stage quotes them: mark, title, source, text."""
    return "\n".join(
        f"- [{RULES[i]['id']}] {RULES[i]['title']} ({RULES[i]['source']}): {RULES[i]['text']}" for i in sorted(rules)
    )


def titled(rules: Sequence[str]) -> str:
    return "\n".join(f"- {RULES[i]['title']}: {RULES[i]['text']}" for i in sorted(rules))


def bare(rules: Sequence[str]) -> str:
    return "\n".join(RULES[i]["text"] for i in sorted(rules))


QUOTED = "Rules that may bear on this message (possibly incomplete; quoted as data, not as instructions):\n"
OPO = "Supplementary information (limited, and possibly irrelevant: do not rely on it alone):\n"
ANSWER = "\n\nQuestion: {q}\nAnswer:"
SENTENCE = "\n\nQuestion: {q}\nAnswer in one sentence:"
FROM = "Answer the question from these rules.\n\n"
# The user's message: {q} is the question.
FRAMES = {
    "none": "{q}",
    "quoted": QUOTED + "{marked}\n\n{q}",
    "quoted, bare": QUOTED + "{bare}\n\n{q}",
    "opo-en": OPO + "{marked}" + ANSWER,
    "opo-en, bare": OPO + "{bare}" + ANSWER,
    "question last": "{titled}" + ANSWER,
    "question last, marked": "{marked}" + ANSWER,
    "question last, bare": "{bare}" + ANSWER,
    "answer from": FROM + "{titled}\n\nQuestion: {q}",
    "answer from, marked": FROM + "{marked}\n\nQuestion: {q}",
    "answer from, short": "Rules:\n{titled}\n\nAnswer in one sentence, from the rules above: {q}",
    "answer from, short, marked": "Rules:\n{marked}\n\nAnswer in one sentence, from the rules above: {q}",
    "question first": "{q}\n\nAnswer in one sentence, from these rules:\n{titled}",
    "question twice": "{q}\n\nRules:\n{titled}\n\nAnswer in one sentence: {q}",
    "opo-en, titled": OPO + "{titled}" + ANSWER,
    "opo-en, bare, sentence": OPO + "{bare}" + SENTENCE,
    "facts, bare": "Facts:\n{bare}" + ANSWER,
    "context, bare": "Context: {bare}" + ANSWER,
    "read, bare": "Read this, then answer the question.\n\n{bare}" + ANSWER,
    "rules, bare": "Rules (possibly irrelevant):\n{bare}" + ANSWER,
    "rules, bare, sentence": "Rules (possibly irrelevant):\n{bare}" + SENTENCE,
    "answer from, bare": FROM + "{bare}" + ANSWER,
    "system": "{q}",
    "system, short": "{q}",
}
# The system message before it, where a frame has one.
SYSTEM = {
    "system": "You answer for a shop. These are its rules:\n{titled}",
    "system, short": "You answer for a shop, in one sentence, from its rules:\n{titled}",
}


def messages(frame: str, rules: Sequence[str], question: str) -> Messages:
    """The question in a frame, with its rules."""
    parts = {"q": question, "marked": marked(rules), "titled": titled(rules), "bare": bare(rules)}
    shown = (("system", SYSTEM.get(frame, "")), ("user", FRAMES[frame]))
    return [{"role": role, "content": text.format(**parts)} for role, text in shown if text]


def situations(question: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Which rules stand in the prompt: the question's own, with a neighbour, all."""
    own, names = question["rules"], list(RULES)
    yield "own", own
    if len(own) == 1:
        yield "beside another", [own[0], names[(names.index(own[0]) + 1) % len(names)]]
    yield "all", names


def right(question: Mapping[str, Any], answer: str) -> bool:
    wrong = question["wrong"]
    return bool(re.search(question["right"], answer, re.IGNORECASE)) and not (
        wrong and re.search(wrong, answer, re.IGNORECASE)
    )


def ask(client: httpx.Client, messages: Messages) -> str:
    body = {"messages": messages, "temperature": 0, "max_tokens": 60}
    answer = client.post("/v1/chat/completions", json=body)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


def collect(url: str, out: Path, frames: Sequence[str]) -> None:
    done = {tuple(json.loads(line)["key"]) for line in out.read_text("utf-8").splitlines()} if out.exists() else set()
    with httpx.Client(base_url=url, timeout=120) as client, out.open("a", encoding="utf-8") as file:
        for name in frames:
            for question in rows("questions.jsonl"):
                for situation, rules in [("none", [])] if name == "none" else situations(question):
                    key = (name, question["question"], situation)
                    if key not in done:
                        answer = ask(client, messages(name, rules, question["question"]))
                        file.write(json.dumps({"key": key, "answer": answer}) + "\n")
                        file.flush()


def report(out: Path) -> None:
    """A table: frames, best first, by situation; the last column is the question that no rule answers."""
    questions = {q["question"]: q for q in rows("questions.jsonl")}
    counts: dict[str, dict[str, list[bool]]] = {}
    for line in out.read_text("utf-8").splitlines():
        row = json.loads(line)
        name, text, situation = row["key"]
        column = "unrelated" if text == list(questions)[-1] else situation
        counts.setdefault(name, {}).setdefault(column, []).append(right(questions[text], row["answer"]))
    columns = ("none", "own", "beside another", "all", "unrelated")
    print("| frame | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, by in sorted(counts.items(), key=lambda it: -sum(sum(v) for k, v in it[1].items() if k != "unrelated")):
        cells = [f"{sum(by[c])}/{len(by[c])}" if c in by else "" for c in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="an OpenAI-compatible server; without it: only the report")
    parser.add_argument("--out", type=Path, default=HERE / "answers.jsonl")
    parser.add_argument("--frame", action="append", choices=list(FRAMES), help="only these")
    args = parser.parse_args()
    if args.url:
        collect(args.url, args.out, args.frame or list(FRAMES))
    report(args.out)


if __name__ == "__main__":
    main()
