"""RAHF: nothing to learn at strength 0, hidden states that move where they should, and steering by hooks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.toy import arguments, logged, pair_rows, write
from trainers import command
from trainers.export import release
from trainers.methods import rahf
from trainers.methods.steering import chosen_layers, decoder_layers, read_steering, steered
from trainers.run.recipe import RecipeError
from trainers.run.weights import load_trained

AFFIXES = {"affix_good": "well: {prompt}", "affix_bad": "badly: {prompt}"}


def keys(toy: str, tmp_path: Path, **more: Any) -> dict[str, Any]:
    data = write(tmp_path / "d.jsonl", pair_rows(24))
    return {"model": toy, "train": str(data), "lora_rank": 4, "heldout_fraction": 0.2, "steps": 6, **AFFIXES} | more


def test_strength_0_leaves_nothing_to_learn(toy: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = arguments(out, **keys(toy, tmp_path, strength=0.0, steps=1, logging_every=1))
    assert command.main(["rahf", *line]) == 0
    run = json.loads((out / "run.json").read_text())
    assert run["heldout_before"]["loss"] == 0
    assert logged(out, "loss") == [0]
    assert all(not vector.any() for vector in read_steering(out / "steering.safetensors").values())


def test_hidden_states_move_towards_the_sum_and_the_run_can_be_exported(toy: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = arguments(out, **keys(toy, tmp_path, steps=30, learning_rate=1e-2, layers=[2]))
    assert command.main(["rahf", *line]) == 0
    run = json.loads((out / "run.json").read_text())
    assert len((out / "contrast.jsonl").read_text().splitlines()) == 2 * run["rows"]["train"]  # none of the held out
    assert run["layers"] == [2]
    assert run["heldout_before"]["loss"] > 0
    assert run["heldout"]["loss"] < 0.8 * run["heldout_before"]["loss"]
    assert release.main(["--run", str(out), "--out", str(tmp_path / "mine")]) == 0


def test_a_steering_vector_moves_its_layer_while_the_hook_is_there(toy: str) -> None:
    model = load_trained(Path(toy))
    ids = torch.tensor([[5, 6, 7]])
    vector = torch.arange(model.config.hidden_size, dtype=torch.float32)

    def states() -> tuple[torch.Tensor, torch.Tensor]:
        """What the second layer is given, and the logits."""
        given: list[torch.Tensor] = []
        handle = decoder_layers(model)[1].register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
        with torch.no_grad():
            logits = model(input_ids=ids).logits
        handle.remove()
        return given[0], logits

    plain = states()
    with steered(model, {1: vector}, strength=0.5):
        moved = states()
    torch.testing.assert_close(moved[0], plain[0] + 0.5 * vector)
    assert not torch.equal(moved[1], plain[1])
    assert all(torch.equal(one, two) for one, two in zip(states(), plain, strict=True))


def test_what_cannot_be_meant_is_refused(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RecipeError, match="layers: 9 is none of this model's"):
        chosen_layers(toy, [9])
    for more, message in (({"lora_rank": 0}, "set lora_rank"), ({"affix_bad": "x"}, "affix_bad must have {prompt}")):
        assert rahf.main(arguments(tmp_path / "out", **keys(toy, tmp_path, **more))) == 2
        assert message in capsys.readouterr().err
