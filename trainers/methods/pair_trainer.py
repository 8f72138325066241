"""The trainer of the preference losses: TRL's stable DPOTrainer with its loss replaced.

What differs from TRL: the losses come from `trainers.methods.losses`; terms are divided by what an optimizer step holds
(pairs for the preference term, chosen tokens for the NLL), over all micro-batches and processes, so that the gradient
does not depend on how a step is cut; a loss without a reference loads none; and the logs hold rewards as the loss
defines them, the KL, and yardsticks that all losses share.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.utils import use_adapter

from trainers.methods.losses import LOSSES, Pairs, Settings
from trainers.methods.packing import Packed, Packing, pack
from trainers.run.recipe import RecipeError

KL_TOKENS = 256  # positions, at most, whose whole distributions are compared for the KL in the logs


@dataclass
class PairConfig(DPOConfig):
    """DPOConfig, with a loss of our table, its settings, and the weight of the chosen answer's NLL.

    `loss_type` follows from `loss`. Nothing is filled in here: `LOSSES[loss].settings()` and `.sft` are the papers'.
    """

    loss: str = "dpo"
    margin: float = 0.0
    alpha: float = 0.0
    sft_weight: float = 0.0
    log_kl: bool = False
    packed: Packing = "none"

    def __post_init__(self) -> None:
        row = LOSSES[self.loss]
        self.loss_type = [self.loss if row.of is None else "sigmoid"]
        self.prediction_loss_only = True
        if not row.reference:
            self.precompute_ref_log_probs = True  # so that TRL loads no reference; PairTrainer then computes none
        super().__post_init__()  # type: ignore[no-untyped-call]


class PairCollator(DataCollatorForPreference):
    """TRL's batch of pairs, with "gap" (B,) where the rows have it: by how much the chosen answer scores higher."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's batch of B pairs, (2B, L): the chosen rows, then the rejected ones; and gap (B,)."""
        batch: dict[str, Any] = super().torch_call(examples)
        if "gap" in examples[0]:
            batch["gap"] = torch.tensor([row["gap"] for row in examples])
        return batch


class PairTrainer(DPOTrainer):
    """Takes a PairConfig, and rows that `trainers.data.tokens` has made ids: prompt_ids, chosen_ids, rejected_ids."""

    def __init__(self, model: Any, args: PairConfig, processing_class: Any, **keywords: Any) -> None:
        self.row = LOSSES[args.loss]
        self.settings = Settings(args.beta, args.label_smoothing, args.margin, args.alpha)
        self.sft_weight = args.sft_weight
        self.step_counts: Tensor | None = None
        self.packed, self.pad = args.packed, processing_class.pad_token_id
        self.compared = args.packed == "none"  # whether packed and plain log-probabilities have been held together
        self.tested_tokens = mean_tokens(keywords.get("eval_dataset"), args.max_length)
        collator = PairCollator(
            pad_token_id=processing_class.pad_token_id,
            max_length=args.max_length,
            truncation_mode=args.truncation_mode,
            pad_to_multiple_of=cast(int | None, args.pad_to_multiple_of),  # TRL has resolved "auto"
        )
        super().__init__(model=model, args=args, processing_class=processing_class, data_collator=collator, **keywords)
        if not self.row.reference:
            self.precompute_ref_logps = False
        if self.packed != "none" and self.aux_loss_enabled:
            raise RecipeError("packing does not compute a router's auxiliary loss: set packing: none for this model")

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        if not self.row.reference:
            return dataset
        return super()._precompute_ref_logps(dataset, name, batch_size)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[no-untyped-call]
        columns = cast(list[str], self._signature_columns)
        if "gap" not in columns:
            columns.append("gap")

    def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
        return dataset

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Also count the pairs and the chosen answers' tokens of the whole step, over all processes."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        here = sum((counts(batch["completion_mask"]) for batch in batches), torch.zeros(2, dtype=torch.long)).to(device)
        self.step_counts = self.accelerator.gather(here[None]).sum(0)
        return batches, items

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Tensor:
        if return_outputs:
            raise ValueError("the pair trainer returns losses and logs, not logits")
        gap = inputs.get("gap")
        inputs = {key: value for key, value in inputs.items() if key != "gap"}
        if self.row.of is None:
            self.record_kl(model, inputs)
            loss: Tensor = super()._compute_loss(model, inputs, False)  # type: ignore[no-untyped-call]
            return loss
        pairs, auxiliary = self.log_probabilities(model, inputs, gap)
        of_pairs = self.row.of(pairs, self.settings)
        if self.mode() == "train" and self.step_counts is not None:
            whole = self.step_counts
            # The Trainer is going to divide by the one and to average over the other.
            share = self.current_gradient_accumulation_steps * self.accelerator.num_processes
        else:
            whole, share = counts(inputs["completion_mask"]), 1
        loss = share * of_pairs.sum() / whole[0]
        if self.sft_weight:
            loss = loss - share * self.sft_weight * pairs.chosen.sum() / whole[1]
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * auxiliary
        self.log_pairs(pairs, of_pairs, inputs)
        self.record_kl(model, inputs)
        return loss

    def log_probabilities(self, model: Any, inputs: dict[str, Any], gap: Tensor | None) -> tuple[Pairs, Any]:
        """One forward pass of the policy, and of the reference where the loss needs it and none is precomputed."""
        if self.packed != "none":
            return self.packed_log_probabilities(model, inputs, gap)
        mask = inputs["completion_mask"]
        keywords = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        if self.aux_loss_enabled:
            keywords["output_router_logits"] = True
        labels = inputs["input_ids"].masked_fill(mask == 0, -100)
        outputs = model(**keywords, labels=labels, use_cache=False, fused_lm_head=True)
        chosen, rejected = outputs.log_probs[:, 1 - mask.size(1) :].sum(1).chunk(2)
        tokens = mask[:, 1:].sum(1).clamp(min=1).chunk(2)
        reference: tuple[Any, Any] = (None, None)
        if self.row.reference and self.precompute_ref_logps:
            reference = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        elif self.row.reference:
            scorer = self.ref_model or self.model
            reference = self.compute_ref_log_probs(scorer, inputs)  # type: ignore[no-untyped-call]
        return Pairs(chosen, rejected, tokens[0], tokens[1], *reference, gap), outputs.aux_loss

    def packed_log_probabilities(self, model: Any, inputs: dict[str, Any], gap: Tensor | None) -> tuple[Pairs, Any]:
        """The same with prompts computed once, as `packing` lays a batch out."""
        ids, there, learned = inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"]
        batch = pack(ids, there, learned, self.packed, self.pad)
        if not self.compared:
            self.compare(model, inputs, batch)
        chosen, rejected = self.sums(model, batch).chunk(2)
        reference: tuple[Any, Any] = (None, None)
        if self.row.reference and self.precompute_ref_logps:
            reference = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        elif self.row.reference:
            reference = self.packed_reference(batch)
        tokens = batch.tokens.chunk(2)
        return Pairs(chosen, rejected, tokens[0], tokens[1], *reference, gap), None

    @staticmethod
    def sums(model: Any, batch: Packed) -> Tensor:
        """(2B,) log-probability sums of a packed batch, the chosen answers' first."""
        outputs = model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, labels=batch.labels,
            use_cache=False, fused_lm_head=True,
        )  # fmt: skip
        return batch.sums(outputs.log_probs[:, 1 - batch.ids.size(1) :])

    def packed_reference(self, batch: Packed) -> tuple[Tensor, Tensor]:
        """The reference's sums: of the frozen model, or of the base below the adapter."""
        with torch.no_grad():
            if self.ref_model is not None:
                found = self.sums(self.ref_model, batch)
            else:
                unwrapped = self.accelerator.unwrap_model(self.model)
                with use_adapter(unwrapped, adapter_name="ref" if "ref" in unwrapped.peft_config else None):
                    found = self.sums(self.model, batch)
        chosen, rejected = found.chunk(2)
        return chosen, rejected

    def compare(self, model: Any, inputs: dict[str, Any], batch: Packed) -> None:
        """Once, on the first batch: a model whose attention is not what the mask says gives other numbers.

        Raises:
            RecipeError: the sums differ by more than rounding.
        """
        mask = inputs["completion_mask"]
        labels = inputs["input_ids"].masked_fill(mask == 0, -100)
        keywords = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            plain = model(**keywords, labels=labels, use_cache=False, fused_lm_head=True).log_probs
            plain = plain[:, 1 - mask.size(1) :].sum(1)
            packed = self.sums(model, batch)
        gaps = (plain - packed).abs() / batch.tokens
        exact = plain.dtype == torch.float32 and not self.args.bf16
        # bfloat16 rounds a logit of 20 to 0.1, so single answers of a sound model differ by 0.2; their mean by 0.01
        gap = (gaps.max() if exact else gaps.mean()).item()
        if gap > (1e-4 if exact else 0.1):
            raise RecipeError(
                f"packing: {self.packed} changes this model's log-probabilities by {gap:.2g} nats a token (its "
                "attention has a window, a state, or takes no mask): set packing: none"
            )
        self.compared = True

    def mode(self) -> str:
        """ "train" or "eval", by the model's own mode."""
        return "train" if cast(torch.nn.Module, self.model).training else "eval"

    def log_pairs(self, pairs: Pairs, of_pairs: Tensor, inputs: dict[str, Any]) -> None:
        """Means over pairs. A tie counts as half right: before the first step every ratio to the reference is one.

        The held-out loss is among them, in the place of the Trainer's: that averages the means of batches, with the
        pairs that fill up several processes' last ones. Its NLL is so scaled that it comes out as a mean over tokens.
        """
        with torch.no_grad():
            chosen, rejected = self.row.reward(pairs, self.settings)
            means = pairs.chosen / pairs.chosen_tokens, pairs.rejected / pairs.rejected_tokens
            values = {
                "rewards/chosen": chosen,
                "rewards/rejected": rejected,
                "rewards/margins": chosen - rejected,
                "rewards/accuracies": accuracy(chosen, rejected),
                "logps/chosen": pairs.chosen,
                "logps/rejected": pairs.rejected,
                "nll/chosen": -means[0],
                "yardstick/logp": accuracy(pairs.chosen, pairs.rejected),
                "yardstick/mean_logp": accuracy(*means),
            }
            if pairs.ref_chosen is not None and pairs.ref_rejected is not None:
                ratios = pairs.chosen - pairs.ref_chosen, pairs.rejected - pairs.ref_rejected
                values["yardstick/ratio"] = accuracy(*ratios)
            if self.mode() == "eval":
                values["loss"] = of_pairs - self.sft_weight * pairs.chosen / (self.tested_tokens or 1.0)
            table = torch.stack([value.float() for value in values.values()], dim=1)
            rows = self.accelerator.gather_for_metrics(table).T.tolist()
        mode = self.mode()
        for name, row in zip(values, rows, strict=True):
            self._metrics[mode][name].extend(row)
        if mode == "train":
            self._total_train_tokens += int(self.accelerator.gather(inputs["attention_mask"].sum()).sum())
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]

    def record_kl(self, model: Any, inputs: dict[str, Any]) -> None:
        """KL(π ‖ π_ref) in nats per token, exact over the vocabulary, on the answer of a batch's first chosen row.

        The contexts are the data's, not samples of π. Two passes more, so only where `log_kl` asks for it, and in
        training only at steps that get logged; never where the reference is gone (full weights with a precomputed
        reference) or was never there.
        """
        mode = self.mode()
        adapter = isinstance(self.accelerator.unwrap_model(self.model), PeftModel)
        if not cast(PairConfig, self.args).log_kl or not self.row.reference or (self.ref_model is None and not adapter):
            return
        if mode == "train" and (self.state.global_step + 1) % max(1, self.state.logging_steps):
            return
        length = int(inputs["attention_mask"][0].sum())
        keep = min(int(inputs["completion_mask"][0].sum()), KL_TOKENS) + 1
        call = {"input_ids": inputs["input_ids"][:1, :length], "logits_to_keep": keep, "use_cache": False}
        with torch.no_grad(), self.accelerator.autocast():
            policy = model(**call).logits[0, :-1].float().log_softmax(-1)
            if self.ref_model is not None:
                logits = self.ref_model(**call).logits
            else:
                unwrapped = self.accelerator.unwrap_model(self.model)
                with use_adapter(unwrapped, adapter_name="ref" if "ref" in unwrapped.peft_config else None):
                    logits = model(**call).logits
            reference = logits[0, :-1].float().log_softmax(-1)
        divergence = (policy.exp() * (policy - reference)).sum(-1).mean()
        self._metrics[mode]["kl"].extend(self.accelerator.gather(divergence[None]).tolist())


def mean_tokens(rows: Any, max_length: int | None) -> float:
    """Tokens of a chosen answer, on average over a set; 0 for none."""
    if not isinstance(rows, Dataset):
        return 0.0
    limit = max_length or sys.maxsize
    pairs = zip(rows["prompt_ids"], rows["chosen_ids"], strict=True)
    return sum(min(len(chosen), limit - len(prompt)) for prompt, chosen in pairs) / len(rows)


def counts(completion_mask: Tensor) -> Tensor:
    """(pairs, chosen tokens that are predicted) of a batch whose first half are the chosen rows."""
    pairs = len(completion_mask) // 2
    return torch.stack([torch.tensor(pairs), completion_mask[:pairs, 1:].sum().cpu()])


def accuracy(chosen: Tensor, rejected: Tensor) -> Tensor:
    """1 where chosen is above rejected, a half for a tie, else 0; shape (B,)."""
    return ((chosen > rejected).float() + (chosen >= rejected).float()) / 2
