"""Are the preference losses right, and what do they want?

  python benchmarks/losses.py

Needs no data and about a minute on one CPU thread. Four questions: does each loss equal its formula, worked out with
mpmath to 40 digits; does its gradient point the right way; where does it take a softmax over two answers of which the
first is preferred in 80 % of the pairs, and where should it by hand; and does TRL say the same. Then three faults that
TRL 1.16 has, beside what ours does.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file is called as the package that it measures
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TQDM_DISABLE="1", CI="1")

import mpmath
import torch
from mpmath import mp, mpf

from trainers.methods.losses import LOSSES, Pairs, Settings

mp.dps = 40
SHARE = mpf("0.8")  # of the toy's pairs that prefer its first answer
NAMES = ("chosen", "rejected", "chosen_tokens", "rejected_tokens", "ref_chosen", "ref_rejected", "gap")
Case = dict[str, mpf]


# --- what the formulas say: mpmath, nothing of trainers.methods.losses ---


def nls(x: mpf) -> mpf:
    """−log σ(x)."""
    return mpmath.log(1 + mpmath.exp(-x))


def sigma(x: mpf) -> mpf:
    return 1 / (1 + mpmath.exp(-x))


def r_w(c: Case) -> mpf:
    return c["chosen"] - c["ref_chosen"]


def r_l(c: Case) -> mpf:
    return c["rejected"] - c["ref_rejected"]


def delta(c: Case) -> mpf:
    return r_w(c) - r_l(c)


def mean_delta(c: Case) -> mpf:
    return r_w(c) / c["chosen_tokens"] - r_l(c) / c["rejected_tokens"]


def log_odds(logp: mpf, tokens: mpf) -> mpf:
    p = mpmath.exp(logp / tokens)
    return mpmath.log(p / (1 - p))


def smoothed(x: mpf, epsilon: mpf) -> mpf:
    return (1 - epsilon) * nls(x) + epsilon * nls(-x)


def exo(x: mpf, epsilon: mpf) -> mpf:
    q = sigma(x)
    return q * mpmath.log(q / (1 - epsilon)) + (1 - q) * mpmath.log((1 - q) / epsilon)


def discopop(x: mpf) -> mpf:
    share = sigma(x / mpf("0.05"))
    return (1 - share) * nls(x) + share * mpmath.exp(-x)


def by_pair(formula: Callable[[Case, Case], mpf]) -> Callable[[list[Case], Case], list[mpf]]:
    return lambda cases, s: [formula(case, s) for case in cases]


def aot(cases: list[Case], s: Case) -> list[mpf]:
    policy = sorted(c["chosen"] - c["rejected"] for c in cases)
    reference = sorted(c["ref_chosen"] - c["ref_rejected"] for c in cases)
    return [smoothed(s["beta"] * (a - b), s["label_smoothing"]) for a, b in zip(policy, reference, strict=True)]


def aot_unpaired(cases: list[Case], s: Case) -> list[mpf]:
    chosen, rejected = sorted(map(r_w, cases)), sorted(map(r_l, cases))
    return [smoothed(s["beta"] * (a - b), s["label_smoothing"]) for a, b in zip(chosen, rejected, strict=True)]


FORMULAS: dict[str, Callable[[list[Case], Case], list[mpf]]] = {
    "dpo": by_pair(lambda c, s: nls(s["beta"] * delta(c))),
    "ipo": by_pair(lambda c, s: (delta(c) - 1 / (2 * s["beta"])) ** 2),
    "ipo_mean": by_pair(lambda c, s: (mean_delta(c) - 1 / (2 * s["beta"])) ** 2),
    "cdpo": by_pair(lambda c, s: smoothed(s["beta"] * delta(c), s["label_smoothing"])),
    "robust": by_pair(
        lambda c, s: (
            ((1 - s["label_smoothing"]) * nls(s["beta"] * delta(c)) - s["label_smoothing"] * nls(-s["beta"] * delta(c)))
            / (1 - 2 * s["label_smoothing"])
        )
    ),
    "hinge": by_pair(lambda c, s: max(mpf(0), 1 - s["beta"] * delta(c))),
    "rso": by_pair(lambda c, s: nls(s["beta"] * delta(c))),
    "slic": by_pair(lambda c, s: max(mpf(0), s["margin"] - c["chosen"] + c["rejected"])),
    "simpo": by_pair(
        lambda c, s: nls(
            s["beta"] * (c["chosen"] / c["chosen_tokens"] - c["rejected"] / c["rejected_tokens"]) - s["margin"]
        )
    ),
    "orpo": by_pair(
        lambda c, s: (
            s["beta"] * nls(log_odds(c["chosen"], c["chosen_tokens"]) - log_odds(c["rejected"], c["rejected_tokens"]))
        )
    ),
    "odpo": by_pair(lambda c, s: nls(s["beta"] * delta(c) - s["alpha"] * mpmath.log(c["gap"]))),
    "sigmoid_norm": by_pair(lambda c, s: nls(s["beta"] * mean_delta(c))),
    "exo_pair": by_pair(lambda c, s: exo(s["beta"] * delta(c), s["label_smoothing"])),
    "nca_pair": by_pair(
        lambda c, s: nls(s["beta"] * r_w(c)) + (nls(-s["beta"] * r_w(c)) + nls(-s["beta"] * r_l(c))) / 2
    ),
    "bco_pair": by_pair(lambda c, s: nls(s["beta"] * r_w(c)) + nls(-s["beta"] * r_l(c))),
    "sppo_hard": by_pair(lambda c, s: (r_w(c) - 1 / (2 * s["beta"])) ** 2 + (r_l(c) + 1 / (2 * s["beta"])) ** 2),
    "aot": aot,
    "aot_unpaired": aot_unpaired,
    "apo_zero": by_pair(lambda c, s: 1 - sigma(s["beta"] * r_w(c)) + sigma(s["beta"] * r_l(c))),
    "apo_down": by_pair(lambda c, s: sigma(s["beta"] * r_w(c)) + 1 - sigma(s["beta"] * delta(c))),
    "discopop": by_pair(lambda c, s: discopop(s["beta"] * delta(c))),
}


def settings_of(name: str) -> Settings:
    """The values of the whole benchmark: each paper's, with ε = 0.1 wherever the loss reads one."""
    smoothing = 0.1 if "label_smoothing" in LOSSES[name].reads else None
    return LOSSES[name].settings(label_smoothing=smoothing)


