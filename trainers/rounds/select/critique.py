"""Learn to criticise: the critique that quotes a planted flaw against one that misses it (arXiv:2407.00215).

McAleese et al. 2024 ("LLM Critics Help Catch LLM Bugs"): a person changes a good answer for the worse and writes down
what is now wrong, so that for each critique it is known whether it names that flaw. The prompt holds the changed
answer; the data's own answer is that person's critique, which quotes the flaw.
"""

import re
from random import Random
from typing import Any

from trainers.data.jsonl import DataError
from trainers.rounds.group import Choice, Group, Scored

_QUOTED = re.compile(r'"([^"\n]+)"|“([^”\n]+)”|«([^»\n]+)»|「([^」\n]+)」|`([^`\n]+)`')


def finds(group: Group, choice: Choice, draw: Random) -> list[dict[str, Any]]:
    """One pair where at least one sample misses the flaw.

    Chosen is, of the samples that find it, the one with the fewest other quotations (what the paper calls nitpicks and
    invented flaws), then the highest score; the data's own critique where none finds it. Rejected is, of those that
    miss it, the one with the most quotations, then the lowest score.

    Raises:
        DataError: the data's critique quotes nothing that stands in the prompt.
    """
    gold = _text(group.gold)
    shown = plain(_text(group.prompt))
    flaw = {passage for passage in quotations(gold) if passage in shown}
    if not flaw:
        raise DataError(f"the critique {gold!r:.80} quotes no passage of its prompt, so nothing says what the flaw is")
    samples = group.unique()
    found = [scored for scored in samples if _names(scored, flaw)]
    missed = [scored for scored in samples if scored not in found]
    if not missed:
        return []
    best = min(found, key=lambda scored: (_others(scored, flaw), -scored.score), default=Scored(gold))
    worst = min(missed, key=lambda scored: (-_others(scored, flaw), scored.score))
    return [{"prompt": group.prompt, "chosen": group.answer(best.text), "rejected": group.answer(worst.text)}]


def quotations(text: str) -> set[str]:
    """The passages that stand in quotation marks or backticks on one line, in lower case, blanks evened out."""
    return {plain(passage) for match in _QUOTED.finditer(text) for passage in match.groups() if passage} - {""}


def plain(text: str) -> str:
    """Lower case, with single spaces for any blanks."""
    return " ".join(text.casefold().split())


def _names(scored: Scored, flaw: set[str]) -> bool:
    return any(_same(passage, one) for passage in quotations(scored.text) for one in flaw)


def _others(scored: Scored, flaw: set[str]) -> int:
    return sum(not any(_same(passage, one) for one in flaw) for passage in quotations(scored.text))


def _same(passage: str, flaw: str) -> bool:
    """Whether a quotation is the flaw, with up to its own length of text around it, or at least half of it."""
    if flaw in passage:
        return len(passage) <= 2 * len(flaw)
    return passage in flaw and 2 * len(passage) >= len(flaw)


def _text(value: Any) -> str:
    """A prompt's or an answer's words."""
    return value if isinstance(value, str) else "\n".join(message["content"] for message in value)
