"""The corpus: what may not enter it, what is held out, and that it can be built again."""

import json
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest
import zstandard

from trainers.pretraining import corpus, sheets
from trainers.pretraining.forbidden import MARKERS, exemplar_lines, first_forbidden

PROFILES = Path(__file__).parents[2] / "prompt_opt" / "profiles"


@pytest.mark.parametrize(
    "text", ["## Question\nWhy?", "# ANSWER", "x\n````\n", "### Query:", "# User", "# assistant", "# Instruction"]
)
def test_profile_markers_are_found(text: str) -> None:
    assert first_forbidden(text, MARKERS) is not None


@pytest.mark.parametrize("text", ["A question, an answer.", "# Problem\n```\n1\n```", "#question", "User: hi"])
def test_other_text_is_not(text: str) -> None:
    assert first_forbidden(text, MARKERS) is None


def test_exemplars_of_every_shipped_profile_are_forbidden() -> None:
    lines = exemplar_lines(PROFILES)
    profiles = [tomllib.loads(path.read_text(encoding="utf-8")) for path in PROFILES.glob("*.toml")]
    for exemplar in (exemplar for profile in profiles for exemplar in profile.get("exemplar", [])):
        assert first_forbidden(exemplar["assistant"].upper(), lines) is not None


def test_no_sheet_has_a_forbidden_marker() -> None:
    pools = {"problems": [("1 + 1?", "2")], "passages": [("It rained.", "We stayed.\n\nAll day.")]}
    for seed in range(2_000):
        text = sheets.draw_sheet(random.Random(seed), pools, ["apple", "stone", "river"])
        assert first_forbidden(text, MARKERS) is None
        assert "2" in text or "All day." in text


def test_layout_is_the_same_for_every_pair() -> None:
    layout = sheets.Layout("## {}", ("Task", "Steps"), "~~~", "~~~", False, "\n\n")
    text = sheets.set_pairs([("a", "b"), ("c", "d")], layout)
    assert text == "## Task\n~~~\na\n~~~\n\n## Steps\n~~~\nb\n~~~\n\n## Task\n~~~\nc\n~~~\n\n## Steps\n~~~\nd\n~~~\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of the expected layout, with one forbidden problem and one that is an evaluation prompt."""
    draw = random.Random(1)
    names = ("Ada", "Ben", "Cy", "Dee", "Eve")
    rows: dict[str, list[dict[str, Any]]] = {"novels": [], "statutes": [], "problems": []}
    for book in range(150):
        talk = [
            f'"{draw.choice(names)} went {draw.choice(("home", "away"))} on day {day}," he said.' for day in range(50)
        ]
        rows["novels"].append({"id": f"book{book}", "text": "\ufeff" + "\n\n".join(talk)})
    for act in range(60):
        rows["statutes"] += [
            {"title": f"Act {act}, s. {n}", "text": f"The Minister may act in case {n}."} for n in range(4)
        ]
    for n in range(120):
        rows["problems"].append(
            {"question": f"What is {n} + {n}?", "answer": f"{n}+{n}=<<{n}+{n}={2 * n}>>{2 * n}\n#### {2 * n}"}
        )
    rows["problems"][5]["question"] = "# Question\nWhat is five?"
    rows["problems"][6]["question"] = "Compose a blog post about Hawaii."
    for source, (place, _) in corpus.SOURCES.items():
        (tmp_path / place).parent.mkdir()
        text = "".join(json.dumps(row) + "\n" for row in rows[source])
        (tmp_path / place).write_bytes(zstandard.compress(text.encode()))
    (tmp_path / "eval_mt_bench").mkdir()
    (tmp_path / "eval_mt_bench" / "question.jsonl").write_text('{"turns": ["Compose a blog post about Hawaii."]}\n')
    return tmp_path


def documents(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_same_data_makes_the_same_bytes(data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert corpus.main(["--source", str(data), "--out", str(tmp_path / name)]) == 0
    for name in ("train.jsonl", "heldout.jsonl", "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_split_keeps_groups_whole_and_drops_what_is_forbidden(data: Path, tmp_path: Path) -> None:
    manifest = corpus.build(data, tmp_path / "out", MARKERS, sheet_share=0.5, seed=0)
    train, heldout = documents(tmp_path / "out" / "train.jsonl"), documents(tmp_path / "out" / "heldout.jsonl")
    assert {row["source"] for row in train} == {row["source"] for row in heldout} == {*corpus.SOURCES, "sheets"}
    groups = [{(r["source"], r["group"]) for r in rows if r["source"] != "sheets"} for rows in (train, heldout)]
    assert not groups[0] & groups[1]
    assert all(first_forbidden(row["text"], MARKERS) is None for row in train + heldout)
    assert not any(
        "Hawaii" in row["text"] or "<<" in row["text"] for row in train + heldout if row["source"] == "problems"
    )
    assert manifest["evaluation_prompts"] == 1
    held_problems = {row["text"].split("\n")[0] for row in heldout if row["source"] == "problems"}
    sheets_text = "\n".join(row["text"] for row in train if row["source"] == "sheets")
    assert held_problems
    assert not any(problem in sheets_text for problem in held_problems)


def test_missing_set_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert corpus.main(["--source", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "novels.jsonl.zst: no such file" in capsys.readouterr().err


def test_wrapped_lines_become_paragraphs_and_verse_stays() -> None:
    prose = "It was a long and weary road that led from the town\nto the sea, and nobody took it."
    verse = "Row, row,\nrow your boat."
    paragraphs, apart = corpus.split_paragraphs(f"{prose}\n\n{verse}\n \n\n")
    assert apart
    assert paragraphs == [prose.replace("\n", " "), verse]
