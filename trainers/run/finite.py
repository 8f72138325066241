"""A run stops at the first step whose loss or gradient is not finite, before that step changes a weight.

transformers' Trainer would continue: it logs the average of earlier losses in the place of a NaN, and the optimizer
then makes every weight NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainers.data.tokens import Tokens

NAMED = 8  # rows that the message names


class NonFinite(Exception):
    """A loss or gradient is NaN or infinite; the message names the step and the rows that it was computed on."""


class FiniteSteps:
    """Mixed into a transformers Trainer. `learned_from` are the rows that a message can name."""

    def __init__(self, *rest: Any, **more: Any) -> None:
        self.micro_batches: list[tuple[Any, Any]] = []  # (loss, inputs) of the step so far
        self.learned_from: Sequence[Tokens] = ()
        super().__init__(*rest, **more)

    def training_step(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        """The Trainer's forward and backward pass; its loss is kept until the step's gradient is known."""
        seen = dict(inputs)
        loss = super().training_step(model, inputs, *rest, **more)  # type: ignore[misc]
        self.micro_batches.append((loss.detach(), seen))
        return loss

    def _get_grad_norm(self, *rest: Any, **more: Any) -> Any:
        """The Trainer asks for the norm after the step's last backward pass and before the optimizer's step.

        Raises:
            NonFinite: the norm, or a micro-batch's loss, is not finite.
        """
        norm = super()._get_grad_norm(*rest, **more)  # type: ignore[misc]
        steps, self.micro_batches = self.micro_batches, []
        losses = [float(loss) for loss, _ in steps]
        wrong = [inputs for loss, (_, inputs) in zip(losses, steps, strict=True) if not math.isfinite(loss)]
        if wrong or not math.isfinite(float(norm)):
            step = self.state.global_step + 1  # type: ignore[attr-defined]
            what = f"the loss is {next(one for one in losses if not math.isfinite(one))}" if wrong else (
                f"the gradient's norm is {float(norm)} (losses {', '.join(f'{one:.4g}' for one in losses)})"
            )  # fmt: skip
            rows = list(dict.fromkeys(self._places(wrong or [inputs for _, inputs in steps])))
            named = "; ".join(rows[:NAMED]) + ("; …" if len(rows) > NAMED else "")
            raise NonFinite(f"step {step}: {what}" + (f", on the rows {named}" if rows else ""))
        return norm

    def _places(self, batches: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """Where the rows of the batches come from, by their token ids."""
        known = {tuple(row.whole(name)): row.place for row in self.learned_from for name in row.answers}
        for batch in batches:
            ids, mask = batch.get("input_ids"), batch.get("attention_mask")
            if ids is None:
                continue
            positions = batch.get("position_ids")
            for i in range(len(ids)):
                kept = ids[i] if mask is None else ids[i][mask[i].bool()]
                for part in parts(kept.tolist(), None if positions is None else positions[i].tolist()):
                    if part in known:
                        yield known[part]


def parts(ids: list[int], positions: list[int] | None) -> Iterator[tuple[int, ...]]:
    """The rows of one sequence: itself, or where rows are packed, what lies between positions of 0."""
    starts = [0] if positions is None else [i for i, position in enumerate(positions) if position == 0]
    for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
        yield tuple(ids[start:stop])
