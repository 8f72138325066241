"""`trimtab train bpo` on a toy, with a critic on a real socket: every stage, its filters, and going on after a stop."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prompt_opt.rewriter.template import BPO, Candidate
from tests.trainers.scripted_critic import ScriptedCritic, marked, parts
from tests.trainers.toy import arguments, write
from trainers import command
from trainers.ask.engine import Answer
from trainers.bpo import method, rewrites, samples
from trainers.bpo.dpo import best_and_worst
from trainers.bpo.rewrites import Dropped, Pair, rewrite_of
from trainers.data.jsonl import DataError

BREAD = Pair("here", "train", "Write 3 tips about bread.", "", "good", "bad")
FINE = "Write 3 tips about bread, and say why each of them works."


def say(asked: str) -> str:
    """The scripted critic: marks an edit by its length, leaves prompts alone that say please, adds to the others."""
    texts = parts(asked)
    if "The edited version:" in asked:
        return f"[SCORE] {1 + len(texts[1]) % 9}"
    if texts[0].endswith("please."):
        return marked(texts[0])
    return "no mark" if texts[0].startswith("Tell me 4:") else marked(texts[0] + " Give reasons.")


@pytest.fixture
def critic() -> Iterator[ScriptedCritic]:
    with ScriptedCritic(say) as it:
        yield it


def pair_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"prompt": f"Tell me {i}: is the cat on the mat?" + " Answer, please." * (i % 3 == 0), "chosen": "It is.",
         "rejected": "No."} for i in range(20)
    ]  # fmt: skip
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    rows.append({"prompt": turns, "chosen": "It is.", "rejected": "No."})
    text = "The cat sat on the mat. Rain fell all day."
    rows.append({"prompt": "Sum it up.", "context": text, "chosen": "It rained.", "rejected": "A dog ran off."})
    return rows


def keys(toy: str, tmp_path: Path, critic: ScriptedCritic, **more: Any) -> dict[str, Any]:
    train = write(tmp_path / "pairs.jsonl", pair_rows())
    return {
        "model": toy, "train": str(train), "heldout_fraction": 0.3, "critic_url": critic.url, "critic_model": "judge",
        "max_length": 256, "max_new_tokens": 8, "report_to": [], "eval_every": 100, "save_every": 100,
    } | more  # fmt: skip


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# ---------------------------------------------------------------- the filters


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("no mark at all"), "no mark"),
        (Answer("[REWRITE]\nWrite", "length"), "cut off"),
        (Answer("", "refused", "400: too long"), "refused"),
        (Answer(marked("Tips.")), "too short"),
        (Answer(marked(FINE + " and so on" * 20)), "too long"),
        (Answer(marked("Write 3 tips about [protected] bread.")), "protected"),
        (Answer(marked("Write 5 tips about bread, and say why.")), "gate: number"),
        (Answer(marked("Sure! Here are 3 tips about bread: freeze it.")), "gate: answered"),
    ],
)
def test_a_pair_is_dropped_for_a_reason(answer: Answer, reason: str) -> None:
    with pytest.raises(Dropped) as caught:
        rewrite_of(BREAD, answer)
    assert caught.value.reason == reason


def test_what_the_gate_says_can_be_left_out_and_prompts_that_stay_are_kept() -> None:
    assert rewrite_of(BREAD, Answer(marked(FINE))) == FINE
    other = "Write 5 tips about bread, and say why."
    assert rewrite_of(BREAD, Answer(marked(other)), gate=False) == other
    assert rewrite_of(BREAD, Answer(marked(BREAD.instruction))) == BREAD.instruction
    with pytest.raises(Dropped, match="unchanged"):
        rewrite_of(BREAD, Answer(marked(BREAD.instruction)), keep_unchanged=False)


def test_a_context_stands_in_the_same_place_in_both() -> None:
    pair = Pair("here", "train", "Sum it up in 2 lines.", "It rained.\nA dog ran off.", "good", "bad")
    rewrite = rewrite_of(pair, Answer(marked("Sum it up in 2 lines, plainly.")))
    assert rewrite == pair.prompt.replace("2 lines.", "2 lines, plainly.")
    assert pair.context in rewrite


def test_a_held_out_prompt_that_is_trained_on_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", pair_rows())
    recipe = method.Recipe(model="m", train=str(path), heldout=str(path), critic_url="http://x", critic_model="y")
    with pytest.raises(DataError, match=r"22 held-out prompts are trained on as well \(the first: .*line 1\)"):
        rewrites.read_pairs(recipe)


# ---------------------------------------------------------------- the whole


def test_the_chain_learns_the_template_goes_on_and_reports(
    toy: str, tmp_path: Path, critic: ScriptedCritic, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    line = arguments(out, **keys(toy, tmp_path, critic))
    assert command.main(["bpo", *line]) == 0
    run = json.loads((out / "run.json").read_text())
    assert len(critic.requests) == 21  # the dialogue is not asked about
    counts = run["data"]["counts"]
    assert counts["pairs"] == 22
    assert counts["dropped"] == {"dialogue": 1, "no mark": 1}
    assert counts["unchanged"] == 7
    assert sum(counts["kept"].values()) == 20
    learnt, kept = rows_of(out / "sft_train.jsonl"), rewrites.read_rewrites(out, "train")
    assert [row["prompt"] for row in learnt] == [BPO.text(row["prompt"]) for row in kept]
    assert [row["completion"] for row in learnt] == [row["rewrite"] for row in kept]
    assert run["heldout"]["prompts"] == counts["kept"]["heldout"] == len(rows_of(out / "report.jsonl"))
    assert run["heldout"]["constant_suffix"] == " Give reasons."
    assert run["heldout"]["constant_suffix_exact_match"] > 0.4
    assert (out / "final" / "model.safetensors").is_file()

    critic.clear()
    before = (out / "sft" / "run.json").stat().st_mtime_ns
    assert command.main(["bpo", *line]) == 0
    assert critic.requests == []
    assert (out / "sft" / "run.json").stat().st_mtime_ns == before
    assert "is finished" in capsys.readouterr().err


def test_the_loss_counts_the_rewrite_and_one_end_only(toy: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from trainers.data.tokens import encode

    tokenizer = AutoTokenizer.from_pretrained(toy)
    example = method.example({"prompt": "Why <|eos|>?", "rewrite": "Why <|eos|>? Say."}, frozenset({"<|eos|>"}))
    row = encode({"place": "here", **example}, tokenizer)
    ids = row.whole("completion")
    assert ids[: len(row.prompt)] == tokenizer(BPO.text("Why <\\|eos|>?"))["input_ids"]
    assert row.learned == [0] * len(row.prompt) + [1] * len(row.answers["completion"])
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id


def test_judged_samples_become_pairs_and_dpo(
    toy: str, tmp_path: Path, critic: ScriptedCritic, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    more = {"judged_prompts": 6, "judged_samples": 3, "lora_rank": 4}
    line = arguments(out, **keys(toy, tmp_path, critic, **more))
    assert command.main(["bpo", *line]) == 0
    run = json.loads((out / "run.json").read_text())
    assert run["last"] == "sft"
    assert run["judged"]["samples"] == run["judged"]["rejected_by_the_gate"] > 12
    assert run["judged"]["pairs"] == 0
    assert "stays as SFT left it" in capsys.readouterr().err

    # Samples are kept: what a better rewriter than a toy would have written is marked instead.
    head, *samples = rows_of(out / "samples.jsonl")
    better = [sample | {"said": sample["prompt"] + " Why?" * n, "rule": ""} for n, sample in enumerate(samples)]
    write(out / "samples.jsonl", [head, *better])
    (out / "judged.json").unlink()
    critic.clear()
    assert command.main(["bpo", *line]) == 0
    assert len(critic.requests) == len(better)
    run = json.loads((out / "run.json").read_text())
    assert (run["last"], run["judged"]["pairs"]) == ("dpo", 6)
    pairs = rows_of(out / "dpo_train.jsonl")
    assert all(row["prompt"].startswith(BPO.before) for row in pairs)
    assert all(row["score_chosen"] - row["score_rejected"] >= 1 for row in pairs)
    adapter = json.loads((out / "final" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"].endswith("sft/merged")
    critic.clear()
    assert command.main(["bpo", *line]) == 0
    assert critic.requests == []


def test_a_critic_that_fails_ends_the_run_with_what_to_do(
    toy: str, tmp_path: Path, critic: ScriptedCritic, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    critic.failures = [401] * 30
    assert command.main(["bpo", *arguments(out, **keys(toy, tmp_path, critic))]) == 2
    said = capsys.readouterr().err
    assert "refuses a request without a key" in said
    assert "run the same command again to resume" in said
    wrong = keys(toy, tmp_path, critic, critic_key_env="NO_SUCH_KEY")
    assert command.main(["bpo", *arguments(out, **wrong)]) == 2
    assert "the environment has no NO_SUCH_KEY" in capsys.readouterr().err


def test_filters_that_leave_nothing_are_named(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedCritic(lambda asked: "I would rather not.") as silent:
        assert command.main(["bpo", *arguments(tmp_path / "run", **keys(toy, tmp_path, silent))]) == 2
    assert "left no rewrite to learn from (most: [('no mark'," in capsys.readouterr().err


# ---------------------------------------------------------------- marks and the report


def test_the_best_is_preferred_to_the_worst_if_they_are_far_enough_apart() -> None:
    assert best_and_worst([(5.0, "a"), (8.0, "long one"), (8.0, "b"), (2.0, "c")], 1.0) == [((8.0, "b"), (2.0, "c"))]
    assert best_and_worst([(5.0, "a"), (5.5, "b")], 1.0) == []
    assert best_and_worst([(5.0, "a")], 0.0) == []
    assert best_and_worst([(5.0, "a"), (5.0, "b")], 0.0) == []


def test_the_report_counts_what_the_server_would_send(tmp_path: Path) -> None:
    class Scripted:
        def write(self, prompts: list[str], what: str) -> Iterator[list[Candidate]]:
            yield [Candidate("Say 1 why. Fully.")]
            yield [Candidate("Say 2 why.")]
            yield [Candidate("Say 9 why. Fully.")]  # the gate sees another number
            yield [Candidate("Say 4 why. Fu", complete=False)]

    held = [
        {"prompt": f"Say {i} why.", "rewrite": f"Say {i} why." + (" Fully." if i != 2 else "")} for i in (1, 2, 3, 4)
    ]
    train = [{"prompt": f"Say {i}.", "rewrite": f"Say {i}." + (" Fully." if i > 6 else "")} for i in range(10, 0, -1)]
    said = samples.report(Scripted(), train, held, tmp_path)  # type: ignore[arg-type]
    assert said["exact_match"] == said["served_match"] == 0.5
    assert (said["already_good"], said["already_good_left_alone"]) == (1, 1.0)
    assert said["to_improve_exact_match"] == pytest.approx(1 / 3)
    assert said["gate"] == {"accepted": 1, "unchanged": 1, "number": 1, "truncated": 1}
    assert (said["constant_suffix"], said["constant_suffix_exact_match"]) == ("", 0.25)
    low, high = said["exact_match_95"]
    assert (round(low, 3), round(high, 3)) == (0.15, 0.85)
