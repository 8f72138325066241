"""`trimtab train check`: what it finds, on which rows, and that a training stops for it."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.toy import arguments, pair_rows, write
from trainers import check
from trainers.data.tokens import encode, encode_rows
from trainers.methods import sft
from trainers.run import findings as findings_of
from trainers.run.model import load
from trainers.run.training import Common

USER, GOOD = {"role": "user", "content": "say day"}, {"role": "assistant", "content": "rain fell"}
TURN = "{{ m.role }}: {{ m.content }}{{ eos_token if m.role == 'assistant' else '\n' }}"
PLAIN = "{% for m in messages %}" + TURN + "{% endfor %}{{ 'assistant: ' if add_generation_prompt }}"


def findings(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, {code: finding}, and what a person reads."""
    status = check.main([*line, "--json"])
    shown = capsys.readouterr()
    return status, {finding["code"]: finding for finding in json.loads(shown.out)["findings"]}, shown.err


def test_sound_data_is_ready(toy: str, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found, shown = findings(capsys, "--data", str(pairs), "--model", toy)
    assert (status, found) == (0, {})
    assert "layout: plain text" in shown
    assert "ready to train" in shown
    assert shown.count("⟦rain fell") == 3
    assert shown.count("<|eos|>⟧") == 6  # three samples, two answers each


def test_what_the_loss_counts_is_green_on_a_terminal(toy: str, pairs: Path) -> None:
    tokenizer = load(Common(model=toy, train="")).tokenizer
    row = encode({"place": "here", "prompt": "a", "completion": "b"}, tokenizer)
    assert findings_of.painted(row, "completion", tokenizer, colour=True) == (
        "--- here, completion\n\x1b[2m<|bos|>a\x1b[0m\x1b[32mb<|eos|>\x1b[0m"
    )


def test_findings_name_their_rows(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pair_rows(12)
    rows[2]["rejected"] = rows[2]["chosen"]
    rows[4]["chosen"] = " \n"
    rows[6] = rows[5]
    rows[7]["prompt"] = "long " * 100 + "\n"
    rows[8]["chosen"] = "rain " * 100
    path = write(tmp_path / "d.jsonl", rows)
    line = ["--data", str(path), "--model", toy, "--set", "heldout_fraction=0", "--set", "max_length=96"]
    status, found, shown = findings(capsys, *line)
    assert status == 2
    assert {code: finding["rows"] for code, finding in found.items()} == {
        "identical": [f"{path}, line 3"],
        "empty": [f"{path}, line 5"],
        "duplicate": [f"{path}, line 7"],
        "truncated": [f"{path}, line 8"],
        "cut": [f"{path}, line 9"],
    }
    assert f"error: max_length (96) leaves no room for an answer: 1 row(s): {path}, line 8" in shown
    assert {code for code, finding in found.items() if finding["level"] == "error"} == {
        "identical",
        "empty",
        "truncated",
    }
    status, found, _ = findings(capsys, *line, "--set", "unusable=drop")
    assert (status, {finding["level"] for finding in found.values()}) == (0, {"warning"})


def test_a_training_stops_for_an_error_and_drops_when_told(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [*(f"say {i}\n" for i in range(6)), "long " * 100]
    path = write(tmp_path / "d.jsonl", [{"prompt": prompt, "completion": "rain"} for prompt in prompts])
    out = tmp_path / "out"
    line = arguments(out, model=toy, train=str(path), steps=1, max_length=64, heldout_fraction=0)
    assert sft.main(line) == 2
    shown = capsys.readouterr().err
    assert f"max_length (64) leaves no room for an answer: 1 row(s): {path}, line 7" in shown
    assert not out.exists()
    assert sft.main([*line, "--set", "unusable=drop"]) == 0
    run = json.loads((out / "run.json").read_text())
    assert any("line 7; dropped" in note for note in run["notes"])


def test_labels_are_looked_at(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "a", "completion": "b", "label": True}, {"prompt": "a", "completion": "b", "label": False}]
    _, found, _ = findings(capsys, "--data", str(write(tmp_path / "d.jsonl", rows)), "--model", toy,
                           "--set", "heldout_fraction=0")  # fmt: skip
    assert len(found["both_labels"]["rows"]) == 2
    _, found, _ = findings(capsys, "--data", str(write(tmp_path / "e.jsonl", rows[:1])), "--model", toy,
                           "--set", "heldout_fraction=0")  # fmt: skip
    assert "nothing to learn" in found["one_label"]["message"]
    lists = [{"prompt": p, "answers": ["b", "c"], "scores": scores} for p, scores in (("a", [1, 2]), ("d", [3, 3.0]))]
    _, found, _ = findings(capsys, "--data", str(write(tmp_path / "f.jsonl", lists)), "--model", toy,
                           "--kind", "ranking", "--set", "heldout_fraction=0")  # fmt: skip
    assert [place.rpartition(" ")[2] for place in found["equal_scores"]["rows"]] == ["2"]


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("{{ bos_token }}" * 2 + PLAIN, "bos"),
        (PLAIN, "no_bos"),
        ("{{ bos_token }}" + PLAIN.replace("{{ m.content }}", "{{ m.content }}{{ eos_token }}"), "eos"),
    ],
)
def test_a_template_with_wrong_ends_is_found(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], template: str, code: str
) -> None:
    (tmp_path / "t.jinja").write_text(template)
    data = write(tmp_path / "d.jsonl", [{"messages": [USER, GOOD]}])
    changes = ["--set", "heldout_fraction=0", "--set", f"chat_template={tmp_path / 't.jinja'}"]
    status, found, _ = findings(capsys, "--data", str(data), "--model", toy, *changes)
    assert list(found) == [code]
    assert status == (0 if code == "no_bos" else 2)


