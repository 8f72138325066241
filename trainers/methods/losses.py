"""The preference losses, as pure functions on log-probabilities, and the table that names them.

Letters as in the papers: y_w the chosen and y_l the rejected answer, s = log π(y|x) summed over the answer's tokens
(its end included), s̄ = s / tokens, Δ = (s_w − s_w^ref) − (s_l − s_l^ref), σ the logistic function, all in nats. Every
function takes `Pairs` and `Settings` and returns a tensor of shape (B,), one loss per pair, in the inputs' dtype;
float64 goes through unchanged. The NLL part of a loss (ORPO, SLiC, `sft_weight`) is not in these: it is a mean over
tokens, so only `trainers.methods.pair` knows by how many to divide.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """B pairs, every tensor of shape (B,): sums of log-probabilities over an answer's tokens, and how many they are.

    Losses without a reference never read `ref_*`; only ODPO reads `gap`, the chosen answer's score less the other's.
    """

    chosen: "Tensor"
    rejected: "Tensor"
    chosen_tokens: "Tensor"
    rejected_tokens: "Tensor"
    ref_chosen: "Tensor | None" = None
    ref_rejected: "Tensor | None" = None
    gap: "Tensor | None" = None


@dataclass(frozen=True)
class Settings:
    """What the formulas call β, τ, λ, or RSO's γ (`beta`), ε (`label_smoothing`), γ or δ (`margin`), α (`alpha`)."""

    beta: float = 0.1
    label_smoothing: float = 0.0
    margin: float = 0.0
    alpha: float = 0.0


Rewards = tuple["Tensor", "Tensor"]  # of the chosen and of the rejected answers, each (B,)


def ratio(pairs: Pairs, settings: Settings) -> Rewards:
    """r = β(s − s^ref), DPO's implicit reward (Rafailov et al. 2023, arXiv 2305.18290, section 4)."""
    if pairs.ref_chosen is None or pairs.ref_rejected is None:
        raise ValueError("this loss needs the reference's log-probabilities")
    return settings.beta * (pairs.chosen - pairs.ref_chosen), settings.beta * (pairs.rejected - pairs.ref_rejected)


def mean_ratio(pairs: Pairs, settings: Settings) -> Rewards:
    """r = β(s − s^ref)/tokens."""
    chosen, rejected = ratio(pairs, settings)
    return chosen / pairs.chosen_tokens, rejected / pairs.rejected_tokens


def mean_logp(pairs: Pairs, settings: Settings) -> Rewards:
    """r = β s̄, SimPO's reward (Meng et al. 2024, arXiv 2405.14734, section 2.2)."""
    return settings.beta * pairs.chosen / pairs.chosen_tokens, settings.beta * pairs.rejected / pairs.rejected_tokens


def sum_logp(pairs: Pairs, settings: Settings) -> Rewards:
    """r = s, by which SLiC ranks."""
    return pairs.chosen, pairs.rejected


def odds(pairs: Pairs, settings: Settings) -> Rewards:
    """r = lo = s̄ − log(1 − e^s̄), the log odds of the mean log-probability (ORPO, equation 4)."""
    return log_odds(pairs.chosen / pairs.chosen_tokens), log_odds(pairs.rejected / pairs.rejected_tokens)


def log_odds(mean: "Tensor") -> "Tensor":
    """log(p / (1 − p)) of p = e^mean. Exact where p is near 1, and finite at p = 1, where rounding can bring it."""
    import torch

    below = mean.clamp(max=-torch.finfo(mean.dtype).tiny)  # 0 would give an infinite gradient
    return below - log1mexp(below)


def log1mexp(x: "Tensor") -> "Tensor":
    """log(1 − e^x) for x < 0, without cancellation (Mächler 2012): both branches keep full precision."""
    import torch

    near = x > -0.6931471805599453
    # Each branch gets an argument that it can bear, so that the branch not taken has a finite gradient too.
    small = torch.where(near, x, -1.0)
    large = torch.where(near, -1.0, x)
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))


def dpo(pairs: Pairs, settings: Settings) -> "Tensor":
    """−log σ(βΔ) (arXiv 2305.18290, equation 7)."""
    return -logsigmoid(difference(ratio(pairs, settings)))


def ipo(pairs: Pairs, settings: Settings) -> "Tensor":
    """(Δ − 1/2τ)² with sums, as written in Azar et al. 2023 (arXiv 2310.12036, equation 17); τ is `beta`."""
    distance: Tensor = difference(ratio(pairs, settings)) / settings.beta - 1 / (2 * settings.beta)
    return distance**2


