"""Pairs without computing a prompt twice: one prefix and two answers in one sequence, and several pairs in one row.

A pair is laid out as prompt[:-1], then prompt[-1] + chosen, then prompt[-1] + rejected. The prompt's last token stands
before each answer, so that each answer's first token is predicted by the token before it, as everywhere else. Position
ids go on from the prompt for both, and a mask keeps each answer from the other's tokens and each pair from its
neighbours, so every log-probability is the one that an unpacked batch has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Packing = Literal["none", "prompt", "sequence"]
_SHARED, _NOTHING = 0, -1  # segments; the answers are 1 and 2


@dataclass(frozen=True)
class Packed:
    """R rows of T tokens: a row for each pair ("prompt"), or one for all ("sequence").

    Attributes:
        ids, positions, labels: (R, T); labels are -100 but at the answers' tokens.
        mask: (R, 1, T, T) bool, whether a token (third) sees another (fourth).
        answer: (R, T), which answer a token belongs to: 2b for the chosen one of pair b, 2b + 1 for the rejected; -1.
        tokens: (2B,) tokens of each answer, the chosen ones first.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    mask: Tensor
    answer: Tensor
    tokens: Tensor

    def sums(self, log_probs: Tensor) -> Tensor:
        """(2B,) sums over each answer's tokens, the chosen ones first, of log_probs (R, T - 1) of the tokens from 1."""
        import torch

        at = self.answer[:, 1:]
        pairs = len(self.tokens) // 2
        flat = torch.zeros(2 * pairs, dtype=log_probs.dtype, device=log_probs.device)
        flat = flat.index_add(0, at[at >= 0], log_probs[at >= 0])
        return flat.view(pairs, 2).T.reshape(-1)


def pack(ids: Tensor, attention: Tensor, completion: Tensor, kind: Packing, pad: int) -> Packed:
    """A batch of B pairs as TRL lays it out, (2B, L) with the chosen rows first, packed.

    Args:
        attention: 1 where there is a token; completion: 1 where it is the answer's.
        kind: "prompt" or "sequence".
    """
    import torch

    pairs = len(ids) // 2
    here, there, learned = ids.cpu(), attention.bool().cpu(), completion.bool().cpu()
    parts = list(enumerate(_pair(here, there, learned, at, at + pairs) for at in range(pairs)))
    rows = [parts] if kind == "sequence" else [[each] for each in parts]
    length = max(sum(len(part[0]) for _, part in row) for row in rows)
    table = torch.full((5, len(rows), length), _NOTHING)  # tokens, positions, segments, answers, pairs
    table[0], table[1] = pad, 0
    for at, row in enumerate(rows):
        begin = 0
        for number, (words, places, segments) in row:
            end = begin + len(words)
            answers = torch.where(segments > 0, 2 * number + segments - 1, _NOTHING)
            answers[_firsts(segments)] = _NOTHING  # the prompt's last token before each answer
            table[:, at, begin:end] = torch.stack([words, places, segments, answers, torch.full_like(words, number)])
            begin = end
    packed, positions, segments, answer, owner = table.to(ids.device)
    labels = packed.masked_fill(answer == _NOTHING, -100)
    tokens = completion[:, 1:].sum(1).clamp(min=1)
    return Packed(packed, positions, labels, _mask(segments, owner), answer, tokens)


def _pair(ids: Tensor, there: Tensor, learned: Tensor, one: int, two: int) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens of the pair in rows `one` and `two` in their order, their positions and segments, each (T,)."""
    import torch

    prompt = ids[one][there[one] & ~learned[one]]
    answers = [ids[which][learned[which]] for which in (one, two)]
    tokens = torch.cat([prompt[:-1], *(torch.cat([prompt[-1:], answer]) for answer in answers)])
    shared = len(prompt) - 1
    places = [torch.arange(shared), *(torch.arange(shared, shared + 1 + len(answer)) for answer in answers)]
    segments = [torch.zeros(shared), *(torch.full((1 + len(a),), n) for n, a in enumerate(answers, 1))]
    return tokens, torch.cat(places), torch.cat(segments).long()


def _firsts(segments: Tensor) -> list[int]:
    """Where the two answers' segments begin."""
    return [int((segments == which).nonzero()[0, 0]) for which in (1, 2)]


def _mask(segments: Tensor, pairs: Tensor) -> Tensor:
    """(R, 1, T, T): a token sees those before it of its own pair that are shared or of its own answer."""
    import torch

    length = segments.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    same = pairs[:, :, None] == pairs[:, None, :]
    seen = (segments[:, None, :] == _SHARED) | (segments[:, None, :] == segments[:, :, None])
    return (earlier & same & seen)[:, None]
