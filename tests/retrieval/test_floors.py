"""An index's floor keeps ordinary questions from getting rules, and is shown with what it is expected to lose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrieval.cli.command import main
from retrieval.passage import Passage
from retrieval.search.calibration import Floor, _floor, calibrate, calibrated
from retrieval.search.index import Index

TOPICS = ["dog leash park meadow", "tenant rent month cellar", "ship flag harbour pilot", "school pupil teacher desk",
          "river fish licence boat", "tree forest axe permit"]  # fmt: skip


@pytest.fixture
def built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    rows = [{"id": f"r{i}", "text": f"Section {i}. Every {topic} shall be registered with the authority in {i} days."
                                    f" The owner of a {topic} is liable for damage caused without notice."}
            for i, topic in enumerate(TOPICS * 11)]  # fmt: skip
    (tmp_path / "rules.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    command = ["build", str(tmp_path / "i"), "--input", str(tmp_path / "rules.jsonl"), "--embedder", "none"]
    assert main(command) == 0
    capsys.readouterr()
    return tmp_path / "i"


def test_a_build_sets_a_floor_and_stats_show_it(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(built)]) == 0
    floor = Floor(**json.loads(capsys.readouterr().out)["floor"])
    assert 0 < floor.floor < 0.5
    assert floor.passages == 66
    with Index.open(built) as index:
        assert index.floor == floor.floor
        assert index.search("What is the capital of France?", 4, floor=index.floor) == []
        assert len(index.search("is the tenant liable for the rent of a cellar", 4, floor=index.floor)) == 4


def test_a_floor_is_set_anew_only_where_the_index_has_grown(built: Path) -> None:
    with Index.open(built) as index:
        revision, before = index.revision, calibrated(index)
        assert calibrate(index) == before
        assert index.revision == revision


def test_a_floor_lies_above_the_noise_but_not_near_right_finds() -> None:
    noise = [i / 1000 for i in range(100)]
    low, high = _floor(noise, [0.9] * 50, 10), _floor(noise, [0.3] * 50, 10)
    assert (low.floor, low.noise, low.loss) == (0.0971, 0.02, 0.0)
    assert (high.floor, high.loss) == (0.05, 0.0)
    assert _floor([], [], 1).floor == 0.0


def test_a_handful_of_rules_is_found_by_what_is_asked_about_and_not_by_the_words_of_asking(tmp_path: Path) -> None:
    """In six rules "of" and "how" are as rare as "lawn": without a list of them, a mango scores above the lawn."""
    rules = [
        ("Lawn mowers and drills must not be used on Sundays.", "noise"), ("Dogs must be on a lead in parks.", "dogs"),
        ("Bins may stand on the pavement from 6 pm on the day before collection.", "waste"),
        ("Do not give out the address or the telephone number of a private person.", "privacy"),
    ]  # fmt: skip
    with Index.open(tmp_path / "i", create=True, embedder="none") as index:
        index.add([Passage(name, text=text, language="en") for text, name in rules])
        floor = calibrate(index)
        assert floor is not None
        found = index.search("May my neighbour mow the lawn on Sundays?", 1)
        assert found[0].document == "noise"
        assert found[0].score >= floor.floor
        for question in ("Describe the taste of a mango.", "What is the capital of France?", "How do I tie a tie?"):
            assert not [hit for hit in index.search(question, 1) if hit.score >= floor.floor]
