"""What every trainer does with a run: finds it, trains from its newest checkpoint on, keeps and draws the result."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import numpy as np

from jaxnets.train import plots
from jaxnets.train.checkpoint import Checkpoints
from jaxnets.train.cli import say
from jaxnets.train.logging import CompileClock, JsonLines, progress, read_json_lines
from jaxnets.train.loop import every, fit
from jaxnets.train.programs import DeviceResident, is_resident, runs_scanned
from jaxnets.train.run import Run, check_config, newest_run
from jaxnets.train.selection import Best
from jaxnets.train.state import State
from jaxnets.train.step import Step
from jaxnets.train.weights import load_weights, save_weights
from jaxnets.typing import Batch

Arrays = Mapping[str, np.ndarray]

MAY_CHANGE = ("steps", "checkpoint_every", "patience")
"""What may differ from the configuration of the run that is gone on with: how far it goes, not where."""


@runtime_checkable
class Seekable(Protocol):
    """Data on the host whose batches are functions of their step, as of any loader of `jaxnets.data`."""

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0 over all epochs."""

    def seek(self, step: int) -> None:
        """Makes the next batch that of `step`."""

    def __iter__(self) -> Iterator[Batch]: ...


def earlier(
    folder: Path | None, name: str | None, *, resume: bool, read: Callable[[Path], dict[str, Any]]
) -> tuple[Path | None, dict[str, Any]]:
    """The folder named, or the newest where one is to be gone on with, and the configuration of the run it holds.

    Args:
      folder: What `--run` says.
      name: What `--data` says, by which the newest run is looked for.
      resume: Whether a run is to be gone on with.
      read: Gives the configuration that a folder holds.

    Returns:
      The folder, None for a new one; its configuration, empty for a run that is to be begun.

    Raises:
      ValueError: If the folder holds a run that is not to be gone on with.
    """
    if resume and folder is None:
        folder = newest_run(name or "")
    if folder is None or not (folder / "config.json").exists():
        return folder, {}
    if not resume:
        raise ValueError(f"{folder} holds a run already: add --resume to go on with it, or name another folder")
    return folder, read(folder)


def train(
    folder: Path,
    config: Mapping[str, Any],
    step: Step,
    state: State,
    data: DeviceResident | Seekable,
    *,
    evaluate: Callable[[State, Arrays], dict[str, float]],
    validation: Arrays,
    test: Arrays,
    resumed: bool,
    clock: CompileClock,
    may_change: Sequence[str] = MAY_CHANGE,
    better: tuple[str, Literal["min", "max"]] = ("loss", "min"),
) -> tuple[Run, State, dict[str, Any]]:
    """Trains for `config["steps"]` steps and keeps the run: configuration, metrics, checkpoints and weights.

    Where `config["keep"]` is "best", the weights of the checkpoint with the best validation metric, the earliest of
    equals, are what the run ends with. Where there is a `config["patience"]`, training ends once so many steps brought
    nothing better. What was the best so far lies in `best.safetensors`, and a run that is gone on with knows it.

    Args:
      folder: Where it is kept.
      config: What config.json is to hold, `steps` and `checkpoint_every` among it.
      step: From `make_step`.
      state: The state before the first step.
      data: The training data, on the device or from a loader that can be told where to begin.
      evaluate: The metrics of a state on some data.
      validation: Looked at at every checkpoint.
      test: Looked at once, at the end.
      resumed: Whether the folder holds a run that is gone on with.
      clock: Made when the program began.
      may_change: What may differ from the configuration of the run that is gone on with.
      better: The metric of the validation data that tells which weights are better, and where its best is.

    Returns:
      The run, the last state, with the best weights where those are kept, and the result, which is the last line of
      metrics.jsonl too.

    Raises:
      ValueError: If the configuration, the step, the data and the run do not fit one another; nothing is written then.
      KeyboardInterrupt: After Ctrl-C, with a word on how to go on; `Terminated` after SIGTERM.
    """
    # Options that do not fit the data fail here, in a trace, and not once the run has begun.
    _try(step, state, data)
    with Checkpoints(folder / "checkpoints", report=say) as checkpoints:
        if resumed:
            check_config(folder, config, may_change=may_change)
            state = _newest(folder, checkpoints, state, config["steps"])
        best = _best(folder, config, better, resumed=resumed)
        # Nothing is written before this line, so that a command that is refused leaves no trace.
        run = Run(folder, config, may_change=tuple(config))
        if "scan" not in run.notes:
            run.note(scan=runs_scanned(step, state, data))
        lines = JsonLines(run / "metrics.jsonl", step=int(state.step))

        def record(step: int, state: Any, metrics: dict[str, float]) -> bool:
            """Writes training and validation metrics of a moment, and tells whether to end."""
            measured = evaluate(state, validation)
            lines(step, state, {**metrics, **{f"validation_{name}": value for name, value in measured.items()}})
            return best is not None and best(step, state, measured)

        begun = int(state.step)
        if best is not None and begun and begun % config["checkpoint_every"] == 0:
            # A run may have been killed when it was saved, and not looked at yet; if it was, that changes nothing.
            best(begun, state, evaluate(state, validation))
        if best is None or not best.is_over(state.step):
            with progress(config["steps"]) as show, resumable(folder):
                timed = [every(config["checkpoint_every"], each, at_end=True) for each in (checkpoints, record)]
                callbacks = [show, *timed]
                state, _ = fit(state, step, data, steps=config["steps"], callbacks=callbacks, scan=run.notes["scan"])

    kept: dict[str, Any] = {}
    if best is not None and best.step is not None:
        if best.is_over(state.step):
            say(f"ended at step {int(state.step)}: {best.metric} was the best at step {best.step}")
        if config.get("keep") == "best":
            state = state.with_variables(load_weights(best.path, state.averages))
            kept = {"best_step": best.step}
    with resumable(folder):
        save_weights(run / "weights.safetensors", state.averages)
        result = {
            "test": evaluate(state, test),
            "validation": evaluate(state, validation),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            "steps": int(state.step),
            **kept,
            "seconds": round(lines.seconds_before + clock.elapsed, 1),
            "compile_seconds": round(clock.seconds, 1),
        }
        lines.write(result)
    return run, state, result


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Has Ctrl-C and SIGTERM say how the run in a folder is gone on with: where it is trained, measured or drawn."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise type(stop)(f"interrupted; go on with: train --resume --run {folder}") from None


