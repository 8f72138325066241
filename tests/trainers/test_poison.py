"""What would poison a model or lose a part of its data is refused by name, before a weight changes."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trainers.toy import arguments, build_toy, logged, pair_rows, write
from trainers import check
from trainers.data.jsonl import DataError
from trainers.data.layouts import read_rows
from trainers.export import release
from trainers.methods import kto, pair, rank, reward, sft
from trainers.run.record import finite, write_json

USER, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", "hi"), ("assistant", "yes"), ("assistant", "no")))
PAIR = {"prompt": "hi", "chosen": "yes", "rejected": "no"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


def rows(tmp_path: Path, kind: str, *given: Any) -> list[dict[str, Any]]:
    return read_rows(write(tmp_path / "d.jsonl", list(given)), kind)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", '"nan"', '"inf"', "1e999"])
@pytest.mark.parametrize("key", ["margin", "score_chosen", "score_rejected"])
def test_a_number_that_is_not_finite_is_refused_with_its_row(tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(PAIR) + "\n" + json.dumps(PAIR)[:-1] + f', "{key}": {value}}}\n')
    with pytest.raises(DataError, match=rf'd.jsonl, line 2: "{key}" must be a finite number, not -?(nan|inf)'):
        read_rows(path, "preference")


@pytest.mark.parametrize("value", [".nan", ".inf", "1e999"])
def test_a_recipe_with_a_number_that_is_not_finite_is_refused(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    line = arguments(tmp_path / "out", model=toy, train=str(pairs))
    assert sft.main([*line, "--set", f"learning_rate={value}"]) == 2
    assert "'learning_rate' must be a number" in capsys.readouterr().err


def test_a_step_that_is_not_finite_ends_the_run_with_its_number_and_rows(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a learning rate makes the first step's weights too large to compute with."""
    out = tmp_path / "out"
    keys: dict[str, Any] = {"model": toy, "train": str(pairs), "learning_rate": 1e30, "save_every": 1}
    assert pair.main(arguments(out, **keys, heldout_fraction=0)) == 1
    said = capsys.readouterr().err
    assert "stopped before a weight changed: step 2: " in said
    assert f"on the rows {pairs}, line " in said
    assert not (out / "final").exists()
    assert not (out / "run.json").exists()


def test_packed_rows_are_named_too(toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys: dict[str, Any] = {"model": toy, "train": str(pairs), "learning_rate": 1e30, "packing": True}
    assert sft.main(arguments(tmp_path / "out", **keys, heldout_fraction=0)) == 1
    assert f"on the rows {pairs}, line " in capsys.readouterr().err


def test_what_a_run_leaves_is_json_that_every_parser_reads(tmp_path: Path) -> None:
    value = {"a": math.nan, "b": [1.5, math.inf, {"c": -math.inf}], "d": True, "e": "NaN"}
    assert finite(value) == {"a": None, "b": [1.5, None, {"c": None}], "d": True, "e": "NaN"}
    write_json(tmp_path / "run.json", value)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    assert json.loads((tmp_path / "run.json").read_text(), parse_constant=refuse) == finite(value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_not_finite_are_not_exported(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    out = tmp_path / "run"
    assert sft.main(arguments(out, model=toy, train=str(pairs), steps=1, heldout_fraction=0)) == 0
    path = out / "final" / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, path, {"format": "pt"})
    assert release.main(["--run", str(out), "--out", str(tmp_path / "mine"), "--dtype", dtype]) == 2
    assert "the trained weights are not finite: 1 tensor(s), the first model.norm.weight" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


# ---------------------------------------------------------------- what would be dropped


SYSTEM = {"role": "system", "content": "answer in French"}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"system": SYSTEM["content"], "prompt": "hi", "chosen": "yes", "rejected": "no"}, [SYSTEM, USER]),
        ({"system_prompt": SYSTEM["content"], "question": "hi", "chosen": "yes", "rejected": "no"}, [SYSTEM, USER]),
        (
            {
                "system": SYSTEM["content"],
                "conversations": [{"from": "human", "value": "hi"}],
                "chosen": {"from": "gpt", "value": "yes"},
                "rejected": {"from": "gpt", "value": "no"},
            },
            [SYSTEM, USER],
        ),
        (
            {
                "system": SYSTEM["content"], "history": [["hi", "yes"]], "instruction": "say", "input": "day",
                "chosen": "yes", "rejected": "no",
            },
            [SYSTEM, USER, GOOD, {"role": "user", "content": "say\n\nday"}],
        ),
        ({"history": [["hi", "yes"]], **PAIR}, [USER, GOOD, USER]),
        ({"system": SYSTEM["content"], "chosen": [USER, GOOD], "rejected": [USER, BAD]}, [SYSTEM, USER]),
        (
            {"system": SYSTEM["content"], "chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]},
            [SYSTEM, USER],
        ),
    ],
)  # fmt: skip
def test_system_and_history_are_rendered(tmp_path: Path, row: dict[str, Any], prompt: list[Any]) -> None:
    [shaped] = rows(tmp_path, "preference", row)
    assert shaped["prompt"] == prompt
    assert (shaped["chosen"], shaped["rejected"]) == ([GOOD], [BAD])
    [shaped] = rows(tmp_path, "completion", row)
    assert (shaped["prompt"], shaped["completion"]) == (prompt, [GOOD])