@pytest.mark.parametrize(
    ("rows", "change", "message"),
    [
        ([{"prompt": "a", "completions": "b"}], "seed=0", "line 1: the columns are prompt, completions; wanted for"),
        ([{"messages": [USER, GOOD]}], "seed=0", "line 1: messages need a chat template, and the tokenizer has none"),
        ([{"messages": [USER, GOOD]}], "loss_on=assistant", "needs a chat template with {% generation %} markers"),
        ([{"messages": [USER, GOOD]}], "chat_template=nowhere", "shipped templates: chatml, dialogue, none"),
        ([{"prompt": "a", "completion": "b"}], "pad_token='<|eos|>'", "must be a token of the model's, and not"),
        ([{"prompt": "a", "completion": "b"}], "max_lenght=3", "unknown key 'max_lenght' (did you mean 'max_length'?)"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[Any], change: str, message: str
) -> None:
    (tmp_path / "plain.jinja").write_text(PLAIN)
    changes = ["--set", "heldout_fraction=0", "--set", change]
    if "generation" in message:
        changes += ["--set", f"chat_template={tmp_path / 'plain.jinja'}"]
    status, found, shown = findings(capsys, "--data", str(write(tmp_path / "d.jsonl", rows)), "--model", toy, *changes)
    assert status == 2
    assert message in shown
    assert list(found) == ["read"]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("loss_on: all", "completion"),
        ("center: 0.1", "preference"),
        ("desirable_weight: 2.0", "labelled"),
        ("selector: raft", "prompt"),
        ("critic_retries: 3\ncritic_url: http://x\ncritic_model: y", "preference"),
    ],
)
def test_a_recipe_is_read_as_its_methods(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, kind: str
) -> None:
    """Pairs serve all three methods, so the recipe's keys say which is meant."""
    (tmp_path / "r.yaml").write_text(f"model: {toy}\ntrain: {pairs}\n{key}\n")
    assert check.main(["--config", str(tmp_path / "r.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == kind
    assert check.main(["--config", str(tmp_path / "r.yaml"), "--set", "sead=1"]) == 2
    assert "unknown key 'sead' (did you mean 'seed'?)" in capsys.readouterr().err


def test_prompts_alone_are_checked_for_room(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "d.jsonl", [{"prompt": "say 1"}, {"prompt": "long " * 100}, {"prompt": " "}])
    line = ["--data", str(path), "--model", toy, "--kind", "prompt", "--set", "heldout_fraction=0"]
    status, found, _ = findings(capsys, *line, "--set", "max_length=64")
    assert status == 2
    assert found["truncated"]["rows"] == [f"{path}, line 2"]
    assert found["empty_prompt"]["rows"] == [f"{path}, line 3"]


def test_recipe_or_data_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["--data", "d.jsonl"]) == 2
    assert "--config RECIPE, or --data FILE and --model MODEL" in capsys.readouterr().err


def test_prompt_is_what_a_server_would_send(toy: str) -> None:
    """Random prompts and answers, also such as would merge where they meet, in every layout."""
    draw = random.Random(0)
    for template in (None, "chatml", "dialogue"):
        tokenizer = load(Common(model=toy, train="", chat_template=template)).tokenizer
        rows: list[dict[str, Any]] = []
        for index in range(60):
            prompt, answer = ("".join(draw.choices("rain day.\n ", k=draw.randint(1, 9))) for _ in range(2))
            rows.append({"place": str(index), "prompt": prompt, "chosen": answer, "rejected": answer + "s"})
        encoded = encode_rows(rows, tokenizer)
        for row, tokens in zip(rows, encoded, strict=True):
            turn = [{"role": "user", "content": row["prompt"]}]
            ask = {"add_generation_prompt": True, "return_dict": False}
            served = tokenizer.apply_chat_template(turn, **ask) if template else tokenizer(row["prompt"])["input_ids"]
            assert tokens.prompt == served
            for name, ids in tokens.answers.items():
                assert tokenizer.decode(ids[:-1]).strip() == row[name].strip()
                assert ids.index(tokenizer.eos_token_id) == len(ids) - 1
                assert tokens.whole(name).count(tokenizer.bos_token_id) == 1
        assert template or any(tokens.apart for tokens in encoded)


def test_every_turn_of_the_assistants_is_learnt_when_asked(toy: str) -> None:
    tokenizer = load(Common(model=toy, train="", chat_template="chatml")).tokenizer
    row = {"place": "", "prompt": [USER, GOOD, USER], "completion": [GOOD]}
    learnt = {}
    for loss_on in ("completion", "assistant", "all"):
        tokens = encode(row, tokenizer, loss_on)  # type: ignore[arg-type]
        whole = tokens.whole("completion")
        assert len(tokens.learned) == len(whole)
        learnt[loss_on] = tokenizer.decode([i for i, m in zip(whole, tokens.learned, strict=True) if m])
    assert learnt["completion"] == "rain fell<|eos|>"
    assert learnt["assistant"] == "rain fell<|eos|>rain fell<|eos|>"
    assert learnt["all"].startswith("<|bos|><|im_start|>user")