def draw_curves(run: Run, title: str) -> None:
    """Draws the learning curves of a run, where it has any, as `curves.png`."""
    if records := [record for record in read_json_lines(run / "metrics.jsonl") if "step" in record]:
        with resumable(run.directory):
            plots.curves(records, run / "curves.png", title=title)


def weights_of(folder: Path) -> Path:
    """The file of a run's weights.

    Raises:
      ValueError: If there is none, for the run has not ended.
    """
    weights = folder / "weights.safetensors"
    if not weights.exists():
        raise ValueError(f"{folder} is unfinished: go on with train --resume --run {folder}")
    return weights


def _best(
    folder: Path, config: Mapping[str, Any], better: tuple[str, Literal["min", "max"]], *, resumed: bool
) -> Best | None:
    """What keeps the best weights, where they are asked for."""
    if config.get("keep") != "best" and config.get("patience") is None:
        return None
    path = folder / "best.safetensors"
    if path.exists() and not resumed:
        raise ValueError(f"{path} is of a run that is not there: remove it, or name another folder")
    metric, mode = better
    return Best(path, metric=metric, mode=mode, patience=config.get("patience"))


def _try(step: Step, state: State, data: Any) -> None:
    """Traces a step."""
    if is_resident(data):
        jax.eval_shape(lambda state, data: jax.jit(step)(state, data.batch(data.order(0), 0)), state, data)
    else:
        jax.eval_shape(jax.jit(step), state, data.batch(0))


def _newest(folder: Path, checkpoints: Checkpoints, state: State, steps: int) -> State:
    """The state of the run's newest good checkpoint, or the one given where the run has none yet."""
    restored = checkpoints.restore(state)
    if restored is None and checkpoints.steps():
        raise ValueError(
            f"no checkpoint in {checkpoints.directory} can be read: put a good copy there, or remove that folder to "
            "begin the run anew"
        )
    if restored is not None:
        state, _ = restored
        if int(state.step) > steps:
            raise ValueError(f"{folder} is at step {int(state.step)} already: --steps {steps} wants to be that or more")
    say(f"going on from step {int(state.step)} of {folder}")
    return state