def exact(settings: Settings) -> Case:
    return {name: mpf(value) for name, value in vars(settings).items()}


# --- 1 and 2: values and gradients ---


def random_pairs(number: int, seed: int = 0) -> Pairs:
    """Float64 pairs from short sure answers (s̄ = −1e-9) to long unlikely ones (s = −800)."""
    draw = random.Random(seed)
    rows = []
    for _ in range(number):
        tokens = [draw.randint(1, 200), draw.randint(1, 200)]
        logps = [-count * 10 ** draw.uniform(-9, 0.6) for count in tokens]
        reference = [logp + draw.gauss(0, 15) for logp in logps]
        rows.append([*logps, *map(float, tokens), *reference, draw.uniform(0.01, 5)])
    return Pairs(*torch.tensor(rows, dtype=torch.float64).T)


def cases_of(pairs: Pairs) -> list[Case]:
    columns = [getattr(pairs, name).tolist() for name in NAMES]
    return [dict(zip(NAMES, map(mpf, row), strict=True)) for row in zip(*columns, strict=True)]


def errors(name: str, pairs: Pairs) -> tuple[float, float, str]:
    """Largest error of the loss and of its gradient (each against 1 or the true value, whichever is larger), and signs.

    Float64's rounding is 1.1e-16; the inputs' own rounding, carried through a cancelling difference, comes on top.
    """
    of, settings = LOSSES[name].of, settings_of(name)
    assert of is not None
    chosen, rejected = pairs.chosen.clone().requires_grad_(), pairs.rejected.clone().requires_grad_()
    found = of(Pairs(chosen, rejected, *(getattr(pairs, field) for field in NAMES[2:])), settings)
    found.sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    worst_value, worst_slope = mpf(0), mpf(0)
    for row, case in enumerate(cases_of(pairs)):
        true = FORMULAS[name]([case], exact(settings))[0]
        worst_value = max(worst_value, abs(mpf(found[row].item()) - true) / max(1, abs(true)))
        for side, slope in (("chosen", chosen.grad[row].item()), ("rejected", rejected.grad[row].item())):
            steep = mpmath.diff(lambda x, c=case, k=side: FORMULAS[name]([c | {k: x}], exact(settings))[0], case[side])
            worst_slope = max(worst_slope, abs(mpf(slope) - steep) / max(1, abs(steep)))
    return float(worst_value), float(worst_slope), signs(chosen.grad, rejected.grad)


