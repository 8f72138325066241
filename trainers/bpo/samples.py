"""What a trained rewriter writes: asked by the server's template, read by its rules, judged by its gate."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prompt_opt.gate.verdict import judge
from prompt_opt.rewriter.settings import Rewriter
from prompt_opt.rewriter.template import BPO, Candidate
from trainers.ask.journal import write_rows, write_whole
from trainers.data.messages import Row
from trainers.run.wilson import wilson


def specials_of(tokenizer: Any) -> frozenset[str]:
    """The tokenizer's special tokens, which the server escapes in a prompt; so they are learnt escaped."""
    return frozenset(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)


class Writer:
    """A rewriter in this process, for measuring and for samples. Serving is an engine's work."""

    def __init__(self, folder: Path, max_new_tokens: int, batch: int) -> None:
        import torch
        from transformers import AutoTokenizer

        from trainers.run.weights import load_trained

        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
        self.model = load_trained(folder).to("cuda" if torch.cuda.is_available() else "cpu")
        self.rewriter = Rewriter("trained", "here", BPO, specials=specials_of(self.tokenizer))
        self.max_new_tokens, self.batch = max_new_tokens, batch

    def write(self, prompts: Sequence[str], what: str, **sampling: Any) -> Iterator[list[Candidate]]:
        """The candidates for each prompt: one, or as many as `num_return_sequences` says."""
        import torch

        texts = [self.rewriter.body(prompt, "replace")["prompt"] for prompt in prompts]
        for at in tqdm(range(0, len(texts), self.batch), desc=what, unit="batch"):
            asked = self.tokenizer(texts[at : at + self.batch], return_tensors="pt", padding=True).to(self.model.device)
            with torch.no_grad():
                out = self.model.generate(
                    **asked,
                    max_new_tokens=self.max_new_tokens,
                    eos_token_id=self.tokenizer.eos_token_id,
                    pad_token_id=self.tokenizer.pad_token_id,
                    **({"do_sample": False} | sampling),
                )
            each = sampling.get("num_return_sequences", 1)
            said = [self._choice(ids) for ids in out[:, asked["input_ids"].shape[1] :].tolist()]
            for i, prompt in enumerate(prompts[at : at + self.batch]):
                answer = {"choices": said[i * each : (i + 1) * each]}
                yield list(self.rewriter.candidates(answer, prompt))

    def _choice(self, ids: list[int]) -> dict[str, Any]:
        """A choice as an engine gives it."""
        end = self.tokenizer.eos_token_id
        ended = end in ids
        text = self.tokenizer.decode(ids[: ids.index(end)] if ended else ids, skip_special_tokens=True)
        return {"text": text, "finish_reason": "stop" if ended else "length"}


def verdict(prompt: str, candidate: Candidate) -> str:
    """The rule of the serving gate that objects, or ""."""
    if not candidate.complete:
        return "truncated"
    return judge(prompt, candidate.text, instruction=BPO.instruction(prompt, "replace")).rule


def report(writer: Writer, train: Sequence[Row], heldout: Sequence[Row], out: Path) -> dict[str, Any]:
    """Rewrite the held-out prompts greedily; OUT/report.jsonl has each, what comes back sums them up.

    exact_match: the rewrite is the critic's, to the letter. served_match: what the model would get is, where the gate
    has the last word: the rewrite if accepted, else the prompt. constant_suffix: the same for every prompt with the
    training data's most frequent addition after it, the best that a rule without a look at the prompt can do.
    """
    rows = []
    for row, [said] in zip(heldout, writer.write([row["prompt"] for row in heldout], "held out"), strict=True):
        rule = verdict(row["prompt"], said)
        rows.append({**row, "said": said.text, "rule": rule, "served": row["prompt"] if rule else said.text})
    write_rows(out / "report.jsonl", rows)
    suffix = constant_suffix(train)
    good = [row for row in rows if row["prompt"] == row["rewrite"]]
    exact = sum(row["said"] == row["rewrite"] for row in rows)
    summary: dict[str, Any] = {
        "prompts": len(rows),
        "exact_match": share(exact, len(rows)),
        "exact_match_95": wilson(exact / len(rows), len(rows)) if rows else None,
        "served_match": share(sum(row["served"] == row["rewrite"] for row in rows), len(rows)),
        "constant_suffix": suffix,
        "constant_suffix_exact_match": share(sum(r["prompt"] + suffix == r["rewrite"] for r in rows), len(rows)),
        "already_good": len(good),
        "already_good_left_alone": share(sum(row["served"] == row["prompt"] for row in good), len(good)),
        "to_improve_exact_match": share(
            exact - sum(row["said"] == row["prompt"] for row in good), len(rows) - len(good)
        ),
        "gate": dict(Counter(row["rule"] or "accepted" for row in rows).most_common()),
    }
    write_whole(out / "report.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return summary


def constant_suffix(train: Sequence[Row]) -> str:
    """What the rewrites of the training data most often add after the prompt; "" where they mostly add nothing."""
    ends = (row["rewrite"].removeprefix(row["prompt"]) for row in train if row["rewrite"].startswith(row["prompt"]))
    return max(Counter(ends).items(), key=lambda pair: pair[1], default=("", 0))[0]


def share(number: int, of: int) -> float | None:
    """A fraction, None of nothing."""
    return number / of if of else None
