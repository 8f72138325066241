"""`trimtab train ppo` on networks that FSDP2 cuts into pieces: the same as whole ones, and a killed run resumes."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.trainers.ppo_kills import after_a_checkpoint, together
from tests.trainers.test_ppo import keys, run_of
from tests.trainers.toy import arguments, same_weights
from trainers.ppo import shards
from trainers.run.recipe import RecipeError

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
FILES = {"full": "model.safetensors", "lora": "adapter_model.safetensors", "trunk": "adapter_model.safetensors"}
MORE: dict[str, dict[str, Any]] = {
    "full": {"ema": 0.9, "max_grad_norm": 0.5},
    "lora": {"lora_rank": 2, "gradient_checkpointing": True},
    "trunk": {"lora_rank": 2, "shared_trunk": True, "stop_gradient": False},
}


@pytest.fixture(scope="module", params=list(MORE))
def runs(request: pytest.FixtureRequest, toy: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A run of two processes with pieces, with LoRA another that died after a checkpoint; a run by itself.

    The two held-out prompts are all of the first process.
    """
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    given = keys(toy, folder, steps=2, save_every=1, minibatch=8, whiten_rewards="running", threads=1, **MORE[name])
    parts = [("pieces", None, 0), ("killed", after_a_checkpoint, -9), ("killed", None, 0)]
    for out, place, status in parts if name == "lora" else parts[:1]:
        places = {} if place is None else {"place": place}
        log = folder / f"{out}.log"
        for _ in range(2):
            found = together(arguments(folder / out, **given), log, **places, **FSDP2)  # type: ignore[arg-type]
            if -signal.SIGABRT not in found:  # once glibc found a process's heap damaged: a user goes on, too
                break
        assert found == [status, status], log.with_suffix(".0").read_text()[-3000:]
    run_of(folder / "whole", **given)
    return name, folder


@pytest.mark.slow
def test_pieces_learn_what_whole_networks_learn(runs: tuple[str, Path]) -> None:
    name, folder = runs
    whole, pieces = (json.loads((folder / out / "run.json").read_text()) for out in ("whole", "pieces"))
    assert (whole["processes"], pieces["processes"], whole["fsdp2"], pieces["fsdp2"]) == (1, 2, False, True)
    for left, right in zip(whole["log"], pieces["log"], strict=True):
        for key in left.keys() & {"score", "loss", "grad_norm", "value_loss", "critic_grad_norm", "kl", "entropy"}:
            assert right[key] == pytest.approx(left[key], rel=1e-4, abs=1e-6), key
    assert pieces["heldout"]["score"] == pytest.approx(whole["heldout"]["score"])
    for part in ("final", "ema") if name == "full" else ("final",):
        one, two = (load_file(folder / out / part / FILES[name]) for out in ("whole", "pieces"))
        assert one.keys() == two.keys()
        assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-4
    assert (folder / "pieces" / "critic").exists() == (name != "trunk")


@pytest.mark.slow
def test_a_killed_run_of_pieces_ends_in_bitwise_the_same_weights(runs: tuple[str, Path]) -> None:
    name, folder = runs
    if name != "lora":
        pytest.skip("the run with LoRA is killed")
    for part in ("final", "critic"):
        assert same_weights(folder / "pieces" / part, folder / "killed" / part)


@pytest.mark.parametrize(
    ("environment", "words"),
    [({"FSDP_VERSION": "1"}, "FSDP2 only"), ({"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params")],
)
def test_what_cannot_be_cut_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: str
) -> None:
    for key, value in (FSDP2 | environment).items():
        monkeypatch.setenv(key, value)
    with pytest.raises(RecipeError, match=words):
        shards.asked_for()