def signs(chosen: torch.Tensor, rejected: torch.Tensor) -> str:
    """What the gradients' signs are over all pairs: "− +" is better with more s_w and with less s_l, everywhere."""

    def sign(values: torch.Tensor) -> str:
        kinds = {"−" if value < 0 else "+" if value > 0 else "0" for value in values.tolist()}
        return "/".join(sorted(kinds, key="−+0".index))

    return f"{sign(chosen)}  {sign(rejected)}"


# --- 3: two answers ---


def two_answers(theta: torch.Tensor, flipped: bool) -> Pairs:
    """A softmax over two answers of one token with logits (θ, 0), against an even reference."""
    first, second = torch.nn.functional.logsigmoid(theta)[None], torch.nn.functional.logsigmoid(-theta)[None]
    one, even = torch.ones(1, dtype=theta.dtype), torch.full((1,), -0.6931471805599453, dtype=theta.dtype)
    chosen, rejected = (second, first) if flipped else (first, second)
    return Pairs(chosen, rejected, one, one, even, even, 2 * one)


def expected_loss(name: str, theta: torch.Tensor, share: float) -> torch.Tensor:
    """The loss over pairs of which a share prefers the first answer, NLL included at the paper's weight."""
    loss, total = LOSSES[name], torch.zeros((), dtype=theta.dtype)
    assert loss.of is not None
    for part, flipped in ((share, False), (1 - share, True)):
        if part:
            pairs = two_answers(theta, flipped)
            total = total + part * (loss.of(pairs, settings_of(name)) - loss.sft * pairs.chosen).sum()
    return total


def slope(name: str, at: float, share: float) -> float:
    """The derivative of that by θ; below zero the loss pulls the first answer up."""
    theta = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    expected_loss(name, theta, share).backward()
    assert theta.grad is not None
    return theta.grad.item()


def trained(name: str, share: float, steps: int = 2500) -> float:
    """θ = s_1 − s_2 after Adam with a falling learning rate."""
    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=1.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 10 ** (-7 * step / steps)
        optimizer.zero_grad()
        expected_loss(name, theta, share).backward()
        optimizer.step()
    return theta.item()


def logit(p: mpf) -> mpf:
    return mpmath.log(p / (1 - p))


def offset_optimum(offset: mpf, p: mpf) -> mpf:
    """x with p·σ(o − x) = (1 − p)·σ(x + o): where −p log σ(x − o) − (1 − p) log σ(−x − o) is least."""
    root = mpmath.sqrt((2 * p - 1) ** 2 + 4 * p * (1 - p) * mpmath.exp(-2 * offset))
    return mpmath.log((2 * p - 1 + root) / (2 * (1 - p) * mpmath.exp(-offset)))


