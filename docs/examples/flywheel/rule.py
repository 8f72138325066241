"""The rule of the flywheel's example: short answers that end properly, in the language of the question.

trimtab train flywheel … --set rule=docs/examples/flywheel/rule.py:short_and_whole
trimtab eval … --rule docs/examples/flywheel/rule.py:short_and_whole
"""

from __future__ import annotations

from collections.abc import Sequence

from prompt_opt.gate.language import language, size

LEAST, MOST = 8, 25  # words
ENDS = (".", "!", "?", '."', ".)", "。")


def short_and_whole(messages: Sequence[dict[str, str]], answer: str) -> float:
    """1 for 8 to 25 words that end a sentence, in the question's language; less the farther it is from that, down to 0.

    An answer that breaks off, or in another language, gets 0. A longer one gets 25 / words of a half. A shorter one
    gets a quarter: otherwise the shortest answers would win, whatever they say.
    """
    text = answer.strip()
    asked, told = language(messages[-1]["content"]), language(text)
    if not text.endswith(ENDS) or (asked and told and asked != told):
        return 0.0
    words = size(text)
    if words < LEAST:
        return 0.25
    return 1.0 if words <= MOST else 0.5 * MOST / words
