"""The trainer of lists: TRL's SFTTrainer with its batch and loss replaced; LoRA, precision and saving are TRL's."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from trainers.methods.listwise import LIST_LOSSES, Lists
from trainers.methods.losses import Settings

COLUMNS = ("prompt_ids", "answer_ids", "scores", "reference")


@dataclass
class RankConfig(SFTConfig):
    """SFTConfig with a loss of LIST_LOSSES, its settings, and the weight of the best answer's NLL."""

    loss: str = "rrhf"
    beta: float = 0.0
    margin: float = 0.0
    sft_weight: float = 0.0


class ListCollator:
    """B rows of a prompt and K_b answers as one batch of B·K sequences, K the most that a row has.

    Gives input_ids, attention_mask and completion_mask (B·K, L), scores and there (B, K), and reference (B, K) where
    the rows have the reference's log-probabilities. Where a row has fewer than K answers its prompt stands alone, and
    counts nothing.
    """

    def __init__(self, pad: int, max_length: int) -> None:
        self.pad, self.max_length = pad, max_length

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The batch of these rows."""
        most = max(len(row["answer_ids"]) for row in rows)
        pairs = [(row["prompt_ids"], ids) for row in rows for ids in self._filled(row["answer_ids"], most)]
        whole = [(prompt + answer)[: self.max_length] for prompt, answer in pairs]
        length = max(map(len, whole))
        there = torch.zeros(len(rows), most, dtype=torch.bool)
        for at, row in enumerate(rows):
            there[at, : len(row["scores"])] = True
        starts = [len(prompt) for prompt, _ in pairs]
        answered = [[0] * start + [1] * (len(ids) - start) for start, ids in zip(starts, whole, strict=True)]
        return {
            "input_ids": torch.tensor([ids + [self.pad] * (length - len(ids)) for ids in whole]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids in whole]),
            "completion_mask": torch.tensor([mask + [0] * (length - len(mask)) for mask in answered]),
            "there": there,
            **{name: self._table(rows, name, most) for name in ("scores", "reference") if name in rows[0]},
        }

    @staticmethod
    def _table(rows: list[dict[str, Any]], name: str, most: int) -> Tensor:
        return torch.tensor([row[name] + [0.0] * (most - len(row[name])) for row in rows])

    @staticmethod
    def _filled(answers: list[list[int]], most: int) -> list[list[int]]:
        return answers + [[]] * (most - len(answers))


class RankTrainer(SFTTrainer):
    """Takes a RankConfig and rows of prompt_ids, answer_ids (a list each) and scores.

    The loss is divided by the lists of an optimizer step, the NLL by their best answers' tokens, over all micro-batches
    and processes, so that the gradient does not depend on how a step is cut.
    """

    def __init__(self, args: RankConfig, processing_class: Any, **keywords: Any) -> None:
        self.row = LIST_LOSSES[args.loss]
        self.settings = Settings(beta=args.beta, margin=args.margin)
        self.sft_weight = args.sft_weight
        self.step_counts: Tensor | None = None
        self.tested: list[Tensor] = []  # per batch (lists, 5): loss, NLL sum, tokens, hits, pairs
        collator = ListCollator(processing_class.pad_token_id, cast(int, args.max_length))
        super().__init__(args=args, processing_class=processing_class, data_collator=collator, **keywords)
        if self.row.reference:
            self.train_dataset = self.referred(self.train_dataset)
            self.eval_dataset = self.eval_dataset and self.referred(self.eval_dataset)

    def referred(self, rows: Any) -> Any:
        """The rows with `reference`: each answer's log-probability under the weights that the training begins with.

        A row at a time, so that a resumed run computes the same numbers whatever its batches are.
        """
        model = cast(Any, self.model).to(self.args.device)
        model.train(False)
        found = []
        with torch.no_grad():
            for row in tqdm(rows, desc="reference", disable=not self.accelerator.is_main_process):
                batch = {name: value.to(self.args.device) for name, value in self.data_collator([row]).items()}
                found.append(self.lists(model, batch).logps[0].float().cpu().tolist())
        model.train()
        return rows.add_column("reference", found)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = cast(Any, list(COLUMNS))

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Also count the lists and the best answers' tokens of the whole step, over all processes."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        here = sum((self.counts(batch) for batch in batches), torch.zeros(2, dtype=torch.long)).to(device)
        self.step_counts = self.accelerator.gather(here[None]).sum(0)
        return batches, items

    @staticmethod
    def counts(batch: dict[str, Tensor]) -> Tensor:
        """(lists, tokens of their best answers) of a batch."""
        there, scores = batch["there"], batch["scores"]
        tokens = batch["completion_mask"][:, 1:].sum(1).view(there.shape)
        best = scores.masked_fill(~there, float("-inf")).argmax(1, keepdim=True)
        return torch.stack([torch.tensor(len(there)), tokens.gather(1, best).sum().cpu()])

    def lists(self, model: Any, inputs: dict[str, Tensor]) -> Lists:
        """One forward pass over all answers of the batch."""
        mask = inputs["completion_mask"]
        labels = inputs["input_ids"].masked_fill(mask == 0, -100)
        found = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels, use_cache=False,
            fused_lm_head=True,
        )  # fmt: skip
        shape = inputs["there"].shape
        logps = found.log_probs[:, 1 - mask.size(1) :].sum(1).view(shape)
        tokens = mask[:, 1:].sum(1).clamp(min=1).view(shape)
        return Lists(logps, tokens, inputs["scores"], inputs["there"], inputs.get("reference"))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The step's share of the list loss and of the best answers' NLL, in nats."""
        lists = self.lists(model, inputs)
        of_lists = self.row.of(lists, self.settings)
        best = lists.best[:, None]
        nll = -lists.logps.gather(1, best).squeeze(1)
        whole, share = self.counts(inputs), 1
        if cast(Any, self.model).training and self.step_counts is not None:
            whole = self.step_counts
            share = self.current_gradient_accumulation_steps * self.accelerator.num_processes
        else:
            self.keep(lists, of_lists, nll)
        return share * (of_lists.sum() / whole[0] + self.sft_weight * nll.sum() / whole[1])

    def keep(self, lists: Lists, of_lists: Tensor, nll: Tensor) -> None:
        """Remember an evaluation's lists, so that each counts once however they are batched."""
        means = (lists.logps / lists.tokens).detach()
        hits = ((means[:, :, None] > means[:, None, :]) & lists.better).sum((1, 2))
        tokens = lists.tokens.gather(1, lists.best[:, None]).squeeze(1)
        columns = (of_lists, nll, tokens, hits, lists.better.sum((1, 2)))
        table = torch.stack([column.detach().double() for column in columns], dim=1)
        self.tested.append(self.accelerator.gather_for_metrics(table).cpu())

    def prediction_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        """The batch's mean loss."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Means over all lists: the loss, the best answer's NLL per token, the share of pairs in the right order."""
        if self.tested:
            of_lists, nll, tokens, hits, pairs = torch.cat(self.tested).T
            self.tested = []
            per_token = (nll.sum() / tokens.sum()).item()
            found = {
                "loss": of_lists.mean().item() + self.sft_weight * per_token,
                "nll/best": per_token,
                "accuracy": (hits.sum() / pairs.sum().clamp(min=1)).item(),
                "lists": float(len(nll)),
            }
            self._metrics["eval"].update({name: [value] for name, value in found.items()})
        super().log(logs, start_time)