def optimum(name: str) -> tuple[mpf, str]:
    """Where the toy should end, and how that is known."""
    s, p = exact(settings_of(name)), SHARE
    beta, epsilon = s["beta"], s["label_smoothing"]
    if name in ("dpo", "rso"):
        return logit(p) / beta, "logit(p)/β"
    if name in ("ipo", "ipo_mean"):
        return (2 * p - 1) / (2 * beta), "(2p−1)/2τ"
    if name == "cdpo":
        return logit(p * (1 - epsilon) + (1 - p) * epsilon) / beta, "logit(p(1−ε)+(1−p)ε)/β"
    if name == "robust":
        return logit((p - epsilon) / (1 - 2 * epsilon)) / beta, "logit((p−ε)/(1−2ε))/β"
    if name == "hinge":
        return 1 / beta, "1/γ"
    if name == "slic":
        return s["margin"], "δ"
    if name == "simpo":
        return offset_optimum(s["margin"], p) / beta, "p·σ(γ−x)=(1−p)·σ(x+γ), x=βΔ"
    if name == "odpo":
        return offset_optimum(s["alpha"] * mpmath.log(2), p) / beta, "the same with γ=α log gap"
    if name == "orpo":

        def steep(x: mpf) -> mpf:
            return sigma(x) - p + 2 * beta * (sigma(2 * x) - p)

        return mpmath.findroot(steep, (logit(p) / 2, logit(p)), solver="anderson"), "σ(x)−p+2λ(σ(2x)−p)=0"
    raise KeyError(name)


def unanimous(name: str) -> str:
    """Where the loss stops pulling when every pair prefers the first answer."""
    if slope(name, 300, 1.0) < 0:
        return "grows for ever"
    low, high = 0.0, 300.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(name, middle, 1.0) < 0 else (low, middle)
    return f"{high:.5f}" + (" and flat beyond" if slope(name, 300, 1.0) == 0 else "")


# --- 4: TRL, and its faults ---


def toy_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(60)} | {"<pad>": 60, "<end>": 61, "<unk>": 62}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")


