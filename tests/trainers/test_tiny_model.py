"""The packaged base model: small, loadable offline, without a chat template, and honest with any text."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

FOLDER = Path(__file__).parents[2] / "serve" / "models" / "trimtab-tiny"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(FOLDER, local_files_only=True).eval()


def test_it_is_small_and_holds_no_code_and_no_pickle() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 16 * 2**20
    assert {path.suffix for path in FOLDER.iterdir()} == {".json", ".safetensors", ".md"}


def test_it_reads_long_prompts_and_has_no_chat_template(tokenizer: Any) -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["max_position_embeddings"] >= 4096
    assert "auto_map" not in config
    assert tokenizer.chat_template is None
    assert tokenizer.model_max_length == config["max_position_embeddings"]
    assert tokenizer.vocab_size == config["vocab_size"]


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ["<s>", "</s>", "<|eos|>", "<|bos|>", "<|pad|>", "a<|eos|>b", "<|im_end|>"])
def test_text_that_spells_a_special_token_is_plain_characters(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_special_tokens_are_three_and_a_text_begins_with_one(tokenizer: Any) -> None:
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert len(special) == 3
    assert tokenizer("rain")["input_ids"][0] == tokenizer.bos_token_id


def test_digits_stand_alone(tokenizer: Any) -> None:
    assert len(tokenizer("1234567890", add_special_tokens=False)["input_ids"]) == 10


def test_generation_is_greedy_by_default_and_stops_at_the_end_token(tokenizer: Any, model: Any) -> None:
    defaults = json.loads((FOLDER / "generation_config.json").read_text())
    assert defaults["eos_token_id"] == tokenizer.eos_token_id
    assert not {"do_sample", "temperature", "top_p", "top_k"} & set(defaults)
    ids = tokenizer("It was a dark and", return_tensors="pt")
    one, two = (model.generate(**ids, max_new_tokens=12) for _ in range(2))
    assert one.tolist() == two.tolist()
    assert one.shape[1] <= ids["input_ids"].shape[1] + 12


def test_it_knows_its_text_better_than_chance_at_any_length(tokenizer: Any, model: Any) -> None:
    """Mean loss in nats per token; the uniform guess is ln(4096) = 8.3."""
    import torch

    text = "The young man looked at her, and said that he would come again in the evening. " * 300
    ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=4096)["input_ids"]
    with torch.no_grad():
        logits = model(ids).logits[0, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    assert losses[:20].mean() < 6
    assert losses[1_000:1_500].mean() < 3.5
    assert losses[2_100:].mean() < 4


def test_the_card_names_licences_and_limits() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for words in (
        "Open Government Licence",
        "MIT",
        "public domain",
        "Apache-2.0",
        "toy",
        "trimtab train cpt",
        "perplexity",
    ):
        assert words in card
