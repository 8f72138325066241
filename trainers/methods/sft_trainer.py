"""TRL's SFTTrainer with held-out numbers that count tokens, however rows are split into batches and over processes."""

import math
from typing import Any

import torch
from trl.trainer.sft_trainer import SFTTrainer


class CountingSFT(SFTTrainer):
    """TRL averages the means of batches, and of several processes' last batches also the rows that fill them up.

    Here every held-out row counts once, by its tokens. Rows in one sequence without padding cannot be told apart, so
    that a packed run over several processes keeps those repeated rows.
    """

    def __init__(self, **keywords: Any) -> None:
        self.tested: list[torch.Tensor] = []  # per batch: (rows, 4) sums of nats, entropy, hits and tokens
        super().__init__(**keywords)

    def prediction_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        """Sums per row, (rows, 4), are kept; the mean loss of the batch in nats is returned."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            found = model(**inputs, use_cache=False, fused_lm_head=True)
        parts = (-found.log_probs, found.entropy, found.is_top1, found.label_mask)
        rows = torch.stack([part.double().sum(1) for part in parts], dim=1)
        self.tested.append(self.accelerator.gather_for_metrics(rows).cpu())
        return rows[:, 0].mean(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Means over all tokens in the place of TRL's means of batches."""
        if self.tested:
            nats, entropy, hits, tokens = torch.cat(self.tested).sum(0).tolist()
            self.tested = []
            means = {"loss": nats / tokens, "entropy": entropy / tokens, "mean_token_accuracy": hits / tokens}
            found = {**means, "perplexity": math.exp(min(nats / tokens, 700.0)), "tokens": tokens}
            self._metrics["eval"].update({name: [value] for name, value in found.items()})
        super().log(logs, start_time)
