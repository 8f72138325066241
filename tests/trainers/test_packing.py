"""Packed pairs: by hand, and with the numbers of an unpacked batch."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.toy import arguments, history, pair_rows, write
from trainers.methods import pair
from trainers.methods.packing import pack

PAD = 9
IDS = torch.tensor([[1, 2, 3, 4, PAD], [5, 6, 7, PAD, PAD], [1, 2, 8, PAD, PAD], [5, 6, 3, 2, 1]])
ATTENTION = (IDS != PAD).long()
COMPLETION = torch.tensor([[0, 0, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 1]])


def test_a_pair_is_its_prompt_once_and_its_last_token_before_each_answer() -> None:
    rows = pack(IDS, ATTENTION, COMPLETION, "prompt", PAD)
    assert rows.ids.tolist() == [[1, 2, 3, 4, 2, 8, PAD], [5, 6, 7, 6, 3, 2, 1]]
    assert rows.positions.tolist() == [[0, 1, 2, 3, 1, 2, 0], [0, 1, 2, 1, 2, 3, 4]]
    assert rows.labels.tolist() == [[-100, -100, 3, 4, -100, 8, -100], [-100, -100, 7, -100, 3, 2, 1]]
    assert rows.tokens.tolist() == [2, 1, 1, 3]
    seen = [[at for at in range(7) if rows.mask[0, 0, token, at]] for token in range(6)]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 4], [0, 4, 5]]
    assert rows.sums(torch.arange(6.0).expand(2, 6)).tolist() == [1 + 2, 1, 4, 3 + 4 + 5]


def test_a_sequence_holds_all_pairs_and_none_sees_another() -> None:
    whole = pack(IDS, ATTENTION, COMPLETION, "sequence", PAD)
    assert whole.ids.shape == (1, 13)
    assert whole.positions[0].tolist() == [0, 1, 2, 3, 1, 2, 0, 1, 2, 1, 2, 3, 4]
    assert not whole.mask[0, 0, 6:, :6].any()
    assert whole.mask[0, 0].diagonal().all()
    assert whole.tokens.tolist() == [2, 1, 1, 3]


@pytest.mark.parametrize(("loss", "rank"), [("dpo", 0), ("orpo", 2)])
def test_packed_training_is_unpacked_training(toy: str, tmp_path: Path, loss: str, rank: int) -> None:
    """Losses, rewards and gradients of four steps, to 1e-5, however the pairs are packed."""
    data = write(tmp_path / "d.jsonl", pair_rows(24))
    found: dict[str, Any] = {}
    for packing in ("none", "prompt", "sequence"):
        out = tmp_path / packing
        keys: dict[str, Any] = {"model": toy, "train": str(data), "steps": 4, "loss": loss, "lora_rank": rank}
        keys |= {"packing": packing, "heldout_fraction": 0, "logging_every": 1, "max_grad_norm": 1e9}
        assert pair.main(arguments(out, **keys, batch=8, micro_batch=4)) == 0
        steps = [row for row in history(out) if "grad_norm" in row]
        assert len(steps) == 4
        found[packing] = [[row[name] for name in ("loss", "grad_norm", "rewards/margins")] for row in steps]
    for packing in ("prompt", "sequence"):
        for packed, plain in zip(found[packing], found["none"], strict=True):
            assert packed == pytest.approx(plain, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"packing": "tight"}, "'packing' must be one of none, prompt, sequence"),
        ({"packing": "prompt", "loss": "aot"}, "loss aot is TRL's and cannot be packed"),
    ],
)
def test_a_packing_that_cannot_be_meant_is_refused(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, Any], message: str
) -> None:
    assert pair.main(arguments(tmp_path / "out", model=toy, train=str(pairs), **keys)) == 2
    assert message in capsys.readouterr().err


def test_a_model_with_a_routers_loss_is_refused(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(toy, tmp_path / "routed"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"output_router_logits": True, "router_aux_loss_coef": 0.1}))
    line = arguments(tmp_path / "out", model=str(model), train=str(pairs), packing="prompt", loss="dpo")
    assert pair.main(line) == 2
    assert "packing does not compute a router's auxiliary loss" in capsys.readouterr().err


@pytest.mark.parametrize("bf16", [False, True])
def test_a_model_whose_attention_has_a_window_is_refused_in_either_precision(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], bf16: bool
) -> None:
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(toy)
    shape = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=3, initializer_range=0.5, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    MistralForCausalLM(shape).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    keys: dict[str, Any] = {"model": str(tmp_path / "model"), "train": str(pairs), "steps": 1, "heldout_fraction": 0}
    assert pair.main(arguments(tmp_path / "full", **keys, packing="prompt", bf16=bf16, lora_rank=2)) == 2
    assert "its attention has a window, a state, or takes no mask" in " ".join(capsys.readouterr().err.split())
    assert pair.main(arguments(tmp_path / "plain", **keys, bf16=bf16, lora_rank=2)) == 0
