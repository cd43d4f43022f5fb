"""The best model of a run, and the end of a run that gets no better."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jaxnets.train.state import State
from jaxnets.train.weights import read_metadata, save_weights


class Best:
    """A callback that keeps the weights of the step with the best metric, and can end the training after it.

    They lie in one safetensors file, which holds the step and the metric too and is replaced as a whole, so a run
    that was killed and goes on from an earlier step knows what was the best before:

        best = Best(run / "best.safetensors", metric="accuracy", mode="max", patience=500)

        def validate(step, state, metrics):
            return best(step, state, evaluate(eval_step, state, validation))

        if not best.is_over(state.step):
            state, _ = fit(state, step, data, steps=5000, callbacks=[every(100, validate)])
        state = state.with_variables(load_weights(best.path, state.averages))

    Attributes:
      path: The file.
      step: The step of the best metric, None before the first.
      value: The best metric, None before the first.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        metric: str = "loss",
        mode: Literal["min", "max"] = "min",
        patience: int | None = None,
    ):
        """Reads what the file holds, if it is there.

        Args:
          path: The file that the first call makes.
          metric: The name of the metric.
          mode: Whether the least or the greatest is the best.
          patience: Steps without a better one after which training ends; None for no end.

        Raises:
          ValueError: If patience is not positive, or the file is not of this metric.
        """
        if patience is not None and patience < 1:
            raise ValueError(f"Best: patience must be positive, got {patience}")
        self.path = Path(path)
        self.metric, self.mode, self.patience = metric, mode, patience
        self.step: int | None = None
        self.value: float | None = None
        if self.path.exists():
            kept = read_metadata(self.path)
            if (kept.get("metric"), kept.get("mode")) != (metric, mode):
                raise ValueError(
                    f"Best: {path} holds the {kept.get('mode')} of {kept.get('metric')}, not {mode} of {metric}: "
                    "remove it, or name another file"
                )
            try:
                self.step, self.value = int(kept["step"]), float(kept["value"])
            except (KeyError, ValueError) as error:
                raise ValueError(f"Best: {path} lacks the step and value of its weights: remove it") from error

    def __call__(self, step: int, state: State | None, metrics: Mapping[str, Any]) -> bool:
        """Keeps the weights that evaluation takes, where they are the best, and tells `fit` whether to end.

        Raises:
          KeyError: If the metric is not there.
        """
        if state is None:
            raise TypeError("Best: needs the state, so wrap it: every(100, best)")
        value = float(metrics[self.metric])
        if self._is_better(value):
            told = {"step": str(step), "value": repr(value), "metric": self.metric, "mode": self.mode}
            save_weights(self.path, state.averages, metadata=told)
            self.step, self.value = step, value
        return self.is_over(step)

    def is_over(self, step: Any) -> bool:
        """Whether patience has run out by a step: what a run that ended so says when it is begun again."""
        return self.patience is not None and int(step) - (self.step or 0) >= self.patience

    def _is_better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        return self.value is None or (value < self.value if self.mode == "min" else value > self.value)