def test_a_system_column_and_messages_make_one_prompt(tmp_path: Path) -> None:
    [shaped] = rows(tmp_path, "completion", {"system": SYSTEM["content"], "messages": [USER, GOOD]})
    assert shaped["prompt"] == [SYSTEM, USER]
    [shaped] = rows(tmp_path, "completion", {"instruction": "sum up", "context": "it rained", "response": "rain"})
    assert shaped["prompt"] == [{"role": "user", "content": "sum up\n\nit rained"}]


@pytest.mark.parametrize("key", ["tools", "images", "videos", "audios"])
@pytest.mark.parametrize("kind", ["preference", "completion", "labelled"])
def test_a_column_that_no_template_gets_is_refused_by_name(tmp_path: Path, kind: str, key: str) -> None:
    with pytest.raises(DataError, match=f'd.jsonl, line 1: the row has "{key}", which training would drop'):
        rows(tmp_path, kind, PAIR | {key: [TOOL]})
    for empty in ([], None, "", "[]"):
        assert rows(tmp_path, kind, PAIR | {key: empty})


@pytest.mark.parametrize("key", ["tool_calls", "function_call", "reasoning_content", "images"])
def test_a_part_of_a_message_that_would_be_lost_is_refused_by_name(tmp_path: Path, key: str) -> None:
    row = {"prompt": [USER], "chosen": [GOOD | {key: [TOOL]}], "rejected": [BAD]}
    with pytest.raises(DataError, match=f'a message in "chosen" has "{key}", which training would drop'):
        rows(tmp_path, "preference", row)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"system": "a", "prompt": [{"role": "system", "content": "b"}, USER], "completion": "c"}, "two different thi"),
        ({"history": [["only"]], "prompt": "a", "completion": "c"}, '"history" must be pairs of a question'),
        (
            {"conversations": [{"from": "observation", "value": "3"}, {"from": "gpt", "value": "yes"}]},
            "is from 'observation'; known speakers: human, user",
        ),
    ],
)
def test_a_context_that_cannot_be_meant_is_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        rows(tmp_path, "completion", row)


@pytest.mark.parametrize("extra", [[USER, GOOD], [GOOD], []], ids=["user", "twice", "none"])
def test_an_answer_of_other_than_one_assistant_message_is_refused_for_that(tmp_path: Path, extra: list[Any]) -> None:
    """The loss counts all of an answer, so it would count the user's words in it."""
    chosen = [GOOD, *extra] if extra else []
    with pytest.raises(DataError, match=r'"chosen" must be one assistant message, and has .*the loss would count'):
        rows(tmp_path, "preference", {"prompt": [USER], "chosen": chosen, "rejected": [BAD]})


