"""The training loop of `cpt`: transformers' Trainer over packed blocks, with exact resume."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, default_data_collator

from trainers.data.jsonl import DataError, file_hash, read_lines
from trainers.pretraining.blocks import Blocks, cached
from trainers.pretraining.settings import Recipe
from trainers.run.callbacks import Clock, board
from trainers.run.finite import FiniteSteps


class FiniteTrainer(FiniteSteps, Trainer):
    """transformers' Trainer, which stops at a step that is not finite."""


class Loop:
    """Owns the data, the Trainer and the checkpoints of one run."""

    def __init__(self, recipe: Recipe, model: Any, tokenizer: Any, out: Path, checkpoint: str | None) -> None:
        self.recipe, self.model, self.tokenizer, self.out = recipe, model, tokenizer, out
        self.checkpoint = checkpoint
        self.tokenizer_hash = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
        self.hashes = {path: file_hash(Path(path)) for path in (recipe.train_file, recipe.heldout_file)}
        self.blocks = Blocks(self.row(recipe.train_file), recipe.block, recipe.train_file)
        self.heldout = {name: self.row(recipe.heldout_file, name) for name in sources(Path(recipe.heldout_file))}
        self.trainer = self.build_trainer()

    def row(self, file: str, source: str | None = None) -> Any:
        """The tokens of one file, or of one source in it."""
        key = f"{self.hashes[file]} {self.tokenizer_hash} {source}"
        name = f"{Path(file).stem}-{source or 'all'}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npy"
        rows = read_lines(Path(file), ("text",))
        texts = (row["text"] for row in rows if source is None or row.get("source", "text") == source)
        return cached(self.out / "tokens" / name, texts, self.tokenizer)

    def heldout_blocks(self, block: int, limit: int | None = None) -> dict[str, Blocks]:
        """Per source; a source too small for one block is left out."""
        return {name: Blocks(row, block, name, limit) for name, row in self.heldout.items() if len(row) >= block}

    def build_trainer(self) -> Trainer:
        """transformers' Trainer over the packed blocks."""
        return FiniteTrainer(
            model=self.model,
            args=arguments(self.recipe, self.out),
            train_dataset=self.blocks,
            eval_dataset=self.heldout_blocks(self.recipe.block, self.recipe.eval_blocks),
            processing_class=self.tokenizer,  # so that each checkpoint holds it
            data_collator=default_data_collator,
            callbacks=[Clock(), board(self.out)],
        )

    def run(self) -> None:
        """Train to the end, from the checkpoint if there is one."""
        self.trainer.train(resume_from_checkpoint=self.checkpoint)

    def heldout_losses(self, block: int) -> dict[str, float]:
        """Mean loss in nats per token of each source's held-out text, in blocks of this length."""
        limit = max(1, self.recipe.final_eval_tokens // block)
        losses = {}
        for name, blocks in self.heldout_blocks(block, limit).items():
            metrics = self.trainer.evaluate(blocks, metric_key_prefix=f"final{block}_{name}")
            losses[name] = metrics[f"final{block}_{name}_loss"]
        return losses


def arguments(recipe: Recipe, out: Path) -> TrainingArguments:
    """The Trainer's arguments that the recipe asks for."""
    return TrainingArguments(
        output_dir=str(out),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.micro_batch,
        per_device_eval_batch_size=recipe.micro_batch,
        gradient_accumulation_steps=recipe.batch // recipe.micro_batch,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr": recipe.final_learning_rate},
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        use_cpu=not torch.cuda.is_available(),
        bf16=recipe.bf16,
        torch_compile=recipe.compile,
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_steps=min(10, recipe.eval_every),
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=recipe.eval_every,
        prediction_loss_only=True,
        save_steps=recipe.save_every,
        save_total_limit=2,
        dataloader_drop_last=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
    )


def sources(path: Path) -> list[str]:
    """The names under "source" in a held-out file, sorted; rows without one count as "text"."""
    names = sorted({row.get("source", "text") for row in read_lines(path, ("text",))})
    if not names:
        raise DataError(f"{path}: no document in it")
    return names
