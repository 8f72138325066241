"""A PPO recipe handed to OpenRLHF: every key has a flag or a refusal, and its parser takes every flag."""

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.trainers.toy import arguments, pair_rows, write
from trainers.backend.openrlhf_flags import OURS, REFUSED, SAME, WORKED_OUT, flags_of
from trainers.backend.openrlhf_parser import installed, parsed
from trainers.backend.openrlhf_run import main
from trainers.data.tokens import encode_prompt
from trainers.ppo.ppo_recipe import Recipe
from trainers.run.recipe import RecipeError

ROOT = Path(__file__).parents[2]
LISTED = json.loads((ROOT / "tests/data/openrlhf/flags.json").read_text())
OUT = Path("out")
PLAIN: dict[str, Any] = {"model": "a/model", "reward_model": "a/reward", "train": "prompts.jsonl"}
# A recipe for each flag that is written only where a key asks for it.
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "moss": {"reward_clip": 5.0, "dual_clip": 3.0, "ema": 0.99, "critic_warmup": 20, "critic_learning_rate": 5e-6},
    "vapo": {"clip_high": 0.28},
    "adaptive": {"kl_target": 6.0, "minibatch": 16, "inner_epochs": 4, "entropy_coefficient": 0.01, "value_clip": 0.0},
    "grpo": {"advantage": "grpo", "answers": 8, "kl_in": "loss", "kl_estimator": "k3", "whiten_advantages": False,
             "loss_mean": "answer", "importance_cap": 0.0},
    "rloo": {"advantage": "rloo", "answers": 4, "whiten_advantages": False, "steps": 10},
    "qlora": {"lora_rank": 8, "quantize": "nf4", "lora_targets": ["q_proj", "v_proj"], "gradient_checkpointing": True},
}  # fmt: skip


def recipe(**keys: Any) -> Recipe:
    return Recipe(**{"batch": 64, "micro_batch": 8} | PLAIN | keys)


def test_every_key_has_a_flag_or_a_place_or_a_refusal() -> None:
    tables = [set(SAME), set(WORKED_OUT), set(OURS), set(REFUSED)]
    assert set.union(*tables) == {field.name for field in fields(Recipe)}
    assert sum(map(len, tables)) == len(set.union(*tables))


@pytest.mark.parametrize("name", RECIPES)
def test_every_flag_is_on_openrlhfs_list_with_values_of_its_type(name: str) -> None:
    """The list was taken from version 0.11.2 by `python -m trainers.backend.openrlhf_parser --list-flags`."""
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    types = {"int": int, "float": float, "str": str, None: None}
    for flag, row in LISTED["flags"].items():
        if row["values"] == 0:
            flag == "-h" or parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=types[row["type"]], nargs=row["values"], choices=row["choices"])
    _, unknown = parser.parse_known_args(flags_of(recipe(**RECIPES[name]), 1000, OUT, 8))
    assert unknown == []


@pytest.mark.skipif(not installed(), reason="openrlhf is not installed (.ci/openrlhf installs it)")
@pytest.mark.parametrize("name", RECIPES)
def test_openrlhfs_own_parser_takes_every_flag(name: str) -> None:
    keys = RECIPES[name]
    values = parsed(flags_of(recipe(**keys), 1000, OUT, 8))
    given = recipe(**keys)
    assert values["actor"]["eps_clip_low_high"] == [given.clip, given.clip_high or given.clip]
    assert values["rollout"]["batch_size"] * values["rollout"]["n_samples_per_prompt"] == given.batch
    assert values["train"]["batch_size"] == given.rows_per_update
    assert values["critic"]["model_name_or_path"] == (given.reward_model if given.has_critic else None)
    assert values["reward"]["clip_range"] == ([-5, 5] if name == "moss" else [-1e9, 1e9])
    assert values["algo"]["kl"]["init_coef"] == given.kl_coefficient
    assert values["actor"]["adam"] == {"lr": given.learning_rate, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0}
    assert values["vllm"]["num_engines"] == values["actor"]["num_gpus_per_node"] == 8
    if name == "rloo":
        assert values["data"]["max_samples"] == 10 * 16


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"scorer": "rule", "rule": "a.py:f"}, "scorer"),
        ({"sampler": "url"}, "sampler"),
        ({"truncated_penalty": 1.0}, "truncated_penalty"),
        ({"whiten_rewards": "running"}, "whiten_rewards"),
        ({"lam_critic": 1.0}, "lam_critic"),
        ({"lam_length": 0.05}, "lam_length"),
        ({"whiten_advantages": False}, "whiten_advantages"),
        ({"critic_updates": 2}, "critic_updates"),
        ({"shared_trunk": True}, "shared_trunk"),
        ({"ptx": 0.1, "ptx_data": "a.jsonl"}, "ptx"),
        ({"bf16": False}, "bf16"),
        ({"pad_token": "<pad>"}, "pad_token"),
        ({"warmup": 10.0}, "warmup"),
        ({"epochs": 1.5}, "epochs"),
        ({"steps": 100}, "steps"),
        ({"advantage": "rloo", "answers": 4, "whiten_advantages": False, "reward_clip": 5.0}, "reward_clip"),
    ],
)
def test_what_openrlhf_would_not_follow_is_refused_by_name(keys: dict[str, Any], name: str) -> None:
    with pytest.raises(RecipeError, match=f"--backend openrlhf: {name}: "):
        flags_of(recipe(**keys), 1000, OUT, 8)


def test_the_command_is_printed_and_the_prompts_are_text_with_the_same_tokens(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    keys: dict[str, Any] = {
        "model": toy, "reward_model": toy, "train": str(write(tmp_path / "pairs.jsonl", pair_rows())),
        "heldout_fraction": 0.2, "chat_template": "dialogue", "max_new_tokens": 8, "steps": None, "max_length": 128,
    }  # fmt: skip
    line = arguments(out, "--backend", "openrlhf", "--print", **keys)
    assert main([*line, "--gpus", "2", "--", "--ds.zero_stage", "2"]) == 0
    shown = capsys.readouterr().out.split()
    assert shown[1:3] == ["-m", "openrlhf.cli.train_ppo_ray"]
    assert shown[-2:] == ["--ds.zero_stage", "2"]
    texts = [json.loads(row)["input"] for row in (out / "prompts.jsonl").read_text().splitlines()]
    held = {row["prompt"] for row in pair_rows() if not any(row["prompt"].strip() in text for text in texts)}
    assert 0 < len(held) < 20
    assert len(texts) + len(held) == 40
    tokenizer = AutoTokenizer.from_pretrained(toy)
    tokenizer.chat_template = (ROOT / "trainers/templates/dialogue.jinja").read_text()
    wanted = {tuple(encode_prompt(row["prompt"], tokenizer)) for row in pair_rows()}
    assert {tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts} <= wanted
