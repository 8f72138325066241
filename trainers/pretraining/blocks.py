"""Documents packed into blocks: `<bos> text <eos>`, one after another, cut every `block` tokens."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainers.data.jsonl import DataError

BATCH = 512  # documents per call of the tokenizer


def tokens_of(texts: Iterable[str], tokenizer: Any) -> Iterator[list[int]]:
    """Token ids of each text, begun and ended."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH:
            yield from ([*bos, *ids, tokenizer.eos_token_id] for ids in encode(batch, tokenizer))
            batch = []
    if batch:
        yield from ([*bos, *ids, tokenizer.eos_token_id] for ids in encode(batch, tokenizer))


def encode(batch: list[str], tokenizer: Any) -> list[list[int]]:
    """Ids of each text, without special tokens."""
    ids: list[list[int]] = tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def pack(texts: Iterable[str], tokenizer: Any) -> NDArray[np.uint32]:
    """All texts as one row of token ids."""
    rows = [np.asarray(ids, dtype=np.uint32) for ids in tokens_of(texts, tokenizer)]
    return np.concatenate(rows) if rows else np.zeros(0, dtype=np.uint32)


def cached(path: Path, texts: Iterable[str], tokenizer: Any) -> NDArray[np.uint32]:
    """`pack`, kept in a file so that a resumed run need not tokenize again; read through a memory map."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part.npy")
        np.save(draft, pack(texts, tokenizer), allow_pickle=False)
        os.replace(draft, path)
    row: NDArray[np.uint32] = np.load(path, mmap_mode="r", allow_pickle=False)
    return row


class Blocks(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Whole blocks of a row of tokens; what is left over at the end is not used."""

    def __init__(self, row: NDArray[np.uint32], block: int, name: str, limit: int | None = None) -> None:
        self.row, self.block = row, block
        self.number = min(len(row) // block, limit or len(row))
        if self.number == 0:
            raise DataError(f"{name}: {len(row)} tokens do not fill one block of {block}")

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        start = index * self.block
        ids = torch.from_numpy(self.row[start : start + self.block].astype(np.int64))
        return {"input_ids": ids, "labels": ids.clone()}
