"""The trainer of RAHF: hidden states at the answers' tokens, of the adapter, its base and the contrastive model."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import use_adapter

from trainers.methods.steering import write_steering

VARIANTS = ("plain", "good", "bad")


class VariantCollator:
    """B rows: for each variant its ids, and masks of tokens and of answers, all (B, L)."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The batch of these rows."""
        found: dict[str, Tensor] = {}
        for name in VARIANTS:
            ids = [torch.tensor(row[name]) for row in rows]
            answers = [torch.arange(len(row[name])) >= len(row[name]) - row["answer"] for row in rows]
            found[name] = pad_sequence(ids, batch_first=True, padding_value=self.pad)
            found[f"{name}_there"] = pad_sequence([torch.ones_like(each) for each in ids], batch_first=True)
            found[f"{name}_answer"] = pad_sequence(answers, batch_first=True)
        return found


class Represented(SFTTrainer):
    """Takes rows of plain, good and bad (ids that end in the same answer) and answer (its tokens).

    Args:
        contrast: the contrastive model in evaluation mode, which is not trained here.
        strength: α, by how much its difference is added.
        layers: whose outputs are compared, counted from 1.
    """

    def __init__(
        self, contrast: Any, strength: float, layers: list[int], processing_class: Any, **keywords: Any
    ) -> None:
        self.contrast = contrast.requires_grad_(False)
        self.strength, self.layers = strength, layers
        self.tested: list[Tensor] = []  # per batch: (1, 2) sum of errors, tokens
        self.step_tokens: Tensor | None = None
        collator = VariantCollator(processing_class.pad_token_id)
        super().__init__(processing_class=processing_class, data_collator=collator, **keywords)
        self.contrast.to(self.args.device)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = cast(Any, [*VARIANTS, "answer"])

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Also count the answers' tokens of the whole step, over all processes."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        here = torch.tensor([sum(int(batch["plain_answer"].sum()) for batch in batches)], device=device)
        self.step_tokens = self.accelerator.gather(here).sum()
        return batches, items

    def states(self, model: Any, inputs: dict[str, Tensor], name: str) -> Tensor:
        """(answers' tokens, layers, D): a variant's hidden states, row after row."""
        found = model(
            input_ids=inputs[name], attention_mask=inputs[f"{name}_there"], output_hidden_states=True, use_cache=False
        ).hidden_states
        mask = inputs[f"{name}_answer"]
        return torch.stack([found[layer][mask].float() for layer in self.layers], dim=1)

    def difference(self, inputs: dict[str, Tensor]) -> Tensor:
        """α (h⁺ − h⁻) of the contrastive model, (answers' tokens, layers, D)."""
        with torch.no_grad():
            return self.strength * (
                self.states(self.contrast, inputs, "good") - self.states(self.contrast, inputs, "bad")
            )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The step's share of the mean squared distance from where the hidden states should be."""
        with torch.no_grad(), use_adapter(self.accelerator.unwrap_model(self.model), adapter_name=None):
            base = self.states(model, inputs, "plain")
        wanted = base + self.difference(inputs)
        error = (self.states(model, inputs, "plain") - wanted).square().mean((1, 2)).sum()
        tokens: Any = len(wanted)
        share = 1
        if cast(Any, self.model).training and self.step_tokens is not None:
            share = self.current_gradient_accumulation_steps * self.accelerator.num_processes
            tokens = self.step_tokens
        else:
            row = torch.stack([error.detach(), torch.tensor(float(tokens), device=error.device)])[None]
            self.tested.append(self.accelerator.gather_for_metrics(row).cpu())
        return share * error / tokens

    def prediction_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        """The batch's mean loss."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The held-out loss over all answers' tokens, however they were batched."""
        if self.tested:
            error, tokens = torch.cat(self.tested).sum(0).tolist()
            self.tested = []
            self._metrics["eval"]["loss"] = [error / tokens]
        super().log(logs, start_time)

    def save_steering(self, path: Path) -> None:
        """The mean difference of each layer over the training answers' tokens, (D,) each."""
        total, tokens = None, 0
        for row in cast(Any, self.train_dataset):
            batch = {name: value.to(self.args.device) for name, value in self.data_collator([row]).items()}
            found = self.difference(batch)
            total = found.sum(0) if total is None else total + found.sum(0)
            tokens += len(found)
        if self.accelerator.is_main_process and total is not None:
            write_steering(path, {layer: total[at].cpu() / tokens for at, layer in enumerate(self.layers)})