def ipo_mean(pairs: Pairs, settings: Settings) -> "Tensor":
    """(Δ̄ − 1/2τ)² with means over tokens, as TRL computes it; its source says that IPO's authors confirmed this."""
    distance: Tensor = difference(mean_ratio(pairs, settings)) / settings.beta - 1 / (2 * settings.beta)
    return distance**2


def cdpo(pairs: Pairs, settings: Settings) -> "Tensor":
    """−(1−ε) log σ(βΔ) − ε log σ(−βΔ) (Mitchell 2023, A note on DPO with noisy preferences)."""
    logits = difference(ratio(pairs, settings))
    return -(1 - settings.label_smoothing) * logsigmoid(logits) - settings.label_smoothing * logsigmoid(-logits)


def robust(pairs: Pairs, settings: Settings) -> "Tensor":
    """(−(1−ε) log σ(βΔ) + ε log σ(−βΔ)) / (1−2ε), DPO's loss unbiased under label flips (arXiv 2403.00409)."""
    logits = difference(ratio(pairs, settings))
    epsilon = settings.label_smoothing
    return (-(1 - epsilon) * logsigmoid(logits) + epsilon * logsigmoid(-logits)) / (1 - 2 * epsilon)


def hinge(pairs: Pairs, settings: Settings) -> "Tensor":
    """max(0, 1 − γΔ), RSO's hinge-norm: SLiC's hinge with a reference (Liu et al. 2023, arXiv 2309.06657)."""
    return relu(1 - difference(ratio(pairs, settings)))


def slic(pairs: Pairs, settings: Settings) -> "Tensor":
    """max(0, δ − s_w + s_l), without a reference (SLiC-HF, Zhao et al. 2023, arXiv 2305.10425, equation 1)."""
    return relu(settings.margin - difference(sum_logp(pairs, settings)))


def simpo(pairs: Pairs, settings: Settings) -> "Tensor":
    """−log σ(β(s̄_w − s̄_l) − γ) (arXiv 2405.14734, equation 6); `margin` is γ, not the paper's ratio γ/β."""
    return -logsigmoid(difference(mean_logp(pairs, settings)) - settings.margin)


def orpo(pairs: Pairs, settings: Settings) -> "Tensor":
    """−λ log σ(lo_w − lo_l), beside the NLL (Hong et al. 2024, arXiv 2403.07691, equations 6 and 7); λ is `beta`."""
    return -settings.beta * logsigmoid(difference(odds(pairs, settings)))


def odpo(pairs: Pairs, settings: Settings) -> "Tensor":
    """−log σ(βΔ − α log gap), gap = score_w − score_l > 0 (Amini et al. 2024, arXiv 2402.10571)."""
    if pairs.gap is None:
        raise ValueError("odpo needs each pair's gap in score")
    return -logsigmoid(difference(ratio(pairs, settings)) - settings.alpha * pairs.gap.log())


def difference(rewards: Rewards) -> "Tensor":
    """r_w − r_l, shape (B,)."""
    return rewards[0] - rewards[1]


def logsigmoid(x: "Tensor") -> "Tensor":
    """log σ(x), elementwise."""
    from torch.nn import functional

    return functional.logsigmoid(x)


def relu(x: "Tensor") -> "Tensor":
    """max(0, x), elementwise."""
    from torch.nn import functional

    return functional.relu(x)


DPO_LIKE = {"beta": 0.1}
SMOOTHED = {"beta": 0.1, "label_smoothing": 0.1}


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A row of the table.

    `of` is None where TRL's own code computes the loss, under our name for it. `reads` are the settings that the
    formula reads, with the value that a recipe gets which leaves them out; any other setting is refused, since a
    setting that nothing reads is a mistake nobody sees. `reward` is the implicit reward by which the loss ranks: what
    "rewards/…" in the logs means. `sft` is the weight that the paper gives to the chosen answer's NLL.
    """

    of: Callable[[Pairs, Settings], "Tensor"] | None = None
    formula: str
    paper: str
    reads: Mapping[str, float] = field(default_factory=lambda: DPO_LIKE)
    reward: Callable[[Pairs, Settings], Rewards] = ratio
    reference: bool = True
    normalised: bool = False
    sft: float = 0.0

    def settings(self, **given: float | None) -> Settings:
        """Settings with the loss's own values where None is given; ValueError for one that it does not read."""
        for name, value in given.items():
            if value is not None and name not in self.reads:
                readers = ", ".join(other for other, loss in LOSSES.items() if name in loss.reads)
                raise ValueError(f"this loss does not read {name} (those that do: {readers})")
        return Settings(**{**self.reads, **{name: value for name, value in given.items() if value is not None}})


