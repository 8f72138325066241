"""TRL's RewardTrainer with held-out numbers that are means over pairs, however these are split into batches."""

from typing import Any, cast

import torch
from torch.nn.functional import logsigmoid
from trl.trainer.reward_trainer import RewardTrainer


class CountingReward(RewardTrainer):
    """TRL averages the means of batches, and of several processes' last batches also the pairs that fill them up."""

    def __init__(self, **keywords: Any) -> None:
        self.tested: list[torch.Tensor] = []  # per batch: (pairs, 3) rewards of chosen and rejected, and the loss
        super().__init__(**keywords)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss; in an evaluation the rewards and losses of every pair are kept, each (pairs,)."""
        loss, outputs = cast(Any, super()).compute_loss(model, inputs, True, num_items_in_batch)
        if not cast(Any, self.model).training:
            chosen, rejected = outputs.logits.detach().float().squeeze(-1).chunk(2)
            each = -logsigmoid(chosen - rejected - inputs.get("margin", 0.0))
            each = each + (cast(Any, self.args).center_rewards_coefficient or 0.0) * (chosen + rejected) ** 2
            rows = torch.stack([chosen, rejected, each], dim=1)
            self.tested.append(self.accelerator.gather_for_metrics(rows).cpu())
        return (loss, outputs) if return_outputs else loss

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