class Toy:
    """A folder with a random Llama of 20,000 parameters, another one as its reference, and pairs of unequal length."""

    def __init__(self, folder: Path, pairs: int = 8) -> None:
        from datasets import Dataset
        from transformers import LlamaConfig, LlamaForCausalLM

        self.folder, self.tokenizer = folder, toy_tokenizer()
        config = LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, initializer_range=0.3, pad_token_id=60, eos_token_id=61,
        )  # fmt: skip
        for name, seed in (("policy", 1), ("reference", 2)):
            torch.manual_seed(seed)
            LlamaForCausalLM(config).save_pretrained(folder / name)
        draw = random.Random(0)

        def words(least: int, most: int) -> list[int]:
            return [draw.randrange(60) for _ in range(draw.randint(least, most))]

        self.rows = Dataset.from_list(
            [
                {
                    "prompt_ids": words(2, 9),
                    "chosen_ids": [*words(1, 25), 61],
                    "rejected_ids": [*words(1, 12), 61],
                    "gap": draw.uniform(0.1, 3),
                }
                for _ in range(pairs)
            ]
        )

    def trainer(self, loss: str, *, trl: bool = False, batch: int = 8, accumulate: int = 1, **values: Any) -> Any:
        """Ours, or TRL's own with `loss` as its `loss_type`, on the toy."""
        from transformers import LlamaForCausalLM, PrinterCallback
        from trl.trainer.dpo_config import DPOConfig
        from trl.trainer.dpo_trainer import DPOTrainer

        from trainers.methods.pair_trainer import PairConfig, PairTrainer

        class Plain(DPOTrainer):
            def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
                return dataset  # these rows are token ids already

        warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)  # TRL asks by the old name
        kind, config = (Plain, DPOConfig) if trl else (PairTrainer, PairConfig)
        name = {"loss_type": [loss]} if trl else {"loss": loss}
        arguments = config(
            output_dir=str(self.folder / "out"), max_steps=1, learning_rate=1e-2, logging_steps=1, seed=0,
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate, max_grad_norm=0.0,
            use_cpu=True, bf16=False, report_to="none", save_strategy="no", activation_checkpointing=False,
            disable_tqdm=True, **name, **values,
        )  # fmt: skip
        reference = None
        if trl or LOSSES[loss].reference:
            reference = LlamaForCausalLM.from_pretrained(self.folder / "reference", local_files_only=True)
        trainer = kind(
            model=str(self.folder / "policy"), ref_model=reference, args=arguments, train_dataset=self.rows,
            processing_class=self.tokenizer,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        return trainer

    def ours(self, name: str, **values: Any) -> Any:
        settings = settings_of(name)
        return self.trainer(name, **(vars(settings) | {"sft_weight": LOSSES[name].sft} | values))

    def step(self, trainer: Any) -> tuple[float, float]:
        """Loss and gradient norm of one optimizer step."""
        trainer.train()
        entry = trainer.state.log_history[0]
        return entry["loss"], entry["grad_norm"]


TRL_NAMES = {
    "dpo": "sigmoid", "ipo_mean": "ipo", "robust": "robust", "hinge": "hinge", "rso": "sigmoid",
    **{name: name for name, loss in LOSSES.items() if loss.of is None},
}  # fmt: skip


def batch_loss(toy: Toy, trainer: Any) -> float:
    """The loss of the whole toy as one batch, from the trainer itself, in float32."""
    inputs = trainer._prepare_inputs(next(iter(trainer.get_eval_dataloader(toy.rows))))
    trainer.model.eval()
    with torch.no_grad():
        return float(trainer._compute_loss(trainer.model, inputs, False))


def through_trainers(toy: Toy, name: str) -> tuple[float, float | None, float]:
    """One batch through our trainer, through TRL's where it has the loss, and by the formula on its log-probs."""
    trainer = toy.ours(name)
    mine = batch_loss(toy, trainer)
    inputs = trainer._prepare_inputs(next(iter(trainer.get_eval_dataloader(toy.rows))))
    gap = inputs.pop("gap")
    with torch.no_grad():
        pairs, _ = trainer.log_probabilities(trainer.model, inputs, gap)
    if pairs.ref_chosen is None:
        pairs = Pairs(*(getattr(pairs, field) for field in NAMES[:4]), pairs.chosen, pairs.rejected, pairs.gap)
    cases = cases_of(pairs)
    by_hand = sum(FORMULAS[name](cases, exact(settings_of(name)))) / len(cases)
    nll = -sum(case["chosen"] for case in cases) / sum(case["chosen_tokens"] for case in cases)
    by_hand += mpf(LOSSES[name].sft) * nll
    theirs = None
    if name in TRL_NAMES:
        settings = settings_of(name)
        plain = toy.trainer(TRL_NAMES[name], trl=True, beta=settings.beta, label_smoothing=settings.label_smoothing)
        theirs = batch_loss(toy, plain)
    return mine, theirs, float(by_hand)


CUTS = ((4, 1), (2, 2), (1, 4))  # batch × accumulation


def gradient_norms(toy: Toy, make: Callable[..., Any]) -> list[float]:
    return [toy.step(make(batch=batch, accumulate=accumulate))[1] for batch, accumulate in CUTS]


def print_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print()


def main() -> None:
    torch.set_num_threads(1)
    import transformers

    transformers.logging.set_verbosity_error()
    own = [name for name, loss in LOSSES.items() if loss.of]
    pairs = random_pairs(200)
    print("Each loss against its formula: 200 float64 pairs, mpmath at 40 digits\n")
    rows = []
    for name in own:
        value, slope, sign = errors(name, pairs)
        rows.append((name, LOSSES[name].formula, f"{value:.1e}", f"{slope:.1e}", sign))
    print_table(("loss", "formula", "max error", "gradient's", "sign by s_w, s_l"), rows)

    print(f"A softmax over two answers, the first preferred in {float(SHARE):.0%} of the pairs: θ = s_1 − s_2\n")
    rows = []
    for name in own:
        want, how = optimum(name)
        found = trained(name, float(SHARE))
        rows.append(
            (name, f"{found:.5f}", f"{float(want):.5f}", f"{abs(found - float(want)):.0e}", how, unanimous(name))
        )
    print_table(("loss", "trained", "by hand", "apart", "from", "preferred always"), rows)

    with tempfile.TemporaryDirectory() as folder:
        toy = Toy(Path(folder))
        print("One batch of 8 pairs through a model, float32: our trainer, TRL 1.16's, and the formula in 40 digits\n")
        rows = []
        for name in LOSSES:
            mine, theirs, by_hand = through_trainers(toy, name)
            code = "ours" if LOSSES[name].of else "TRL's"
            rows.append((name, code, f"{mine:.6f}", "–" if theirs is None else f"{theirs:.6f}", f"{by_hand:.6f}"))
        print_table(("loss", "whose code", "our trainer", "TRL's trainer", "by hand"), rows)
        faults(toy)


def faults(toy: Toy) -> None:
    print("Fault 1: TRL's sigmoid loss takes label_smoothing and ignores it, so that cDPO is DPO\n")
    rows = []
    for epsilon in (0.0, 0.3):
        theirs = batch_loss(toy, toy.trainer("sigmoid", trl=True, label_smoothing=epsilon))
        mine = batch_loss(toy, toy.ours("cdpo", label_smoothing=epsilon))
        rows.append((f"{epsilon}", f"{theirs:.6f}", f"{mine:.6f}"))
    print_table(("label_smoothing", "TRL sigmoid", "ours cdpo"), rows)

    print(
        "Fault 2: a chat template writes a line break after the end token, and TRL's CPO and ORPO then add another end"
    )
    print("(read in trl/experimental/utils.py, add_eos_token_if_needed; not run: nothing here imports that package)\n")
    written, ours, end = doubled_end()
    answers = {
        "the template's text": written,
        "with the rule as read": written if written[-1] == end else [*written, end],
        "ours": ours,
    }
    rows = [(name, " ".join(map(str, ids)), str(ids.count(end))) for name, ids in answers.items()]
    print_table(("answer", f"token ids (the end is {end})", "ends"), rows)

    print(
        "Fault 3: the NLL is a mean over a micro-batch's tokens in TRL, so the gradient depends on how a step is cut\n"
    )
    cuts = [f"{batch}×{accumulate}" for batch, accumulate in CUTS]
    plain = gradient_norms(toy, lambda **cut: toy.trainer("sft", trl=True, **cut))
    rows = [("TRL sft", *(f"{norm:.5f}" for norm in plain))]
    for name, weight in (("slic", 1.0), ("orpo", 1.0), ("dpo", 1.0)):
        norms = gradient_norms(toy, lambda name=name, weight=weight, **cut: toy.ours(name, sft_weight=weight, **cut))
        rows.append((f"ours {name} + NLL", *(f"{norm:.5f}" for norm in norms)))
    print_table(("gradient norm at batch × accumulation", *cuts), rows)


def doubled_end() -> tuple[list[int], list[int], int]:
    """A ChatML answer's ids as the template writes them and as ours trains them, and the end token's id."""
    from transformers import AutoTokenizer

    from trainers.data.tokens import encode

    root = Path(__file__).resolve().parent.parent
    tokenizer = AutoTokenizer.from_pretrained(
        root / "serve" / "models" / "trimtab-tiny", local_files_only=True, split_special_tokens=False
    )
    tokenizer.chat_template = (root / "trainers" / "templates" / "chatml.jinja").read_text(encoding="utf-8")
    row = {"place": "row 1", "prompt": "Is it so?", "chosen": "Yes.", "rejected": "No."}
    turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}]
    whole = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    prompt = tokenizer.apply_chat_template(turns[:1], tokenize=True, return_dict=False, add_generation_prompt=True)
    return list(whole[len(prompt) :]), encode(row, tokenizer).answers["chosen"], tokenizer.eos_token_id


if __name__ == "__main__":
    main()
