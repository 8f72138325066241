"""Rows of one shape from every layout and format, and errors that name the row."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from trainers.data.jsonl import DataError
from trainers.data.layouts import data_hash, opening, read_rows, split

USER, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", "hi"), ("assistant", "yes"), ("assistant", "no")))
HH = "\n\nHuman: hi\n\nAssistant: {}"
PAIR = {"prompt": "hi", "chosen": "yes", "rejected": "no"}
CHAT = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def only(path: Path, kind: str) -> dict[str, Any]:
    [row] = read_rows(path, kind)
    row.pop("place")
    return row


@pytest.mark.parametrize(
    ("row", "shaped"),
    [
        (PAIR, PAIR),
        (
            PAIR | {"margin": 2, "score_chosen": "9.5", "score_rejected": 1},
            PAIR | {"margin": 2.0, "score_chosen": 9.5, "score_rejected": 1.0},
        ),
        (CHAT, CHAT),
        ({"prompt": "hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, CHAT),  # the prompt repeated in the answers
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, CHAT),
        ({"chosen": HH.format("yes"), "rejected": HH.format("no")}, CHAT),
        (
            {
                "conversations": [{"from": "human", "value": "hi"}],
                "chosen": {"from": "gpt", "value": "yes"},
                "rejected": {"from": "gpt", "value": "no"},
            },
            CHAT,
        ),
        ({"question": "hi", "chosen": "yes", "rejected": "no"}, PAIR),
    ],
)
def test_preference_layouts(tmp_path: Path, row: dict[str, Any], shaped: dict[str, Any]) -> None:
    assert only(jsonl(tmp_path / "d.jsonl", row), "preference") == shaped


@pytest.mark.parametrize(
    ("row", "shaped"),
    [
        ({"prompt": "hi", "completion": "yes"}, {"prompt": "hi", "completion": "yes"}),
        ({"question": "hi", "answer": "yes"}, {"prompt": "hi", "completion": "yes"}),
        (
            {"instruction": "add", "input": "1, 2", "output": "3"},
            {
                "prompt": [{"role": "user", "content": "add\n\n1, 2"}],
                "completion": [{"role": "assistant", "content": "3"}],
            },
        ),
        ({"instruction": "hi", "input": "", "output": "yes"}, {"prompt": [USER], "completion": [GOOD]}),
        ({"messages": [USER, GOOD]}, {"prompt": [USER], "completion": [GOOD]}),
        (
            {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]},
            {"prompt": [USER], "completion": [GOOD]},
        ),
        ({"chosen": HH.format("yes"), "rejected": HH.format("no")}, {"prompt": [USER], "completion": [GOOD]}),
    ],
)
def test_completion_layouts(tmp_path: Path, row: dict[str, Any], shaped: dict[str, Any]) -> None:
    assert only(jsonl(tmp_path / "d.jsonl", row), "completion") == shaped


def test_labelled_layouts(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "d.jsonl",
        {"prompt": "hi", "completion": "a", "label": True},
        {"messages": [USER, GOOD], "label": 0},
        PAIR,
    )
    rows = read_rows(path, "labelled")
    assert [row["label"] for row in rows] == [True, False, True, False]
    assert rows[3] == {"place": f"{path}, line 3", "prompt": "hi", "completion": "no", "label": False}


def test_a_dialogue_with_two_turns_of_one_speaker_keeps_both(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "d.jsonl", {"chosen": HH.format("yes") + "\n\nAssistant: indeed", "rejected": HH.format("no")}
    )
    assert only(path, "preference")["chosen"] == [{"role": "assistant", "content": "yes\n\nindeed"}]


def test_all_formats_give_the_same_rows(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [{"prompt": f"a, “{i}”\nb", "completion": "c\n", "label": bool(i % 2)} for i in range(5)]
    jsonl(tmp_path / "d.jsonl", *rows)
    (tmp_path / "d.json").write_text(json.dumps(rows))
    (tmp_path / "e.json").write_text(json.dumps({"data": rows}))
    with (tmp_path / "d.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    Dataset.from_list(rows).to_parquet(tmp_path / "d.parquet")
    (tmp_path / "folder").mkdir()
    Dataset.from_list(rows).to_parquet(tmp_path / "folder" / "train.parquet")
    found = []
    for name in ("d.jsonl", "d.json", "e.json", "d.csv", "d.parquet", "folder", "folder:train"):
        found.append(
            [{k: v for k, v in row.items() if k != "place"} for row in read_rows(f"{tmp_path}/{name}", "labelled")]
        )
    assert all(each == rows for each in found)


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        (
            [PAIR, {"prompt": "hi", "chosen": "yes"}],
            "preference",
            "d.jsonl, line 2: the columns are prompt, chosen; wanted for preference rows: prompt, ",
        ),
        (
            [{"prompt": "hi", "response": "a"}],
            "labelled",
            "line 1: the columns are prompt, response; wanted for labelled rows: prompt, ",
        ),
        ([{"text": "a"}], "completion", "line 1: the columns are text; wanted for completion rows"),
        ([{"body": "a"}], "text", "line 1: the columns are body; wanted for text rows: text"),
        ([PAIR | {"chosen": 3}], "preference", 'line 1: "chosen" must be text or a list of messages, not int'),
        (
            [PAIR | {"chosen": ["a"]}],
            "preference",
            'line 1: "chosen" must be text or a list of messages, and not hold str',
        ),
        (
            [PAIR | {"chosen": [{"role": "assistant"}]}],
            "preference",
            'line 1: a message in "chosen" must have a role and text',
        ),
        ([PAIR | {"margin": "wide"}], "preference", "line 1: \"margin\" must be a number, not 'wide'"),
        (
            [{"prompt": "a", "completion": "b", "label": "good"}],
            "labelled",
            "line 1: \"label\" must be true or false, not 'good'",
        ),
        ([{"messages": [GOOD, USER]}], "completion", 'line 1: the last of "messages" must be the assistant\'s'),
        (
            [{"chosen": [USER, GOOD], "rejected": [BAD, GOOD]}],
            "preference",
            "line 1: without a prompt, chosen and rejected must be the same up to the last turn",
        ),
        ([], "preference", "d.jsonl: no rows in it"),
        ([PAIR], "pairs", "no kind 'pairs'; kinds: preference, labelled, completion, ranking, prompt, text"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, rows: list[Any], kind: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_rows(jsonl(tmp_path / "d.jsonl", *rows), kind)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "d.jsonl",
            '{"text": "a"}\n' * 6 + '{"text": "b\n',
            "d.jsonl, line 7: not JSON (Unterminated string",
        ),
        ("d.json", '[{"text": "a"}, 3]', "d.json, row 2: not a JSON object"),
        ("d.json", '{"text": "a"}\n{"text": "b"}', "d.json: not JSON"),
        ("d.json", '{"text": "a"}', "d.json: not a list of rows (JSON with one object a line is called .jsonl)"),
        ("d.csv", "text,label,text\na,b,c\n", "d.csv: duplicate column 'text'"),
        ("d.csv", "text,label\na\n", "d.csv, line 2: not as many fields as there are columns"),
        ("d.parquet", "text", "d.parquet: not Parquet"),
        ("d.jsonl", '{"text": ' + "[" * 100_000, "d.jsonl, line 1: nested too deeply"),
        ("d.json", "[" * 100_000, "d.json: nested too deeply"),
        ("d.jsonl", '{"text": "a \\ud83d b"}', r"d.jsonl, line 1: holds '\ud83d', half a character"),
        ("d.json", '[{"text": "\\udfff"}]', r"d.json, row 1: holds '\udfff', half a character"),
        ("d.jsonl.zst", "text", "d.jsonl.zst: not zstd"),
        ("d.txt", "text", "d.txt: a file must be one of .jsonl, .ndjson, .json, .csv, .parquet"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / name, "text")
    assert message in str(caught.value)


def test_blank_lines_are_no_rows_and_count_as_lines(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n \n{"text": "b"}\n\n')
    rows = read_rows(tmp_path / "d.jsonl", "text")
    assert [(row["place"][-6:], row["text"]) for row in rows] == [("line 1", "a"), ("line 4", "b")]


def test_a_folder_with_a_broken_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "a.jsonl").write_text("{bad")
    with pytest.raises(DataError, match=rf"^{folder}: .*JSON"):
        read_rows(folder, "text")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.jsonl: no such file"):
        read_rows(tmp_path / "nowhere.jsonl", "text")


def test_split_keeps_prompts_apart_and_never_changes() -> None:
    rows = [{"place": "", "prompt": f"p{i % 50}", "completion": str(i)} for i in range(200)]
    train, held = split(rows, 0.2, seed=1)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held}
    assert len(train) + len(held) == 200
    assert 4 < len({row["prompt"] for row in held}) < 18
    assert split(rows[::-1], 0.2, seed=1)[1] == held[::-1]
    assert split(rows, 0.2, seed=2)[1] != held
    assert split(rows, 0.0, seed=1) == (rows, [])


def test_a_dialogue_may_hold_any_character(tmp_path: Path) -> None:
    rows = [{"chosen": "\n\nHuman: a\0b\n\nAssistant: c😀", "rejected": "\n\nHuman: a\0b\n\nAssistant: d"}]
    [row] = read_rows(jsonl(tmp_path / "d.jsonl", *rows), "preference")
    assert row["prompt"] == [{"role": "user", "content": "a\0b"}]
    assert row["chosen"] == [{"role": "assistant", "content": "c😀"}]


def test_dialogues_that_open_alike_stay_together() -> None:
    longer = [USER, GOOD, {"role": "user", "content": "and then?"}]
    assert opening({"prompt": longer}) == opening({"prompt": [USER]}) == opening({"prompt": "hi"})


def test_split_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="too few prompts"):
        split([{"prompt": "a"}, {"prompt": "a"}], 0.5, seed=0)


def test_hash_follows_the_data_and_not_its_place(tmp_path: Path) -> None:
    one, two = jsonl(tmp_path / "a.jsonl", PAIR), jsonl(tmp_path / "b.jsonl", PAIR)
    assert data_hash(one, []) == data_hash(two, [])
    assert data_hash("hub", read_rows(one, "preference")) == data_hash("hub", read_rows(two, "preference"))
    assert data_hash("hub", [PAIR]) != data_hash("hub", [PAIR | {"chosen": "maybe"}])
