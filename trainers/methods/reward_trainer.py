"""TRL's RewardTrainer with labels that are probabilities, weights of rows, and held-out means over pairs.

The held-out numbers do not depend on how the pairs are split into batches.
"""

from typing import Any, cast

import torch
from torch.nn.functional import logsigmoid
from trl.trainer.reward_trainer import RewardTrainer

from trainers.methods.reward_loss import confident

NUMBERS = ("probability", "weight")


class NumbersToo:
    """TRL's collator, and beside its batch the rows' own numbers, each (pairs,)."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch of these rows."""
        found: dict[str, torch.Tensor] = self.collator(rows)
        numbers = {name: torch.tensor([row[name] for row in rows]) for name in NUMBERS if name in rows[0]}
        return {**found, **numbers}


class CountingReward(RewardTrainer):
    """TRL averages the means of batches, and of several processes' last batches also the pairs that fill them up."""

    def __init__(self, confidence: float = 0.0, **keywords: Any) -> None:
        self.confidence = confidence
        self.tested: list[torch.Tensor] = []  # per batch: (pairs, 3) rewards of chosen and rejected, and the loss
        super().__init__(**keywords)
        self.data_collator = NumbersToo(self.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = cast(Any, ["chosen_ids", "rejected_ids", "margin", *NUMBERS])

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss, or that of soft or weighted labels; in an evaluation every pair's rewards and loss are kept."""
        given = {name: inputs.pop(name) for name in NUMBERS if name in inputs}
        loss, outputs = cast(Any, super()).compute_loss(model, inputs, True, num_items_in_batch)
        if given or self.confidence:
            loss = self._weighed(outputs, inputs.get("margin", 0.0), given)
        if not cast(Any, self.model).training:
            chosen, rejected = outputs.logits.detach().float().squeeze(-1).chunk(2)
            each = -logsigmoid(chosen - rejected - inputs.get("margin", 0.0))
            each = each + (cast(Any, self.args).center_rewards_coefficient or 0.0) * (chosen + rejected) ** 2
            rows = torch.stack([chosen, rejected, each], dim=1)
            self.tested.append(self.accelerator.gather_for_metrics(rows).cpu())
        return (loss, outputs) if return_outputs else loss

    def _weighed(self, outputs: Any, margin: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
        """mean w · loss; a label that is no probability is 1, a row without a weight has 1."""
        chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
        gap = chosen - rejected - margin
        each = confident(gap, given.get("probability", torch.ones_like(gap)), self.confidence)
        each = each + (cast(Any, self.args).center_rewards_coefficient or 0.0) * (chosen + rejected) ** 2
        loss: torch.Tensor = (each * given.get("weight", torch.ones_like(gap))).mean()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Means over all pairs in the place of TRL's means of batches."""
        if self.tested:
            chosen, rejected, each = torch.cat(self.tested).T
            self.tested = []
            found = {
                "loss": each,
                "accuracy": (chosen > rejected).float(),  # a tie is a miss
                "margin": chosen - rejected,
                "mean_reward": torch.cat([chosen, rejected]),
            }
            self._metrics["eval"].update({name: [value.mean().item()] for name, value in found.items()})
            self._metrics["eval"]["pairs"] = [float(len(each))]
        super().log(logs, start_time)
