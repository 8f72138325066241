"""TRL's KTOTrainer with its reference point z₀ taken over the whole batch, however that is split into micro-batches."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.utils import use_adapter


class WholeBatchKTO(KTOTrainer):
    """TRL estimates z₀ = max(0, mean log-ratio of mismatched pairs) anew in each micro-batch, so that the gradient
    depends on how a batch is split, and one row at a time is refused. Here it is estimated once for each step, over
    all rows of it, by as many forward passes as before.
    """

    def __init__(self, *, args: Any, **more: Any) -> None:
        size = args.per_device_train_batch_size
        args.per_device_train_batch_size = max(2, size)
        super().__init__(args=args, **more)
        args.per_device_train_batch_size = self._train_batch_size = size
        self.z0 = torch.zeros(())
        self.rows = 0  # of the present step, in this process
        self.asked = 0  # whose mismatched pairs TRL wants: first the policy's, then the reference's

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """A step's micro-batches; z₀ is estimated from all of them before the first is learnt from."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            ratios = torch.cat([self.mismatched(self._prepare_inputs(batch)) for batch in batches])
            self.z0 = self.accelerator.gather(ratios).mean().clamp(min=0)
            self.rows = len(ratios)
        return batches, items

    def mismatched(self, batch: dict[str, Tensor]) -> Tensor:
        """log π(y'|x) - log π_ref(y'|x) of each prompt x with another row's answer y'; (rows,)."""
        model, bare, ask = self.model_wrapped, cast(Any, self.model), cast(Any, super())._compute_kl_logps
        training = model.training
        model.eval()  # no dropout: it would make the estimate noisier, and the random numbers differ after a resume
        with torch.no_grad(), disable_gradient_checkpointing(bare, cast(Any, self.args).gradient_checkpointing_kwargs):
            policy = ask(model, batch)
            if self.ref_model is None:
                with use_adapter(self.accelerator.unwrap_model(bare), adapter_name=None):
                    reference = ask(model, batch)
            else:
                reference = ask(self.ref_model, batch)
        model.train(training)
        ratios: Tensor = policy - reference
        return ratios

    def _compute_kl_logps(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """What TRL takes the mean of: z₀ for the policy and 0 for the reference; in an evaluation, its own estimate."""
        if not cast(Any, self.model).training:
            return cast(Tensor, cast(Any, super())._compute_kl_logps(model, batch))
        self.asked += 1
        return self.z0.expand(len(batch["label"])) * (self.asked == 1)

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool) -> Any:
        """Each row weighs the same, also in an epoch's last step, whose micro-batches differ in size."""
        self.asked = 0
        loss = cast(Any, super())._compute_loss(model, inputs, return_outputs)
        if not cast(Any, self.model).training:
            return loss
        return loss * len(inputs["label"]) * self.current_gradient_accumulation_steps / self.rows
