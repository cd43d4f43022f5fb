"""Training: a state, a pure compiled step, and the loop, checkpoints and records around it."""

from jaxnets.train import plots
from jaxnets.train.checkpoint import Checkpoints
from jaxnets.train.forecast_metrics import coverage, mae, mase, mse, naive_forecast, naive_scale
from jaxnets.train.guard import DivergedError, Guard, GuardState
from jaxnets.train.interruption import Terminated
from jaxnets.train.language_metrics import bits_per_character, perplexity
from jaxnets.train.ledger import Compilation, CompileLedger
from jaxnets.train.logging import CompileClock, JsonLines, progress, read_json_lines, to_json
from jaxnets.train.loop import evaluate, every, fit
from jaxnets.train.metrics import (
    Calibration,
    accuracy,
    calibration,
    confusion_matrix,
    expected_calibration_error,
    macro_f1,
    top_k_accuracy,
)
from jaxnets.train.nans import NanSource, locate_nan
from jaxnets.train.optim import OPTIMIZERS, SCHEDULES, by_path, decay_mask, make_schedule, optimizer
from jaxnets.train.precision import LossScale, Precision
from jaxnets.train.processes import joined
from jaxnets.train.programs import DeviceResident, runs_scanned
from jaxnets.train.run import Run, check_config, new_run, newest_run, read_config
from jaxnets.train.selection import Best
from jaxnets.train.state import State, create
from jaxnets.train.step import carried, make_eval_step, make_step, predict
from jaxnets.train.summary import Layer, Summary, summary
from jaxnets.train.sweep import grid, make_sweep, member, sweep, sweep_table, swept
from jaxnets.train.watching import Profile, TensorBoard
from jaxnets.train.weights import load_weights, save_weights

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Best",
    "Calibration",
    "Checkpoints",
    "Compilation",
    "CompileClock",
    "CompileLedger",
    "DeviceResident",
    "DivergedError",
    "Guard",
    "GuardState",
    "JsonLines",
    "Layer",
    "LossScale",
    "NanSource",
    "Precision",
    "Profile",
    "Run",
    "State",
    "Summary",
    "TensorBoard",
    "Terminated",
    "accuracy",
    "bits_per_character",
    "by_path",
    "calibration",
    "carried",
    "check_config",
    "confusion_matrix",
    "coverage",
    "create",
    "decay_mask",
    "evaluate",
    "every",
    "expected_calibration_error",
    "fit",
    "grid",
    "joined",
    "load_weights",
    "locate_nan",
    "macro_f1",
    "mae",
    "make_eval_step",
    "make_schedule",
    "make_step",
    "make_sweep",
    "mase",
    "member",
    "mse",
    "naive_forecast",
    "naive_scale",
    "new_run",
    "newest_run",
    "optimizer",
    "perplexity",
    "plots",
    "predict",
    "progress",
    "read_config",
    "read_json_lines",
    "runs_scanned",
    "save_weights",
    "summary",
    "sweep",
    "sweep_table",
    "swept",
    "to_json",
    "top_k_accuracy",
]
