"""Rounds on a toy: samples, scores and what they are kept as, every selector, engines, and going on after a kill."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.evaluation.scripted_judge import marked
from tests.trainers.scripted_critic import ScriptedCritic, parts
from tests.trainers.seeded_engine import TEXTS, SeededEngine
from tests.trainers.toy import arguments, build_toy, kill_when, pair_rows, same_weights, write
from trainers import command
from trainers.ask.engine import Engine, EngineError
from trainers.data.jsonl import DataError
from trainers.data.tokens import encode_prompt
from trainers.export import release
from trainers.judge.aspects import ASPECTS
from trainers.methods import reward, sft
from trainers.rounds import iteration
from trainers.rounds.engine_process import running
from trainers.rounds.generator import Generator
from trainers.rounds.remote import Remote
from trainers.rounds.sample import Sample
from trainers.rounds.score import MarksScorer, PairsScorer, RewardScorer, RuleScorer, of_engine
from trainers.rounds.selectors import SELECTORS
from trainers.run.keys import Common
from trainers.run.model import load
from trainers.run.recipe import RecipeError

RUN = [name for name, row in SELECTORS.items() if not row.scorer]  # Self-Rewarding has a test of its own
PROMPTS = [f"say {i}\n" for i in range(12)]
RULE = "def rain(prompt, answer):\n    return answer.count('rain') + 0.1 * ('fell' in answer)\n"


@pytest.fixture(scope="session")
def speaker(tmp_path_factory: pytest.TempPathFactory, frozen_libraries: None) -> str:
    """A toy that has learnt three short answers, so that its samples end and differ."""
    folder = tmp_path_factory.mktemp("speaker")
    rows = [{"prompt": f"say {i}\n", "completion": TEXTS[i % 3]} for i in range(48)]
    data = write(folder / "d.jsonl", rows)
    keys = {"model": build_toy(folder / "toy"), "train": str(data), "steps": 80, "heldout_fraction": 0, "batch": 8}
    keys |= {"micro_batch": 8, "report_to": [], "save_every": 80, "logging_every": 40}
    assert sft.main(arguments(folder / "run", **keys)) == 0
    return str(folder / "run" / "final")


@pytest.fixture
def rule(tmp_path: Path) -> str:
    (tmp_path / "rule.py").write_text(RULE)
    return f"{tmp_path / 'rule.py'}:rain"


def keys(speaker: str, tmp_path: Path, rule: str, **more: Any) -> dict[str, Any]:
    rows = [{"prompt": prompt, "completion": TEXTS[0]} for prompt in PROMPTS]
    data = write(tmp_path / "prompts.jsonl", rows)
    return {
        "model": speaker, "train": str(data), "heldout_fraction": 0.3, "rounds": 2, "samples": 4, "max_new_tokens": 10,
        "scorer": "rule", "rule": rule, "steps": 3, "report_to": [], "save_every": 100, "eval_every": 100,
    } | more  # fmt: skip


def generator(speaker: str, batch: int = 4) -> Generator:
    tokenizer = load(Common(model=speaker, train="")).tokenizer
    return Generator(Path(speaker), tokenizer, "r", temperature=1.0, top_p=1.0, max_new_tokens=10, batch=batch)


# ---------------------------------------------------------------- samples


def test_samples_are_the_same_however_the_run_was_cut_and_carry_tokens_and_log_probabilities(
    speaker: str, tmp_path: Path
) -> None:
    made = generator(speaker)
    whole = made.sample(PROMPTS, 3, 7, tmp_path / "a")
    assert made.sample(PROMPTS, 3, 7, tmp_path / "b") == whole
    assert made.sample(PROMPTS, 3, 8, tmp_path / "c") != whole
    path = tmp_path / "b" / "samples.jsonl"
    path.write_bytes(path.read_bytes()[:-40])  # a kill in the middle of a line, and of a batch
    assert made.sample(PROMPTS, 3, 7, tmp_path / "b") == whole
    tokenizer, model = made.tokenizer, made.model
    for sample in [sample for group in whole for sample in group][:6]:
        prompt = encode_prompt(PROMPTS[sample.prompt], tokenizer)
        ids = torch.tensor([prompt + list(sample.token_ids)])
        with torch.no_grad():
            logps = model(ids).logits[0].log_softmax(-1)
        by_hand = [logps[at - 1, ids[0, at]].item() for at in range(len(prompt), ids.shape[1])]
        assert sample.logprobs == pytest.approx(by_hand, abs=1e-4)
        assert (sample.finish == "stop") == (sample.token_ids[-1] == tokenizer.eos_token_id)
        assert tokenizer.decode(sample.token_ids, skip_special_tokens=True) == sample.text


def test_samples_follow_the_models_own_distribution(speaker: str, tmp_path: Path) -> None:
    """The first token's frequencies of 400 samples against the model's probabilities: χ² over the likely ones."""
    made = generator(speaker, batch=1)
    [samples] = made.sample(PROMPTS[:1], 400, 1, tmp_path)
    ids = torch.tensor([encode_prompt(PROMPTS[0], made.tokenizer)])
    with torch.no_grad():
        chances = made.model(ids).logits[0, -1].softmax(-1)
    likely = [at for at in range(len(chances)) if chances[at] > 0.02]
    counts = [sum(sample.token_ids[0] == at for sample in samples) for at in likely]
    rest, chance = 400 - sum(counts), 1 - float(chances[likely].sum())
    expected = [400 * float(chances[at]) for at in likely]
    square = sum((n - e) ** 2 / e for n, e in zip(counts, expected, strict=True))
    square += (rest - 400 * chance) ** 2 / max(400 * chance, 1)
    assert square < {1: 10.8, 2: 13.8, 3: 16.3, 4: 18.5, 5: 20.5}.get(len(likely), 30.0)


def test_an_engine_is_asked_for_each_sample_once_with_a_seed_of_its_own(tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": "hi"}]] * 3  # equal prompts are different samples
    with SeededEngine() as engine:
        remote = Remote(Engine(engine.url, "actor"), "r", details=True)
        found = remote.sample(chats, 4, 5, tmp_path)
        assert remote.sample(chats, 4, 5, tmp_path) == found
        seeds = [body["seed"] for _, body in engine.requests]
        assert len(set(seeds)) == len(seeds) == 12
        assert {path for path, _ in engine.requests} == {"/v1/chat/completions"}
        plain = Remote(Engine(engine.url, "actor"), "r").sample(["hi"], 2, 5, tmp_path / "plain")
        assert engine.requests[-1][0] == "/v1/completions"
        assert "logprobs" not in engine.requests[-1][1]
    first = found[0][0]
    assert first.token_ids == tuple(len(word) for word in first.text.split())
    assert first.logprobs == tuple(-float(len(word)) for word in first.text.split())
    assert {sample.text for group in found for sample in group} <= set(TEXTS)
    assert plain[0][0].token_ids == ()


def test_an_engine_is_started_on_a_folder_and_ends_with_the_round(tmp_path: Path) -> None:
    line = f"{sys.executable} -m tests.trainers.seeded_engine {{model}} {{port}}"
    with running(line, tmp_path, tmp_path / "log", 60) as (url, name):
        assert name == str(tmp_path)
        assert Remote(Engine(url, name), "r").sample(["hi"], 1, 0, tmp_path)[0][0].text in TEXTS
    with pytest.raises(EngineError, match="cannot be reached"):
        Remote(Engine(url, name, retries=0), "r").sample(["hi", "you"], 1, 0, tmp_path / "more")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no-such-engine {port}", "engine_command cannot be started"),
        (f"{sys.executable} -c pass", "ended with status 0 before it answered; see"),
    ],
)
def test_an_engine_that_does_not_start_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(EngineError, match=message), running(line, tmp_path, tmp_path / "log", 30):
        pass


# ---------------------------------------------------------------- scores


def texts(*groups: tuple[str, ...]) -> list[list[Sample]]:
    return [[Sample(at, i, text) for i, text in enumerate(group)] for at, group in enumerate(groups)]


def test_a_rule_scores_and_what_is_no_number_is_refused(tmp_path: Path, rule: str) -> None:
    assert RuleScorer(rule).score(["a"], texts(("rain fell", "day")), tmp_path) == [[1.1, 0.0]]
    for name, body in (("nan", "float('nan')"), ("text", "'1'"), ("yes", "True")):
        (tmp_path / f"{name}.py").write_text(f"def f(prompt, answer):\n    return {body}\n")
        with pytest.raises(RecipeError, match="for sample 0/0, which is no finite number"):
            RuleScorer(f"{tmp_path / name}.py:f").score(["a"], texts(("b",)), tmp_path / name)
    for wrong, message in (("x", "must be FILE.py:FUNCTION"), ("x.py:f", "no such file"), (f"{rule}y", "no function")):
        with pytest.raises(RecipeError, match=message):
            RuleScorer(wrong)


def test_what_is_no_reward_model_is_named_before_anything_is_sampled(toy: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, why in ((tmp_path / "none", "no such folder"), (tmp_path / "empty", "cannot be loaded"),
                        (Path(toy), "a language model")):  # fmt: skip
        with pytest.raises(RecipeError, match=f"reward_model {folder}: {why}"):
            RewardScorer(folder)


def test_a_reward_run_scores_at_the_end_token(toy: str, pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "reward"
    assert reward.main(arguments(run, model=toy, train=str(pairs), heldout_fraction=0, steps=2)) == 0
    scorer = RewardScorer(run / "final")
    found = scorer.score(["say 1\n"], texts(("rain fell", "the cat sat")), tmp_path / "scores")
    tokenizer = scorer.tokenizer
    for text, score in zip(("rain fell", "the cat sat"), found[0], strict=True):
        ids = torch.tensor([[*tokenizer("say 1\n" + text)["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            assert score == pytest.approx(scorer.model(ids).logits[0, 0].item(), abs=1e-5)
    kept = (tmp_path / "scores" / "scores.jsonl").read_text()
    assert scorer.score(["say 1\n"], texts(("rain fell", "the cat sat")), tmp_path / "scores") == found
    assert (tmp_path / "scores" / "scores.jsonl").read_text() == kept


def test_a_judge_marks_answers_or_compares_them(tmp_path: Path) -> None:
    def marks(asked: str) -> str:
        answer = parts(asked)[-1]
        return "no idea" if answer == "blank" else json.dumps(dict.fromkeys(ASPECTS, min(5, len(answer))))

    with ScriptedCritic(marks) as judge:
        found = MarksScorer(of_engine(Engine(judge.url, "judge"))).score(
            ["q"], texts(("abcd", "ab", "blank")), tmp_path / "m"
        )
    assert found == [[4.0, 2.0, None]]

    def longer(asked: str) -> str:
        one, two = parts(asked)[-2:]
        return marked("tie" if len(one) == len(two) else "A" if len(one) > len(two) else "B")

    with ScriptedCritic(longer) as judge:
        found = PairsScorer(Engine(judge.url, "judge"), 0).score(["q"], texts(("abc", "a", "xyz")), tmp_path / "p")
    assert found == [[0.75, 0.0, 0.75]]


# ---------------------------------------------------------------- the loop


def test_raft_raises_the_score_and_leaves_a_run_that_can_be_exported(
    speaker: str, tmp_path: Path, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    line = arguments(out, **keys(speaker, tmp_path, rule, heldout_samples=8, steps=8))
    assert command.main(["raft", *line]) == 0
    said = capsys.readouterr().err
    run = json.loads((out / "run.json").read_text())
    assert run["heldout"]["score"] > run["heldout_before"]["score"] + 0.2
    assert [found["method"] for found in run["rounds"]] == ["sft", "sft"]
    assert run["rounds"][0]["actor"] != run["rounds"][1]["actor"]
    assert run["rounds"][0]["samples"] == 4 * run["rounds"][0]["prompts"]
    assert "round 2 of 2: " in said
    assert f"score {run['heldout_before']['score']:.4g} → {run['heldout']['score']:.4g}" in said
    assert release.main(["--run", str(out), "--out", str(tmp_path / "mine")]) == 0
    # The finished run is not done again; one round more goes on from it.
    before = (out / "round-0" / "train" / "run.json").stat().st_mtime_ns
    assert command.main(["raft", *line, "--set", "rounds=3"]) == 0
    assert (out / "round-0" / "train" / "run.json").stat().st_mtime_ns == before
    assert len(json.loads((out / "rounds.json").read_text())) == 3
    assert command.main(["raft", *line, "--set", "samples=5"]) == 2
    assert "holds rounds with other values of samples" in capsys.readouterr().err


def test_the_recipes_threads_hold_from_the_first_sample_on(speaker: str, tmp_path: Path) -> None:
    """Or a run that is killed while it samples a later round would sample with others than the run that was not."""
    (tmp_path / "rule.py").write_text(
        "import torch\n\ndef threads(prompt, answer):\n    return torch.get_num_threads()\n"
    )
    torch.set_num_threads(2)
    line = arguments(
        tmp_path / "run", **keys(speaker, tmp_path, f"{tmp_path / 'rule.py'}:threads", rounds=1, threads=1)
    )
    assert command.main(["raft", *line]) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["heldout_before"]["score"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("selector", "rank"), [(name, 2 * (at % 2)) for at, name in enumerate(RUN)])
def test_every_selector_runs_three_rounds(speaker: str, tmp_path: Path, rule: str, selector: str, rank: int) -> None:
    out = tmp_path / "run"
    more = {"rounds": 3, "lora_rank": rank, "keep": 4, "score_beta": 5.0, "learning_rate": 1e-3, "agreement": 0.3}
    more |= {"affix_good": "{prompt}", "affix_bad": "{prompt}"} if SELECTORS[selector].affixes else {}
    if selector == "critic":
        flawed = [{"prompt": prompt, "completion": '"say" is wrong'} for prompt in PROMPTS]
        more["train"] = str(write(tmp_path / "flawed.jsonl", flawed))
    assert command.main([selector, *arguments(out, **keys(speaker, tmp_path, rule, **more))]) == 0
    run = json.loads((out / "run.json").read_text())
    assert run["selector"]["name"] == selector
    assert len(run["rounds"]) == 3
    assert all(found["rows"] > 0 for found in run["rounds"])
    assert release.main(["--run", str(out), "--out", str(tmp_path / "mine")]) == 0


def kill_at(line: list[str], there: Path, lines: int = 0) -> None:
    """Run the rounds in a process of their own, and kill -9 it as soon as the file is there, with that many lines."""

    def reached() -> bool:
        return there.exists() and there.read_bytes().count(b"\n") >= lines

    kill_when("trainers.rounds.iteration", line, Path(line[3] + ".log"), reached)


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["rso_sampled"])  # which also draws by chance
def test_rounds_that_are_killed_anywhere_come_to_the_same_weights(
    speaker: str, tmp_path: Path, rule: str, selector: str
) -> None:
    more = {"selector": selector, "steps": 6, "save_every": 2, "keep": 4, "score_beta": 5.0}
    assert iteration.main(arguments(tmp_path / "whole", **keys(speaker, tmp_path, rule, **more))) == 0
    out = tmp_path / "killed"
    line = arguments(out, **keys(speaker, tmp_path, rule, **more))
    kill_at(line, out / "round-0" / "samples.jsonl", lines=9)
    kill_at(line, out / "round-0" / "train" / "checkpoint-2" / "trainer_state.json")
    kill_at(line, out / "round-1" / "samples.jsonl", lines=5)
    assert iteration.main(line) == 0
    assert same_weights(tmp_path / "whole" / "final", out / "final")
    whole, killed = (json.loads((folder / "rounds.json").read_text()) for folder in (tmp_path / "whole", out))
    assert whole == killed


def test_self_rewarding_learns_what_its_own_marks_prefer(speaker: str, tmp_path: Path, rule: str) -> None:
    """A planted judge gives the planted pairs, and judge and policy are one model."""
    out = tmp_path / "run"
    with SeededEngine() as engine:
        more = {"sampler": "url", "engine_url": engine.url, "engine_model": "actor", "lora_rank": 2, "start": "base"}
        more |= {"selector": "self_rewarding", "scorer": "self_marks"}
        assert iteration.main(arguments(out, **keys(speaker, tmp_path, rule, **more))) == 0
        asked = [body for path, body in engine.requests if path != "/v1/load_lora_adapter"]
    for number, model in enumerate(("actor", "run-round-1")):
        rows = [json.loads(line) for line in (out / f"round-{number}" / "rows.jsonl").read_text().splitlines()]
        assert {row["chosen"] for row in rows} == {TEXTS[0]}
        assert {row["rejected"] for row in rows} <= set(TEXTS[1:])
        assert {"seed" in body for body in asked if body["model"] == model} == {True, False}  # policy and judge


def test_the_actor_in_this_process_can_be_its_own_judge(speaker: str, tmp_path: Path) -> None:
    made = generator(speaker)
    questions = {"a": [{"role": "user", "content": "say 1"}]}
    found = made.ask(questions, tmp_path / "marks.jsonl")
    assert found["a"].text in TEXTS
    assert made.ask(questions, tmp_path / "marks.jsonl") == found


def test_rlcd_samples_both_variants_and_learns_under_the_prompt_itself(speaker: str, tmp_path: Path, rule: str) -> None:
    out = tmp_path / "run"
    with SeededEngine() as engine:
        more = {"sampler": "url", "engine_url": engine.url, "engine_model": "actor", "rounds": 1, "scorer": "none"}
        more |= {"selector": "rlcd", "affix_good": "Well: {prompt}", "affix_bad": "Badly: {prompt}"}
        assert iteration.main(arguments(out, **keys(speaker, tmp_path, rule, **more))) == 0
        asked = [body["prompt"] for _, body in engine.requests]
    assert {prompt.partition(": ")[0] for prompt in asked} == {"Well", "Badly"}
    rows = [json.loads(line) for line in (out / "round-0" / "rows.jsonl").read_text().splitlines()]
    assert rows
    assert {row["prompt"] for row in rows} <= set(PROMPTS)


def test_a_running_engine_is_given_each_rounds_adapter(speaker: str, tmp_path: Path, rule: str) -> None:
    out = tmp_path / "run"
    with SeededEngine() as engine:
        more = {"sampler": "url", "engine_url": engine.url, "engine_model": "actor", "lora_rank": 2, "start": "base"}
        assert iteration.main(arguments(out, **keys(speaker, tmp_path, rule, **more))) == 0
        loads = [body for path, body in engine.requests if path == "/v1/load_lora_adapter"]
        models = [body["model"] for path, body in engine.requests if path == "/v1/completions"]
    assert [body["lora_name"] for body in loads] == ["run-round-1", "run-round-2"]
    assert loads[0]["lora_path"] == str(out / "round-0" / "train" / "final")
    assert list(dict.fromkeys(models)) == ["actor", "run-round-1", "run-round-2"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"selector": "rft"}, "no selector 'rft'; selectors: raft, rso_sampled"),
        ({"scorer": "none"}, "selector raft reads scores: set scorer to one of reward, rule"),
        ({"scorer": "reward"}, "scorer: reward needs reward_model"),
        ({"scorer": "judge_marks", "judge_url": "http://x"}, "scorer: judge_marks needs judge_model"),
        ({"sampler": "url", "engine_model": "x"}, "sampler: url needs engine_url"),
        ({"sampler": "url", "engine_model": "x", "engine_url": "http://x"}, "set lora_rank and start: base"),
        ({"loss": "dpo"}, "selector raft trains sft, which reads neither loss nor beta"),
        ({"selector": "rlcd", "scorer": "none"}, "selector rlcd needs affix_good, with {prompt} in it"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"best": "loss"}, "a round's training holds nothing out"),
    ],
)
def test_rounds_that_cannot_be_meant_are_refused(
    speaker: str, tmp_path: Path, rule: str, capsys: pytest.CaptureFixture[str], more: dict[str, Any], message: str
) -> None:
    assert iteration.main(arguments(tmp_path / "out", **keys(speaker, tmp_path, rule, **more))) == 2
    assert message in capsys.readouterr().err


def test_samples_that_teach_nothing_are_counted_and_a_round_without_any_is_refused(
    toy: str, tmp_path: Path, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A toy with random weights never ends."""
    assert iteration.main(arguments(tmp_path / "out", **keys(toy, tmp_path, rule, max_new_tokens=2))) == 2
    assert "round 0: selector raft left nothing to learn ({'cut off': " in capsys.readouterr().err


