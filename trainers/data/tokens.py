"""Rows as token ids: what the model sees before an answer when it is served, then the answer and one end token.

TRL would tokenize too, but by text: it appends the end token's *name*, which a tokenizer that keeps special tokens out
of text (as the packaged one does) splits into characters, so that the end is never learnt; and it cuts a prompt's last
token off where that would merge with the answer's first. Here the prompt is tokenized as a server would, and the end
is an id.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from trainers.data.jsonl import DataError
from trainers.data.messages import Row

LossOn = Literal["completion", "assistant", "all"]
MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")
ANSWERS = ("completion", "chosen", "rejected")


@dataclass(frozen=True)
class Tokens:
    """One row. `learned` has a 1 for each token of prompt and completion that the loss counts (sft only)."""

    place: str
    prompt: list[int]
    answers: dict[str, list[int]]
    learned: list[int] = field(default_factory=list)
    apart: bool = False  # prompt and answer would share a token where they meet, and were tokenized apart
    extra: dict[str, Any] = field(default_factory=dict)  # label, margin, scores: whatever else the row holds

    def whole(self, answer: str) -> list[int]:
        """Prompt and answer as one list of ids."""
        return self.prompt + self.answers[answer]

    def highest(self) -> int:
        """The largest token id of the row."""
        return max((max(ids) for ids in (self.prompt, *self.answers.values()) if ids), default=0)

    def longest(self) -> int:
        """Tokens of the prompt with the longest answer, where there is one."""
        return len(self.prompt) + max(map(len, self.answers.values()), default=0)


def encode_rows(rows: Iterable[Row], tokenizer: Any, loss_on: LossOn = "completion") -> list[Tokens]:
    """`encode` for each row, in their order."""
    return [encode(row, tokenizer, loss_on) for row in rows]


def encode(row: Row, tokenizer: Any, loss_on: LossOn = "completion") -> Tokens:
    """Token ids of a preference, labelled or completion row; DataError where a template cannot render it."""
    from jinja2 import TemplateError

    try:
        prompt = encode_prompt(row["prompt"], tokenizer)
        pairs = {key: encode_answer(row["prompt"], text, prompt, tokenizer) for key, text in answers_of(row).items()}
        learned = learned_tokens(row, prompt, pairs["completion"][0], tokenizer, loss_on) if "completion" in row else []
    except (DataError, TemplateError) as error:
        raise DataError(f"{row['place']}: {error}") from error
    extra = {key: value for key, value in row.items() if key not in ("place", "prompt", "answers", *ANSWERS)}
    answers = {key: ids for key, (ids, _) in pairs.items()}
    return Tokens(row["place"], prompt, answers, learned, any(apart for _, apart in pairs.values()), extra)


def answers_of(row: Row) -> dict[str, Any]:
    """The row's answers by name: completion, chosen, rejected, or "answers 1" and so on of a list."""
    found = {key: row[key] for key in ANSWERS if key in row}
    return found | {f"answers {i}": text for i, text in enumerate(row.get("answers", ()), 1)}


def encode_prompt(prompt: Any, tokenizer: Any) -> list[int]:
    """As a server tokenizes it: through the chat template where there is one, else as text.

    Raises:
        DataError: the template leaves a message out that is not the assistant's own.
    """
    text = rendered(prompt, tokenizer, True)
    for turn in turns(prompt, "user"):
        if turn["role"] != "assistant" and turn["content"].strip() not in text:
            raise DataError(f"the chat template leaves out the {turn['role']} message {turn['content']!r:.60}")
    return ids_of(text, tokenizer, begin=not tokenizer.chat_template)


def encode_answer(prompt: Any, answer: Any, prompt_ids: list[int], tokenizer: Any) -> tuple[list[int], bool]:
    """The answer's ids, ended once; and whether it had to be tokenized apart from the prompt."""
    before = rendered(prompt, tokenizer, True)
    whole = rendered(turns(prompt, "user") + turns(answer, "assistant"), tokenizer, False) if (
        tokenizer.chat_template
    ) else prompt + answer  # fmt: skip
    if not whole.startswith(before):
        raise DataError("the chat template renders the prompt differently once an answer follows; set chat_template")
    joint = ids_of(whole, tokenizer, begin=not tokenizer.chat_template)
    apart = joint[: len(prompt_ids)] != prompt_ids
    ids = ids_of(whole[len(before) :], tokenizer, begin=False) if apart else joint[len(prompt_ids) :]
    return ended(ids, tokenizer), apart


def rendered(said: Any, tokenizer: Any, generation: bool) -> str:
    """Text; a string is the user's turn where there is a chat template, and stays as it is where there is none."""
    if tokenizer.chat_template:
        text: str = tokenizer.apply_chat_template(
            turns(said, "user"), tokenize=False, add_generation_prompt=generation
        )  # fmt: skip
        return text
    if not isinstance(said, str):
        raise DataError("messages need a chat template, and the tokenizer has none; set chat_template (chatml, dialogue"
                        " or a file)")  # fmt: skip
    return said


def turns(said: Any, role: str) -> list[dict[str, str]]:
    """Messages; a string is one message of that role."""
    return [{"role": role, "content": said}] if isinstance(said, str) else list(said)


def ids_of(text: str, tokenizer: Any, begin: bool) -> list[int]:
    """Ids of the text, with what the tokenizer puts before one if `begin`, and never with an end token after it."""
    ids: list[int] = tokenizer(text, add_special_tokens=begin, verbose=False)["input_ids"]
    if begin and ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        ids = ids[:-1]
    return ids


def ended(ids: list[int], tokenizer: Any) -> list[int]:
    """With the end token last: what a template writes after it is cut off, and where there is none it is added."""
    end = tokenizer.eos_token_id
    if end in ids:
        last = len(ids) - ids[::-1].index(end)
        if not tokenizer.decode(ids[last:]).strip():
            return ids[:last]
    return [*ids, end]


def learned_tokens(row: Row, prompt: list[int], answer: list[int], tokenizer: Any, loss_on: LossOn) -> list[int]:
    """1 for each token that the loss counts: the last answer, every turn of the assistant's, or all."""
    if loss_on == "all":
        return [1] * (len(prompt) + len(answer))
    if loss_on == "completion":
        return [0] * len(prompt) + [1] * len(answer)
    if not tokenizer.chat_template or not MARKER.search(tokenizer.chat_template):
        raise DataError("loss_on: assistant needs a chat template with {% generation %} markers; "
                        "set chat_template (chatml or dialogue, which have them), or loss_on: completion")  # fmt: skip
    conversation = turns(row["prompt"], "user") + turns(row["completion"], "assistant")
    marked = tokenizer.apply_chat_template(conversation, return_dict=True, return_assistant_tokens_mask=True)
    mask: list[int] = list(marked["assistant_masks"])
    if marked["input_ids"][: len(prompt) + len(answer)] != prompt + answer:  # an end was added, or a boundary moved
        mask = mask[: len(prompt)] + [1] * len(answer)
    return mask[: len(prompt) + len(answer)]


def cut(tokens: Tokens, max_length: int) -> Tokens:
    """The row with the ends of its answers cut off at `max_length` tokens in all."""
    room = max(0, max_length - len(tokens.prompt))
    answers = {key: ids[:room] for key, ids in tokens.answers.items()}
    return Tokens(tokens.place, tokens.prompt, answers, tokens.learned[:max_length], tokens.apart, tokens.extra)
