"""python -m benchmarks.marks.prompts > prompts.jsonl: what a policy with cite = "marks" sends, for each question."""

from __future__ import annotations

import json
from pathlib import Path

from prompt_opt import profile
from prompt_opt.core import Advice, Chat, Message, Policy, Principle
from prompt_opt.layout.order import lay_out

HERE = Path(__file__).parent


def main() -> None:
    rules = json.loads((HERE / "rules.json").read_text("utf-8"))
    questions = json.loads((HERE / "questions.json").read_text("utf-8"))
    default = profile.load("default")
    for topic, asked in questions.items():
        shown = tuple(Principle(row["id"], row["text"], row["title"], index="law") for row in rules[topic])
        for number, question in enumerate(asked):
            chat = Chat((Message("user", question),))
            advice = Advice(principles=shown, cite="marks")
            sent = lay_out(chat, advice, Policy("chat"))
            based = lay_out(
                chat,
                Advice(default.instruction, default.exemplars[:1], principles=shown, cite="marks"),
                Policy("base", render="base", profile=default),
            )
            assert sent.messages is not None
            row = {
                "id": f"{topic}-{number}", "topic": topic, "question": question, "chat": sent.messages[0].text,
                "base": based.text, "stops": list(based.stops),
            }  # fmt: skip
            print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