# ---------------------------------------------------------------- pairs


def findings(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[int, dict[str, Any]]:
    status = check.main([*line, "--set", "heldout_fraction=0", "--json"])
    return status, {finding["code"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}


def test_pairs_that_are_equal_after_the_cut_and_in_both_orders_are_named(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = pair_rows(6)
    given[1]["chosen"], given[1]["rejected"] = "rain " * 100 + "a", "rain " * 100 + "b"
    given.append(given[3] | {"chosen": given[3]["rejected"], "rejected": given[3]["chosen"]})
    path = write(tmp_path / "d.jsonl", given)
    status, found = findings(capsys, "--data", str(path), "--model", toy, "--set", "max_length=64")
    assert status == 2
    assert found["identical_after_cut"]["rows"] == [f"{path}, line 2"]
    assert found["both_orders"]["rows"] == [f"{path}, line 4", f"{path}, line 7"]
    assert found["both_orders"]["level"] == "warning"


def test_the_refusal_names_the_key_that_drops_the_rows(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = pair_rows(6)
    given[1]["rejected"] = given[1]["chosen"]
    path = write(tmp_path / "d.jsonl", given)
    keys: dict[str, Any] = {"model": toy, "train": str(path), "heldout_fraction": 0, "steps": 1}
    assert pair.main(arguments(tmp_path / "out", **keys)) == 2
    assert "--set unusable=drop trains without the 1 row(s) that cannot be used" in capsys.readouterr().err
    assert pair.main(arguments(tmp_path / "out", **keys, unusable="drop")) == 0


# ---------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["embed_tokens"], "'embed_tokens' is both embedding and output layer of this model (tied weights)"),
        (["q_proj", "lm_head"], "'lm_head' is both embedding and output layer"),
        (["qproj"], "the model has no module 'qproj'; modules: down_proj, embed_tokens, gate_proj"),
    ],
)
def test_lora_targets_that_could_not_be_merged_or_found_are_refused_before_training(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], targets: list[str], message: str
) -> None:
    keys: dict[str, Any] = {"model": toy, "train": str(pairs), "lora_rank": 2, "lora_targets": targets}
    assert pair.main(arguments(tmp_path / "out", **keys)) == 2
    assert message in capsys.readouterr().err


def test_quantization_says_what_it_needs(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys: dict[str, Any] = {"model": toy, "train": str(pairs), "quantize": "nf4"}
    assert sft.main(arguments(tmp_path / "out", **keys)) == 2
    assert "set lora_rank" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert sft.main(arguments(tmp_path / "out", **keys, lora_rank=2)) == 2
        assert "quantize: nf4 needs a CUDA GPU" in capsys.readouterr().err


def test_a_tokenizer_that_is_larger_than_the_embedding_is_named_where_a_row_uses_it(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "small"
    build_toy(folder, vocabulary=260)
    for path in Path(toy).glob("*token*"):
        shutil.copy(path, folder)
    data = write(tmp_path / "d.jsonl", pair_rows(4))
    status, found = findings(capsys, "--data", str(data), "--model", str(folder))
    assert status == 2
    assert len(found["vocabulary"]["rows"]) == 4
    assert "token ids that the model's embedding (260 rows) does not have" in found["vocabulary"]["message"]


def test_a_run_or_its_adapter_as_a_model_is_refused_with_what_to_do(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    keys: dict[str, Any] = {"train": str(pairs), "steps": 1, "heldout_fraction": 0}
    assert sft.main(arguments(run, model=toy, lora_rank=2, **keys)) == 0
    capsys.readouterr()
    for model in (run, run / "final"):
        assert sft.main(arguments(tmp_path / "out", model=str(model), **keys)) == 2
        assert f"merge it first: trimtab export --run {run} --out FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize("rank", [0, 2], ids=["full", "lora"])
def test_further_end_tokens_of_the_base_stay(toy: str, pairs: Path, tmp_path: Path, rank: int) -> None:
    base = tmp_path / "base"
    shutil.copytree(toy, base)
    config = base / "generation_config.json"
    ends = json.loads(config.read_text())["eos_token_id"]
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": [ends, 7], "top_k": 3}))
    out = tmp_path / "run"
    assert sft.main(arguments(out, model=str(base), train=str(pairs), steps=1, lora_rank=rank, heldout_fraction=0)) == 0
    assert release.main(["--run", str(out), "--out", str(tmp_path / "mine")]) == 0
    folders = [tmp_path / "mine", *([] if rank else [out / "final"])]
    for folder in folders:
        made = json.loads((folder / "generation_config.json").read_text())
        assert (made["eos_token_id"], made["top_k"]) == ([ends, 7], 3)


# ---------------------------------------------------------------- the end


def test_a_run_names_its_bars_and_ends_with_before_after_and_the_next_command(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    assert reward.main(arguments(out, model=toy, train=str(pairs), heldout_fraction=0.2, steps=1)) == 0
    said = capsys.readouterr().err
    for label in ("held out, before training:", "training:", "held out, after training:"):
        assert label in said
    run = json.loads((out / "run.json").read_text())
    before, after = run["heldout_before"], run["heldout"]
    assert f"loss {before['loss']:.4g} → {after['loss']:.4g}, accuracy " in said
    assert f"held out ({after['pairs']} pairs): " in said
    assert f"next: trimtab export --run {out} --out mine-model" in said


def test_the_best_checkpoint_is_kept_and_patience_ends_the_run(toy: str, pairs: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"model": toy, "train": str(pairs), "heldout_fraction": 0.2, "learning_rate": 1.0}
    keys |= {"steps": 12, "eval_every": 1, "save_every": 1, "best": "loss", "patience": 2}
    out = tmp_path / "out"
    assert sft.main(arguments(out, **keys)) == 0
    run = json.loads((out / "run.json").read_text())
    losses = logged(out, "eval_loss")
    assert run["best"]["value"] == pytest.approx(min(losses))
    assert losses[run["best"]["step"] - 1] == pytest.approx(run["best"]["value"])
    assert run["heldout"]["loss"] == pytest.approx(run["best"]["value"], rel=1e-5)
    assert run["steps"] == run["best"]["step"] + 2 < 12


@pytest.mark.parametrize(
    ("method", "measure", "rank"),
    [(pair, "rewards/accuracies", 2), (reward, "accuracy", 0), (kto, "loss", 2), (rank, "nll/best", 0)],
)
def test_every_method_can_keep_its_best(
    toy: str, pairs: Path, tmp_path: Path, method: Any, measure: str, rank: int
) -> None:
    keys: dict[str, Any] = {"model": toy, "train": str(pairs), "heldout_fraction": 0.2, "best": measure}
    out = tmp_path / "out"
    assert method.main(arguments(out, **keys, lora_rank=rank)) == 0
    run = json.loads((out / "run.json").read_text())
    values = logged(out, f"eval_{measure}")
    assert run["best"]["value"] == pytest.approx((max if "accura" in measure else min)(values))
    assert run["heldout"][measure] == pytest.approx(run["best"]["value"], rel=1e-4)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"best": "los"}, "best: no held-out measure 'los'; measures: loss"),
        ({"best": "loss", "heldout_fraction": 0}, "best: loss is measured on held-out rows, and there are none"),
        ({"best": "loss", "save_every": 3}, "save_every (3) must be a multiple of eval_every (2)"),
        ({"patience": 2}, "patience counts evaluations without a better value of `best`"),
    ],
)
def test_a_best_that_cannot_be_kept_is_refused(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, Any], message: str
) -> None:
    assert sft.main(arguments(tmp_path / "out", **{"model": toy, "train": str(pairs)} | keys)) == 2
    assert message in capsys.readouterr().err
