"""Chains: every step is checked at the start, made once from what was before it, and compared at the end."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.trainers.toy import TOY, pair_rows, same_weights, write
from trainers import command
from trainers.chain.chain_compare import difference
from trainers.chain.chain_reader import CHAINS, read_chain
from trainers.export import release
from trainers.run.recipe import RecipeError

PPO = {"method": "ppo", "max_new_tokens": 8}


def recipe(toy: str, folder: Path, **steps: dict[str, Any]) -> dict[str, Any]:
    """SFT, a reward model and DPO on the same pairs, all from the toy; `steps` changes keys."""
    train = str(write(folder / "pairs.jsonl", pair_rows()))
    chain: dict[str, Any] = {
        "compare": {"reward": "judge", "heldout_fraction": 0.2, "prompts": 4, "max_new_tokens": 4, "batch": 4},
        "every": TOY | {"heldout_fraction": 0.0, "report_to": []},
        "steps": {
            "sft": {"method": "sft", "model": toy, "train": train, "lora_rank": 2},
            "judge": {"method": "reward", "model": "step:sft", "train": train},
            "dpo": {"method": "pair", "model": "step:sft", "train": train},
        },
    }
    for name, keys in steps.items():
        (chain[name] if name in chain else chain["steps"].setdefault(name, {})).update(keys)
    return chain


def line(folder: Path, chain: dict[str, Any], *more: str, out: str = "run") -> list[str]:
    path = folder / "chain.yaml"
    path.write_text(yaml.safe_dump(chain, sort_keys=False))
    return ["chain", "--config", str(path), "--out", str(folder / out), *more]


def test_a_chain_is_made_once_compared_and_exported(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    chain = recipe(toy, tmp_path, every={"steps": 2})
    assert command.main(line(tmp_path, chain)) == 0
    told = capsys.readouterr().err
    assert "1 sft: sft" in told
    assert "step 3 of 3: dpo (pair)" in told
    assert "dpo less sft: " in told
    run = json.loads((out / "run.json").read_text())
    assert set(run["comparison"]["means"]) == {"sft", "dpo"}
    assert run["comparison"]["last_minus_first"]["pairs"] == 4
    assert same_weights(out / "final", out / "dpo" / "final")
    assert json.loads((out / "judge" / "run.json").read_text())["recipe"]["model"] == str(out / "sft" / "merged")
    held = {json.loads(row)["prompt"] for row in (out / "data" / "heldout.jsonl").read_text().splitlines()}
    for name in ("sft", "judge", "dpo"):
        learned = {json.loads(row)["prompt"] for row in (out / "data" / f"{name}.jsonl").read_text().splitlines()}
        assert len(held) >= 4
        assert not held & learned
    assert release.main(["--run", str(out), "--out", str(tmp_path / "mine")]) == 0

    stamps = {name: (out / name / "run.json").stat().st_mtime_ns for name in ("sft", "judge", "dpo")}
    capsys.readouterr()
    assert command.main(line(tmp_path, chain)) == 0  # nothing is made or answered again
    assert f"{out / 'dpo'} is finished" in capsys.readouterr().err
    assert json.loads((out / "run.json").read_text())["comparison"] == run["comparison"]

    chain["steps"]["dpo"]["beta"] = 0.5
    assert command.main(line(tmp_path, chain)) == 2
    assert "dpo was made with other values of beta; --again dpo makes it" in capsys.readouterr().err
    chain["every"]["logging_every"] = 2  # moves no weight
    assert command.main(line(tmp_path, chain, "--again", "dpo")) == 0
    again = {name: (out / name / "run.json").stat().st_mtime_ns for name in ("sft", "judge", "dpo")}
    assert again["dpo"] > stamps.pop("dpo")
    assert {name: again[name] for name in stamps} == stamps


def test_a_removed_step_is_made_again_only_with_those_that_build_on_it(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others' recipes have not changed: what they were made from has."""
    chain = recipe(toy, tmp_path, compare={"reward": None})
    del chain["steps"]["judge"]
    chain["every"]["steps"] = 2
    assert command.main(line(tmp_path, chain)) == 0
    (tmp_path / "run" / "sft" / "run.json").unlink()
    chain["steps"]["sft"]["seed"] = 4
    capsys.readouterr()
    assert command.main(line(tmp_path, chain)) == 2
    assert "sft was made with other values of seed; --again sft" in capsys.readouterr().err
    for path in sorted((tmp_path / "run" / "sft").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "run" / "sft").rmdir()
    assert command.main(line(tmp_path, chain)) == 2
    assert "dpo was made with other values of step sft; --again dpo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"dpo": {"method": "dreaming"}}, "step dpo: no method 'dreaming'; methods: cpt"),
        ({"dpo": {"bets": 1}}, "step dpo: unknown key 'bets' (did you mean 'beta'?)"),
        ({"dpo": {"loss": "nonsense"}}, "step dpo: no loss 'nonsense'"),
        ({"dpo": {"micro_batch": 3}}, "step dpo: batch (4) must be a multiple of micro_batch (3)"),
        ({"dpo": {"model": "step:later"}}, "step dpo: model: 'later' is no step before it"),
        ({"dpo": {"model": "step:judge"}}, "the model of step judge scores answers"),
        ({"judge": {"train": "nowhere.jsonl"}}, "step judge: nowhere.jsonl"),
        ({"judge": {"method": "weak", "supervisor": "nowhere"}}, "step judge: supervisor: nowhere: no such folder"),
        ({"dpo": PPO | {"reward_model": "nowhere"}}, "step dpo: reward_model: nowhere: no such folder"),
        ({"dpo": PPO | {"scorer": "rule", "rule": "nowhere.py:f"}}, "step dpo: rule nowhere.py:f"),
        (
            {"dpo": PPO | {"reward_model": "step:judge", "reward_clip": -1.0}},
            "step dpo: reward_clip must be at least 0",
        ),
        ({"judge": {"confidence": 2}}, "step judge: confidence must be from 0 to 1"),
        ({"every": {"pace": 1}}, "every: no step has the key 'pace'"),
        ({"compare": {"reward": "sft"}}, "compare: reward: 'sft' is no step that makes a reward model (judge)"),
        ({"compare": {"heldout_fraction": 0.0}}, "compare: heldout_fraction must be above 0"),
        ({"compare": {"rewards": "sft"}}, "unknown key 'rewards' (did you mean 'reward'?)"),
    ],
)
def test_what_the_last_step_would_refuse_is_refused_before_the_first(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: dict[str, Any], message: str
) -> None:
    assert command.main(line(tmp_path, recipe(toy, tmp_path, **steps))) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "sft").exists()


