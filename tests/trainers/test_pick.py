"""DEITA's selection: against brute force, and as a command with columns and with a judge."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from tests.trainers.scripted_critic import ScriptedCritic
from tests.trainers.toy import write
from trainers import command, pick
from trainers.data.diversity import descending, diverse


def test_the_selection_is_brute_forces_on_200_rows() -> None:
    draw = np.random.default_rng(3)
    vectors = draw.normal(size=(200, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = [float(value) for value in draw.integers(1, 36, size=200)]  # many are equal
    for size, threshold in ((200, 0.9), (200, 0.5), (25, 0.9), (1, 0.1)):
        kept: list[int] = []
        for at in sorted(range(200), key=lambda place: (-scores[place], place)):
            if len(kept) < size and all(float(vectors[at] @ vectors[other]) < threshold for other in kept):
                kept.append(at)
        assert diverse(scores, vectors, size, threshold) == kept
    assert diverse([], np.empty((0, 6), np.float32), 5, 0.9) == []
    assert descending([1.0, 3.0, 3.0]) == [1, 2, 0]


class Letters:
    """An embedder whose vectors count letters, so that equal texts are alike and others are not."""

    def documents(self, texts: list[str]) -> np.ndarray:
        rows = np.array([[text.count(chr(97 + i)) + 1e-6 for i in range(26)] for text in texts], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_rows_are_picked_by_their_columns_and_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("retrieval.embedding.embedder.load", lambda name: Letters())
    rows = [
        {"prompt": "aaa", "completion": "bbb", "complexity": 6, "quality": 6, "id": "best"},
        {"prompt": "aaa", "completion": "bbb", "complexity": 6, "quality": 5, "id": "like it"},
        {"instruction": "ccc", "output": "ddd", "complexity": 2, "quality": 3, "id": "other"},
        {"prompt": "eee", "completion": "fff", "complexity": 1, "quality": 1, "id": "poor"},
    ]
    random.Random(1).shuffle(rows)
    data, out = write(tmp_path / "d.jsonl", rows), tmp_path / "picked.jsonl"
    assert command.main(["pick", "--data", str(data), "--out", str(out), "--size", "2"]) == 0
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["best", "other"]
    assert command.main(["pick", "--data", str(data), "--out", str(out), "--size", "9"]) == 0
    assert "3 of 4 rows" in capsys.readouterr().err


def test_a_judge_marks_what_has_no_columns_and_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("retrieval.embedding.embedder.load", lambda name: Letters())
    data = write(tmp_path / "d.jsonl", [{"prompt": f"{letter}!", "completion": letter * 9} for letter in "abc"])
    out = tmp_path / "picked.jsonl"
    line = ["--data", str(data), "--out", str(out), "--size", "2"]
    assert pick.main(line) == 2
    assert "no complexity and quality; add both columns, or --judge-url" in capsys.readouterr().err
    marks = {"a": "2", "b": "Mark: 6", "c": "no idea"}
    with ScriptedCritic(lambda asked: next(mark for letter, mark in marks.items() if f"{letter}!" in asked)) as judge:
        line += ["--judge-url", judge.url, "--judge-model", "judge"]
        assert pick.main(line) == 0
        asked = len(judge.requests)
        assert pick.main(line) == 0
        assert len(judge.requests) == asked == 6
    assert [json.loads(row)["prompt"] for row in out.read_text().splitlines()] == ["b!", "a!"]