LOSSES: dict[str, Loss] = {
    "dpo": Loss(of=dpo, formula="−log σ(βΔ)", paper="DPO, arXiv 2305.18290"),
    "ipo": Loss(of=ipo, formula="(Δ − 1/2τ)²", paper="IPO, arXiv 2310.12036"),
    "ipo_mean": Loss(
        of=ipo_mean, formula="(Δ̄ − 1/2τ)²", paper="IPO, arXiv 2310.12036", reward=mean_ratio, normalised=True
    ),
    "cdpo": Loss(of=cdpo, formula="−(1−ε) log σ(βΔ) − ε log σ(−βΔ)", paper="cDPO, Mitchell 2023", reads=SMOOTHED),
    "robust": Loss(
        of=robust,
        formula="(−(1−ε) log σ(βΔ) + ε log σ(−βΔ)) / (1−2ε)",
        paper="robust DPO, arXiv 2403.00409",
        reads=SMOOTHED,
    ),
    "hinge": Loss(of=hinge, formula="max(0, 1 − γΔ)", paper="RSO hinge-norm, arXiv 2309.06657"),
    "rso": Loss(of=dpo, formula="−log σ(γΔ)", paper="RSO sigmoid-norm, arXiv 2309.06657"),
    "slic": Loss(
        of=slic,
        formula="max(0, δ − s_w + s_l) + λ·NLL_w",
        paper="SLiC-HF, arXiv 2305.10425",
        reads={"margin": 1.0},
        reward=sum_logp,
        reference=False,
        sft=0.1,
    ),
    "simpo": Loss(
        of=simpo,
        formula="−log σ(β(s̄_w − s̄_l) − γ)",
        paper="SimPO, arXiv 2405.14734",
        reads={"beta": 2.0, "margin": 1.0},
        reward=mean_logp,
        reference=False,
        normalised=True,
    ),
    "orpo": Loss(
        of=orpo,
        formula="NLL_w − λ log σ(lo_w − lo_l)",
        paper="ORPO, arXiv 2403.07691",
        reward=odds,
        reference=False,
        normalised=True,
        sft=1.0,
    ),
    "odpo": Loss(
        of=odpo,
        formula="−log σ(βΔ − α log(score_w − score_l))",
        paper="ODPO, arXiv 2402.10571",
        reads={"beta": 0.1, "alpha": 1.0},
    ),
    "sigmoid_norm": Loss(formula="−log σ(βΔ̄)", paper="Tülu 3, arXiv 2411.15124", reward=mean_ratio, normalised=True),
    "exo_pair": Loss(
        formula="KL((σ(βΔ), σ(−βΔ)) ‖ (1−ε, ε))",
        paper="EXO, arXiv 2402.00856",
        reads={"beta": 0.1, "label_smoothing": 1e-3},
    ),
    "nca_pair": Loss(formula="−log σ(r_w) − ½ log σ(−r_w) − ½ log σ(−r_l)", paper="NCA, arXiv 2402.05369"),
    "bco_pair": Loss(formula="−log σ(r_w) − log σ(−r_l)", paper="BCO, arXiv 2404.04656"),
    "sppo_hard": Loss(formula="(r_w/β − 1/2β)² + (r_l/β + 1/2β)²", paper="SPPO, arXiv 2405.00675"),
    "aot": Loss(
        formula="cDPO of sorted (s_w − s_l) − sorted (s_w^ref − s_l^ref)",
        paper="AOT, arXiv 2406.05882",
        reads={"beta": 0.1, "label_smoothing": 0.0},
    ),
    "aot_unpaired": Loss(
        formula="cDPO of (sorted r_w − sorted r_l)",
        paper="AOT, arXiv 2406.05882",
        reads={"beta": 0.1, "label_smoothing": 0.0},
    ),
    "apo_zero": Loss(formula="1 − σ(r_w) + σ(r_l)", paper="APO-zero, arXiv 2408.06266"),
    "apo_down": Loss(formula="σ(r_w) + 1 − σ(r_w − r_l)", paper="APO-down, arXiv 2408.06266"),
    "discopop": Loss(formula="(1 − m)·−log σ(βΔ) + m·e^(−βΔ), m = σ(βΔ/0.05)", paper="DiscoPOP, arXiv 2406.08414"),
}
