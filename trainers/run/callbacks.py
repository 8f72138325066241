"""What listens to a training run: a clock that survives a resume, named bars, and TensorBoard in the run's folder."""

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer_callback import ProgressCallback


class Clock(TrainerCallback):
    """Each entry of the log says how many seconds the run took, with those before it was resumed."""

    def __init__(self) -> None:
        self.entered = time.monotonic()
        self.earlier = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Read from the log how long the run took before it was resumed."""
        self.earlier = max((entry["seconds"] for entry in state.log_history if "seconds" in entry), default=0.0)

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Add the seconds so far to the newest entry."""
        state.log_history[-1]["seconds"] = round(self.earlier + time.monotonic() - self.entered, 1)


class LabelledProgress(ProgressCallback):
    """transformers' bars, each with a name: an evaluation before the first step is not taken for the training."""

    label = "held out, before training"

    @classmethod
    def instead(cls, trainer: Any) -> "LabelledProgress":
        """Take the place of the trainer's own bars, where it has any."""
        bars = cls()
        if trainer.pop_callback(ProgressCallback) is not None:
            trainer.add_callback(bars)
        return bars

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """The training's bar."""
        super().on_train_begin(args, state, control, **more)  # type: ignore[no-untyped-call]
        describe(self.training_bar, self.label)

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **more: Any) -> None:
        """An evaluation's bar."""
        new = self.prediction_bar is None
        super().on_prediction_step(args, state, control, eval_dataloader, **more)  # type: ignore[no-untyped-call]
        if new:
            describe(self.prediction_bar, "held out" if self.label == "training" else self.label)


def describe(bar: Any, label: str) -> None:
    """Name a bar; only the first process has one."""
    if bar is not None:
        bar.set_description(label)


def board(out: Path) -> TensorBoardCallback:
    """TensorBoard in OUT/logs."""
    callback = TensorBoardCallback()  # type: ignore[no-untyped-call]
    callback.logging_dir = str(out / "logs")
    return callback
