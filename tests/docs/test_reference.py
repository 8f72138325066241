"""The generated parts of the documentation are those of the code as it is now."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import pytest
from blocks import EXAMPLES, ROOT

from docs.generate import PARTS, pages, rendered
from docs.parts.configuration import comments, default_text, type_text
from docs.parts.markdown import table
from serve.config import Server
from trainers.command import main as train


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_generated_page_is_up_to_date(page: Path) -> None:
    old, new = page.read_text("utf-8"), rendered(page)
    changes = "\n".join(difflib.unified_diff(old.splitlines(), new.splitlines(), "page", "code", lineterm="", n=1))
    assert old == new, f"run `make reference` and commit what it writes:\n{changes[:2000]}"


def test_every_part_stands_on_a_page() -> None:
    text = "".join(page.read_text("utf-8") for page in pages())
    assert not [name for name in PARTS if f"<!-- generated: {name} -->" not in text]


def test_a_comment_beside_a_field_is_found() -> None:
    assert comments(Server)["drain_s"].startswith("seconds")


@pytest.mark.parametrize(
    ("hint", "text"), [(int, "integer"), (tuple[str, ...], "list of text"), (int | None, "integer")]
)
def test_a_type_is_written_in_the_files_words(hint: object, text: str) -> None:
    assert type_text(hint) == text


def test_a_default_is_written_as_in_the_file() -> None:
    field = Server.__dataclass_fields__["workers"]
    assert default_text(field) == "`1`"


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    assert table(("A",), [("x | y",)]).splitlines()[-1] == r"| x \| y |"


def test_the_example_pairs_are_data_that_a_model_can_learn_from(capsys: pytest.CaptureFixture[str]) -> None:
    pairs, model = str(EXAMPLES / "pairs.jsonl"), str(ROOT / "serve/models/trimtab-tiny")
    assert train(["check", "--data", pairs, "--kind", "preference", "--model", model]) == 0
    assert "ready to train" in capsys.readouterr().err


def test_the_example_questions_are_prompts_with_ids() -> None:
    rows = [json.loads(line) for line in (EXAMPLES / "questions.jsonl").read_text("utf-8").splitlines()]
    assert all(set(row) == {"id", "prompt"} for row in rows)
