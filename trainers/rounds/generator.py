"""Samples from the actor in this process: no engine is needed, and a killed run resumes to the same samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainers.ask.engine import Answer, Answers, Messages
from trainers.ask.journal import Journal
from trainers.data.jsonl import DataError
from trainers.data.tokens import encode_prompt
from trainers.rounds.sample import Prompt, Sample, key_of, read_sample, write_sample


class Generator:
    """Owns the actor's weights. `batch` prompts are answered together."""

    def __init__(
        self, folder: Path, tokenizer: Any, revision: str, *, temperature: float, top_p: float, max_new_tokens: int,
        batch: int,
    ) -> None:  # fmt: skip
        import torch

        from trainers.run.weights import load_trained

        self.tokenizer, self.revision, self.batch = tokenizer, revision, batch
        self.model = load_trained(folder).to("cuda" if torch.cuda.is_available() else "cpu")
        given = self.model.generation_config.eos_token_id
        self.ends = list(dict.fromkeys([tokenizer.eos_token_id, *(given if isinstance(given, list) else [])]))
        self.decoding: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0,
                         "max_new_tokens": max_new_tokens}  # fmt: skip

    def sample(self, prompts: Sequence[Prompt], number: int, seed: int, folder: Path) -> list[list[Sample]]:
        """Batches are the same however often the run is resumed, and each has a seed of its own."""
        self._check_context(prompts)
        with Journal(folder / "samples.jsonl", read_sample, write_sample) as kept:
            for start in tqdm(range(0, len(prompts), self.batch), desc="samples", unit="batch"):
                places = range(start, min(start + self.batch, len(prompts)))
                if all(kept.get(key_of(at, i)) is not None for at in places for i in range(number)):
                    continue
                for found in self._generate(prompts, places, number, seed_of(seed, start)):
                    kept.append(found.key, found)
            return [[kept[key_of(at, i)] for i in range(number)] for at in range(len(prompts))]

    def _check_context(self, prompts: Sequence[Prompt]) -> None:
        """DataError where a prompt and a whole answer are more than the model's positions."""
        limit, room = getattr(self.model.config, "max_position_embeddings", None), self.decoding["max_new_tokens"]
        for at, prompt in enumerate(prompts if limit else ()):
            length = len(encode_prompt(prompt, self.tokenizer))
            if length + room > limit:
                raise DataError(
                    f"prompt {at + 1} has {length} tokens; with max_new_tokens ({room}) that is more than the model's "
                    f"context ({limit})"
                )

    def ask(self, questions: Mapping[str, Messages], path: Path) -> dict[str, Answer]:
        """Greedily; without a chat template the messages are asked as one text."""
        with Answers(path) as kept:
            for key, messages in tqdm(questions.items(), desc="marks"):
                if kept.get(key) is None:
                    kept.append(key, self._greedy(messages))
            return {key: kept[key] for key in questions}

    def _greedy(self, messages: Messages) -> Answer:
        import torch

        plain = "\n\n".join(turn["content"] for turn in messages) + "\n"
        prompt = encode_prompt(messages if self.tokenizer.chat_template else plain, self.tokenizer)
        ids = torch.tensor([prompt], device=self.model.device)
        with torch.no_grad():
            out = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), eos_token_id=self.ends, do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id, max_new_tokens=self.decoding["max_new_tokens"],
            )  # fmt: skip
        answer = self._cut(out[0, len(prompt) :].tolist())
        finish = "stop" if answer[-1] in self.ends else "length"
        return Answer(self.tokenizer.decode(trimmed(answer, self.ends), skip_special_tokens=True), finish)

    def _generate(self, prompts: Sequence[Prompt], places: range, number: int, seed: int) -> list[Sample]:
        import torch

        asked = [encode_prompt(prompts[at], self.tokenizer) for at in places]
        ids, mask = padded(asked, self.tokenizer.pad_token_id)
        torch.manual_seed(seed)
        with torch.no_grad():
            out = self.model.generate(
                input_ids=ids.to(self.model.device), attention_mask=mask.to(self.model.device), eos_token_id=self.ends,
                pad_token_id=self.tokenizer.pad_token_id, num_return_sequences=number, **self.decoding,
            )  # fmt: skip
            rows = out[:, ids.shape[1] :].tolist()
            answers = [self._cut(row) for row in rows]
            scores = self._logprobs(asked, answers, number)
        names = [(at, i) for at in places for i in range(number)]
        return [
            Sample(
                at, i, self.tokenizer.decode(trimmed(answer, self.ends), skip_special_tokens=True),
                "stop" if answer and answer[-1] in self.ends else "length", tuple(answer), scores[n], self.revision,
            )
            for n, (answer, (at, i)) in enumerate(zip(answers, names, strict=True))
        ]  # fmt: skip

    def _cut(self, row: list[int]) -> list[int]:
        """The tokens up to the first end, which belongs to the answer; what follows it is padding."""
        at = next((i for i, token in enumerate(row) if token in self.ends), len(row) - 1)
        return row[: at + 1]

    def _logprobs(self, asked: list[list[int]], answers: list[list[int]], number: int) -> list[tuple[float, ...]]:
        """log π of every token of the answers at temperature 1, by one pass over prompt and answer."""
        import torch

        found = []
        for n, answer in enumerate(answers):
            prompt = asked[n // number]
            whole = torch.tensor([prompt + answer], device=self.model.device)
            logits = self.model(whole, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
            chosen = logits.log_softmax(-1).gather(1, whole[0, len(prompt) :, None])
            found.append(tuple(round(value, 6) for value in chosen.squeeze(1).tolist()))
        return found


def seed_of(seed: int, start: int) -> int:
    """A seed for the batch that begins there, unlike those of other batches and runs."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{start}".encode()).digest()[:7], "big")


def trimmed(answer: list[int], ends: list[int]) -> list[int]:
    """The answer without its end token."""
    return answer[:-1] if answer and answer[-1] in ends else answer


def padded(rows: list[list[int]], pad: int) -> tuple[Any, Any]:
    """(ids, mask), both (B, L), padded on the left."""
    import torch

    length = max(map(len, rows))
    ids = torch.tensor([[pad] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