def test_rows_that_a_later_step_cannot_learn_from_are_found_before_the_first(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pair_rows()
    rows[7]["rejected"] = rows[7]["chosen"]
    path = write(tmp_path / "same.jsonl", rows)
    assert (
        command.main(line(tmp_path, recipe(toy, tmp_path, judge={"train": str(path)}, compare={"reward": None}))) == 2
    )
    told = capsys.readouterr().err
    assert "step judge: " in told
    assert "chosen and rejected are the same" in told
    assert not (tmp_path / "run" / "sft").exists()


def test_steps_can_hold_out_rows_of_their_own(toy: str, tmp_path: Path) -> None:
    """Both splits are by a hash of the prompt."""
    chain = recipe(toy, tmp_path, every={"heldout_fraction": 0.1}, compare={"heldout_fraction": 0.3})
    assert command.main(line(tmp_path, chain, "--plan")) == 0


def test_a_plan_trains_nothing_and_keys_of_steps_can_be_set(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = recipe(toy, tmp_path)
    assert command.main(line(tmp_path, chain, "--plan", "--set", "dpo.beta=0.3", "--set", "every.seed=9")) == 0
    told = capsys.readouterr().err
    assert "3 dpo: pair; " in told
    assert "model of sft" in told
    assert not (tmp_path / "run" / "sft").exists()
    assert read_chain(tmp_path / "chain.yaml", ["dpo.beta=0.3"])["dpo"].values["beta"] == 0.3
    with pytest.raises(RecipeError, match="names are compare, every, sft, judge, dpo"):
        read_chain(tmp_path / "chain.yaml", ["beta=0.3"])


def test_a_difference_is_paired() -> None:
    found = difference([0.0, 10.0, 20.0], [1.0, 11.0, 22.0])
    assert found.mean == pytest.approx(4 / 3)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * (1 / 3) ** 0.5 / 3**0.5)
    assert difference([1.0], [2.0]).low is None


@pytest.mark.parametrize("path", sorted(CHAINS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_chain_reads(path: Path) -> None:
    chain = read_chain(Path(path.stem))
    for step in chain.steps:
        chain.recipe(step, Path("out"))
    assert chain.comparison.reward is not None