def test_a_prompt_that_leaves_no_room_for_an_answer_is_named(speaker: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"prompt 2 has \d+ tokens; with max_new_tokens \(10\) that is more than"):
        generator(speaker).sample(["say 1\n", "say " * 300], 1, 0, tmp_path)


def test_a_part_of_the_prompts_for_each_round_covers_all_before_one_comes_again() -> None:
    from trainers.rounds.prompt_set import of_round
    from trainers.rounds.round_recipe import Recipe

    rows: list[dict[str, Any]] = [row | {"place": str(at)} for at, row in enumerate(pair_rows(6))]
    recipe = Recipe(model="m", train="t", prompts_per_round=4)
    taken = [row["place"] for number in range(3) for row in of_round(recipe, rows, number)]
    assert sorted(taken[:6]) == sorted(taken[6:]) == [str(at) for at in range(6)]
    assert taken == [row["place"] for number in range(3) for row in of_round(recipe, rows, number)]


# ---------------------------------------------------------------- APO


def test_a_weight_of_0_is_bradley_terry_bit_for_bit_and_more_teaches_samples_too(
    speaker: str,
    tmp_path: Path,
    rule: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pairs = write(tmp_path / "pairs.jsonl", pair_rows(16))
    given: dict[str, Any] = keys(speaker, tmp_path, rule, scorer="adversary", pairs=str(pairs), rounds=1, steps=2)
    plain, both = tmp_path / "plain", tmp_path / "both"
    assert command.main(["adversarial", *arguments(plain, **given, gold_weight=0)]) == 0
    alone = tmp_path / "alone"
    line = {
        "model": speaker,
        "train": str(pairs),
        "heldout_fraction": 0,
        "steps": 2,
        "report_to": [],
        "save_every": 100,
    }
    assert reward.main(arguments(alone, **line, eval_every=100)) == 0
    assert same_weights(alone / "final", plain / "round-0" / "reward" / "final")
    assert command.main(["adversarial", *arguments(both, **given, gold_weight=0.5)]) == 0
    rows = [json.loads(row) for row in (both / "round-0" / "reward.jsonl").read_text().splitlines()]
    assert {row["weight"] for row in rows} == {1.0, 0.5}
    assert not same_weights(alone / "final", both / "round-0" / "reward" / "final")
    capsys.readouterr()
    assert command.main(["raft", *arguments(tmp_path / "no", **given)]) == 2
    assert "scorer: adversary needs the data's own answers" in capsys.readouterr().err
