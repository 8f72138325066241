import json
from pathlib import Path

import pytest

from retrieval.cli.command import main
from retrieval.search import evaluation
from retrieval.search.index import Index

TOPICS = ["dog leash park", "tenant rent month", "ship flag harbour", "school pupil teacher", "river fish licence"]


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """A corpus where rule i speaks of topic i, and questions that do."""
    folder = tmp_path / "beir"
    folder.mkdir()
    rows = [
        {"_id": f"d{i}", "title": f"Act {i}", "text": f"The {topic} shall be ruled by section {i}.",
         "region": "north" if i % 2 else "south"}
        for i, topic in enumerate(TOPICS * 4)
    ]  # fmt: skip
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    queries = [{"_id": f"q{i}", "text": f"{topic} section {i}"} for i, topic in enumerate(TOPICS)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)) + "\n")
    lines = [f"q{i}\td{i}\t1" for i in range(len(TOPICS))]
    (folder / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return folder


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main([str(a) for a in argv]) == 0
    return capsys.readouterr().out


def test_an_index_is_built_searched_and_scored(beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "index"
    said = run(capsys, "build", place, "--input", beir, "--embedder", "none", "--language", "en", "--region", "x")
    assert "20 documents read, 0 bad rows left out" in said
    assert "20 now" in said
    said = run(capsys, "search", place, "--queries", beir / "queries.jsonl", "-k", 3, "--run", tmp_path / "run.tsv",
               "--qrels", beir / "qrels.tsv")  # fmt: skip
    assert "ndcg@10 1.0000  recall@10 1.0000" in said
    lines = (tmp_path / "run.tsv").read_text().splitlines()
    assert lines[0] == "query-id\tcorpus-id\tscore"
    assert len(lines) == 1 + 3 * len(TOPICS)
    assert lines[1].split("\t")[:2] == ["q0", "d0"]
    table = run(capsys, "search", place, "tenant rent", "-k", "2", "--where", "region=north", "--where", "strict")
    assert "Act" in table


def test_a_build_that_is_run_again_goes_on(beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "index"
    run(capsys, "build", place, "--input", beir, "--embedder", "none")
    with Index.open(place) as index:
        revision = index.revision
    run(capsys, "build", place, "--input", beir)
    with Index.open(place) as index:
        assert (index.revision, index.count()) == (revision, 20)


def test_bad_rows_and_duplicates_are_reported(beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "more.jsonl"
    path.write_text('{"_id": "a", "text": "same"}\n{bad\n{"_id": "b", "text": " same "}\n')
    command = ["build", str(tmp_path / "i"), "--input", str(path), "--embedder", "none"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert f"{path}:2: not JSON" in said.err
    assert "b has the same content as a" in said.err
    assert "2 documents read, 1 bad rows left out, 1 duplicates kept" in said.out
    assert main([*command, "--strict"]) == 1


def test_withdraw_stats_and_export_round_trip(beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "index"
    run(capsys, "build", place, "--input", beir, "--embedder", "none")
    assert "2 withdrawn" in run(capsys, "withdraw", place, "d0", "d1")
    assert main(["withdraw", str(place), "d0"]) == 1
    assert "no such id: d0" in capsys.readouterr().err
    found = json.loads(run(capsys, "stats", place))
    assert (found["passages"], found["embedder"], found["region"]) == (18, None, {"south": 9, "north": 9})
    run(capsys, "export", place, "--output", tmp_path / "out.jsonl")
    run(capsys, "build", tmp_path / "copy", "--input", tmp_path / "out.jsonl", "--embedder", "none")
    assert run(capsys, "export", tmp_path / "copy") == (tmp_path / "out.jsonl").read_text()


def test_tuning_keeps_the_weight_that_answers_best(
    beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], minilm: object
) -> None:
    place = tmp_path / "index"
    run(capsys, "build", place, "--input", beir)
    said = run(capsys, "tune", place, "--queries", beir / "queries.jsonl", "--qrels", beir / "qrels.tsv")
    assert "two-fold" in said
    with Index.open(place) as index:
        assert index.backend.setting("weight")
        assert 0.0 <= index.weight <= 1.0


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["search", "nowhere", "dog"], "no index at nowhere"),
        (["build", "x", "--input", "nowhere.jsonl"], "no such input: nowhere.jsonl"),
        (["search", "nowhere"], "give either a query or --queries"),
        (["search", "nowhere", "dog", "--where", "colour=red"], "unknown filter"),
    ],
)
def test_mistakes_are_named(argv: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 1
    assert problem in capsys.readouterr().err


def test_measures_are_what_the_books_say() -> None:
    rated = {"a": 1, "b": 1}
    assert evaluation.ndcg(["a", "b"], rated) == pytest.approx(1.0)
    assert evaluation.ndcg(["x", "a"], rated) == pytest.approx((1 / 1.5849625) / (1 + 1 / 1.5849625))
    assert evaluation.recall(["a", "x"], rated, 10) == 0.5
