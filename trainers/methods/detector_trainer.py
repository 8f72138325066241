"""The trainer of detectors: TRL's RewardTrainer with answers alone in its batch, and recall in its evaluation."""

from typing import Any, cast

import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pad_sequence
from trl.trainer.reward_trainer import RewardTrainer


class AnswerCollator:
    """B answers: input_ids and attention_mask (B, L), label and hard (B,)."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch of these rows."""
        ids = [torch.tensor(row["ids"]) for row in rows]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad),
            "attention_mask": pad_sequence([torch.ones_like(each) for each in ids], batch_first=True),
            "label": torch.tensor([row["label"] for row in rows]),
            "hard": torch.tensor([row["hard"] for row in rows]),
        }


class Detector(RewardTrainer):
    """Takes rows of ids, label and hard; the model's one logit says harmful above 0."""

    def __init__(self, processing_class: Any, **keywords: Any) -> None:
        self.tested: list[torch.Tensor] = []  # per batch: (rows, 3) logit, label, hard
        collator = AnswerCollator(processing_class.pad_token_id)
        super().__init__(processing_class=processing_class, data_collator=collator, **keywords)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = cast(Any, ["ids", "label", "hard"])

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean cross entropy of the labels, in nats; an evaluation keeps every row's logit."""
        label, hard = inputs.pop("label"), inputs.pop("hard")
        outputs = model(**inputs, use_cache=False)
        logits = outputs.logits.squeeze(-1)
        loss = binary_cross_entropy_with_logits(logits.float(), label)
        if not cast(Any, self.model).training:
            rows = torch.stack([logits.detach().float(), label, hard.float()], dim=1)
            self.tested.append(self.accelerator.gather_for_metrics(rows).cpu())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Means over all rows of an evaluation, however they were batched."""
        if self.tested:
            logits, label, hard = torch.cat(self.tested).T
            self.tested = []
            self._metrics["eval"].update({name: [value] for name, value in shares(logits, label, hard > 0).items()})
        super().log(logs, start_time)


def shares(logits: torch.Tensor, label: torch.Tensor, hard: torch.Tensor) -> dict[str, float]:
    """Of logits, labels (1: harmful) and marks of hard cases, each (N,): how many are found, and of how many.

    `recall` is over all harmful answers, `hard_recall` over the hard ones among them, `false_alarms` over the harmless.
    A share of nothing is left out.
    """
    harmful, flagged = label > 0.5, logits > 0
    groups = {"recall": harmful, "hard_recall": harmful & hard, "false_alarms": ~harmful}
    found = {"loss": binary_cross_entropy_with_logits(logits, label).item()}
    found["accuracy"] = (flagged == harmful).float().mean().item()
    for (name, group), count in zip(groups.items(), ("harmful", "hard", "harmless"), strict=True):
        if number := int(group.sum()):
            found |= {name: flagged[group].float().mean().item(), count: float(number)}
    return found
