"""A GGUF file's metadata is read without its weights, and its vocabulary cuts texts as the model's own does."""

from pathlib import Path

import pytest
import toy_gguf
from tokenizers import Tokenizer

from serve.config import EMBEDDED, Engine, is_base
from serve.engine.live import LiveEngine
from serve.engine.vocabulary import tokenizer
from serve.gguf import GgufError, context_length, located, metadata, special_tokens

TEXTS = [
    "How do I keep bread fresh?",
    "On 24 May 1888,\n\n  two\tthings — 3.14 €!",
    "",
    "汉字 и кириллица 🙂",
    "a<|eos|>b",
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_gguf.write(tmp_path_factory.mktemp("gguf") / "toy.gguf")


def test_metadata_says_what_the_model_is(file: Path) -> None:
    meta = metadata(file)
    assert meta["general.architecture"] == "llama"
    assert context_length(meta) == 4096
    assert special_tokens(meta) == {"<|bos|>", "<|eos|>", "<|pad|>"}


@pytest.mark.parametrize("text", TEXTS)
def test_its_tokenizer_is_the_models_own(file: Path, text: str) -> None:
    ours, own = tokenizer(metadata(file)), Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    assert ours is not None
    assert ours.encode(text, add_special_tokens=False).ids == own.encode(text, add_special_tokens=False).ids
    assert ours.decode(ours.encode(text).ids, skip_special_tokens=False) == text


def test_a_vocabulary_of_another_kind_is_estimated(file: Path) -> None:
    assert tokenizer({**metadata(file), "tokenizer.ggml.model": "llama"}) is None
    assert tokenizer({**metadata(file), "tokenizer.ggml.pre": "of-tomorrow"}) is None


def test_a_launched_engine_knows_context_tokens_and_special_tokens(file: Path) -> None:
    engine = LiveEngine(Engine("main", model=str(file), launcher="llama.cpp"))
    assert engine.context == 4096
    assert "<|eos|>" in engine.specials, "a policy's layout escapes them in what a user writes"
    words = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json")).encode(TEXTS[0], add_special_tokens=False).ids
    assert engine.count(TEXTS[0]) == len(words)
    assert not engine.base
    assert engine.spec.public_name == "toy"


@pytest.mark.parametrize(
    ("args", "tools"),
    [((), False), (("--verbose", "true"), False), (("--chat_format", "functionary-v2"), True),
     (("--chat_format=chatml-function-calling",), True)],
)  # fmt: skip
def test_tools_are_the_template_s_matter_unless_a_chat_format_takes_its_place(
    tmp_path: Path, args: tuple[str, ...], tools: bool
) -> None:
    file = toy_gguf.write(tmp_path / "plain.gguf")
    engine = LiveEngine(Engine("main", model=str(file), launcher="llama.cpp", args=args))
    engine.update({"kind": "llama-cpp-python"})
    assert (engine.supports >= {"tools", "tool_choice"}) is tools


def test_a_file_without_a_template_is_a_base_model(tmp_path: Path) -> None:
    bare = toy_gguf.write(tmp_path / "bare.gguf", template="")
    assert is_base(Engine("main", model=str(bare), launcher="auto"))


@pytest.mark.parametrize("kept", [0, 3, 4, 20, 400, 5000])
def test_a_damaged_file_is_named(file: Path, tmp_path: Path, kept: int) -> None:
    damaged = tmp_path / "cut.gguf"
    damaged.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(GgufError, match=r"cut\.gguf|metadata"):
        metadata(damaged)


def test_a_package_that_is_not_there_has_no_file() -> None:
    assert located("package:no-such-distribution-at-all") is None
    assert located("package:../../etc/passwd") is None
    assert located("no/such.gguf") is None
