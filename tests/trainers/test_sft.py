"""`trimtab train sft`: it learns answers and their ends, resumes exactly, and counts tokens over the whole batch."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.toy import arguments, logged, run_and_kill, same_weights, write
from trainers.methods import sft


def answer(folder: Path, prompt: list[dict[str, str]]) -> str:
    """What the saved model says to a prompt, rendered by the saved template; <|eos|> where it stopped by itself."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt")
    said = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :]
    return str(tokenizer.decode(said))


@pytest.mark.parametrize("template", ["chatml", "dialogue"])
def test_it_learns_answers_and_where_they_end(toy: str, tmp_path: Path, template: str) -> None:
    rows = [{"instruction": f"say {word}", "output": answer} for word, answer in (("rain", "all day"), ("cat", "sat"))]
    data, out = write(tmp_path / "d.jsonl", rows), tmp_path / "out"
    keys = {"model": toy, "train": str(data), "chat_template": template, "heldout_fraction": 0, "batch": 2, "steps": 40}
    assert sft.main(arguments(out, **keys, save_every=40)) == 0
    for row in rows:
        said = answer(out / "final", [{"role": "user", "content": row["instruction"]}])
        assert said.strip() == row["output"] + "<|eos|>"
    run = json.loads((out / "run.json").read_text())
    assert run["method"] == "sft"
    assert run["layout"] == f"chat_template {template}"
    assert run["parameters"] == run["trained_parameters"] > 10_000
    assert any(name == "the data of train" for name in run["data_sha256"])
    assert (out / "curve.png").stat().st_size > 1_000
    assert list((out / "logs").iterdir())
    assert {path.suffix for path in (out / "final").iterdir()} == {".json", ".safetensors", ".jinja"}


def test_held_out_loss_falls(toy: str, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert sft.main(arguments(out, model=toy, train=str(pairs), steps=20, save_every=20)) == 0
    run = json.loads((out / "run.json").read_text())
    assert run["heldout"]["loss"] < run["heldout_before"]["loss"] - 1
    assert run["rows"] == {"train": 37, "heldout": 3, "dropped": 0}


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_killed_run_resumes_to_bitwise_the_same_weights(toy: str, pairs: Path, tmp_path: Path, rank: int) -> None:
    keys: dict[str, Any] = {"model": toy, "train": str(pairs), "steps": 30, "lora_rank": rank, "lora_dropout": 0.1}
    assert sft.main(arguments(tmp_path / "whole", **keys)) == 0
    line = arguments(tmp_path / "killed", **keys)
    run_and_kill("sft", tmp_path / "killed", line)
    (tmp_path / "killed" / "checkpoint-29").mkdir()  # what a kill while saving leaves: a checkpoint without its state
    assert sft.main(line) == 0
    assert same_weights(tmp_path / "whole" / "final", tmp_path / "killed" / "final")
    assert not same_weights(tmp_path / "whole" / "checkpoint-28", tmp_path / "killed" / "final")
    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "killed")]
    assert runs[0]["heldout"] == runs[1]["heldout"]
    assert runs[0]["heldout_before"] == runs[1]["heldout_before"]


def test_gradient_does_not_depend_on_how_a_batch_is_split(toy: str, pairs: Path, tmp_path: Path) -> None:
    norms = {}
    for micro in (4, 2, 1):
        out = tmp_path / str(micro)
        keys = {"model": toy, "train": str(pairs), "steps": 3, "micro_batch": micro, "save_every": 3}
        assert sft.main(arguments(out, **keys, heldout_fraction=0, max_grad_norm=1e9)) == 0
        norms[micro] = logged(out, "grad_norm")
    assert norms[2] == pytest.approx(norms[4], rel=1e-4)
    assert norms[1] == pytest.approx(norms[4], rel=1e-4)


def test_packed_rows_do_not_see_each_other(toy: str, pairs: Path, tmp_path: Path) -> None:
    """The held-out loss, unpacked, is the same whether the weights were learnt packed or not: with a rate of 0."""
    out = tmp_path / "out"
    keys = {"model": toy, "train": str(pairs), "steps": 2, "packing": True, "micro_batch": 1, "batch": 1}
    assert sft.main(arguments(out, **keys)) == 0
    assert max(logged(out, "num_tokens")) > 2 * 60  # two rows of 96 tokens at most, nearly full


def test_held_out_loss_counts_tokens_and_not_batches(toy: str, pairs: Path, tmp_path: Path) -> None:
    found = []
    for micro in (4, 1):
        out = tmp_path / str(micro)
        keys = {"model": toy, "train": str(pairs), "steps": 1, "micro_batch": micro, "heldout_fraction": 0.3}
        assert sft.main(arguments(out, **keys)) == 0
        found.append(json.loads((out / "run.json").read_text())["heldout_before"])
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-5)
    assert found[0]["tokens"] == found[1]["tokens"]
    assert found[0]["perplexity"] == pytest.approx(math.exp(found[0]["loss"]))


def test_packing_is_refused_where_rows_would_see_each_other() -> None:
    import torch
    from transformers import MambaConfig, MambaForCausalLM

    from trainers.data.tokens import Tokens
    from trainers.run.recipe import RecipeError

    torch.manual_seed(0)
    shape = MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, state_size=4)

    class Trainer:
        model = MambaForCausalLM(shape)

    rows = [Tokens("", [0, 5, 7], {"completion": [9, 11, 1]}), Tokens("", [0, 6], {"completion": [8, 3, 1]})]
    with pytest.raises(RecipeError, match="packed rows see each other"):
        sft.prove_packing(Trainer(), rows)


def test_an_adapter_is_saved_alone_and_names_its_base(toy: str, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert sft.main(arguments(out, model=toy, train=str(pairs), steps=2, lora_rank=4)) == 0
    config = json.loads((out / "final" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == toy
    assert not (out / "final" / "model.safetensors").exists()
    run = json.loads((out / "run.json").read_text())
    assert 0 < run["trained_parameters"] < run["parameters"]
