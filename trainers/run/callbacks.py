"""What listens to a training run: a clock that survives a resume, and TensorBoard in the run's own folder."""

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback


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


def board(out: Path) -> TensorBoardCallback:
    """TensorBoard in OUT/logs."""
    callback = TensorBoardCallback()  # type: ignore[no-untyped-call]
    callback.logging_dir = str(out / "logs")
    return callback
