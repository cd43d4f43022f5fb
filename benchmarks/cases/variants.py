"""The LSTM's variants from the papers, each beside a plain scan of its own step: none is slower than what it varies."""

from benchmarks.case import Case, Shape
from benchmarks.cases.recurrent import batch

_SIZE = {"batch": 64, "time": 35, "input": 200, "hidden": 200}
_VARIANTS = {
    "plain": {},
    "peephole": {"peephole": 1},
    "projection": {"projection": 100},
    "layer norm": {"layer_norm": 1},
    "coupled": {"coupled": 1},
    "zoneout": {"zoneout_percent": 10},
    "dropout": {"dropout_percent": 25},
}


def _shape(name: str) -> Shape:
    # Dropout draws for the whole sequence at once, which no scan of single steps can agree with.
    ours = ("jaxnets",) if name == "dropout" else ("jaxnets", "jaxnets_stepwise")
    return Shape(name, {**_SIZE, **_VARIANTS[name]}, ours=ours)


CASE = Case(
    name="variants",
    summary="an LSTM as a paper changes it, and its gradient, at batch 64, 35 steps and 200 features",
    shapes=tuple(map(_shape, _VARIANTS)),
    peers=(),
    agreement=dict.fromkeys(("y", "h", "c", "loss"), 1e-5)
    | dict.fromkeys(("x", "kernel", "recurrent_kernel", "bias", "peephole", "projection"), 1e-4)
    | dict.fromkeys(("input_scale", "recurrent_scale", "cell_scale", "cell_bias"), 1e-4),
    batch=batch,
    modes=("forward", "gradient"),
    seconds=0.1,
)
