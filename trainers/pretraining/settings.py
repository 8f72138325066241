"""The keys of a pretraining recipe."""

from dataclasses import dataclass

WITHOUT_SHAPE = 0  # what a recipe for `--init PATH` says for the keys of a new model's shape


@dataclass(frozen=True)
class Recipe:
    """The keys of a `cpt` recipe; trainers/recipes/tiny_scratch.yaml explains each."""

    train_file: str
    heldout_file: str
    block: int
    long_block: int
    batch: int
    micro_batch: int
    steps: int
    learning_rate: float
    final_learning_rate: float
    warmup_steps: int
    weight_decay: float
    seed: int
    eval_every: int
    eval_blocks: int
    final_eval_tokens: int
    save_every: int
    bf16: bool
    compile: bool
    threads: int
    vocabulary: int = WITHOUT_SHAPE
    context: int = WITHOUT_SHAPE
    hidden: int = WITHOUT_SHAPE
    inner: int = WITHOUT_SHAPE
    layers: int = WITHOUT_SHAPE
    heads: int = WITHOUT_SHAPE
    kv_heads: int = WITHOUT_SHAPE
