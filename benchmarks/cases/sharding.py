"""A training step over simulated devices, which share the processor: what the sharing out costs, not what it brings."""

from benchmarks.case import Case, Shape
from benchmarks.cases.training import batch

_SIZES = {"batch": 256, "rows": 256, "features": 512, "hidden": 1024, "devices": 8}

CASE = Case(
    name="sharding",
    summary="one Adam step of an MLP over 8 simulated devices, beside the same on one",
    shapes=(
        Shape("hidden 1024", _SIZES, ours=("jaxnets", "jaxnets_data", "jaxnets_fsdp")),
        Shape("hidden 4096", {**_SIZES, "hidden": 4096}, ours=("jaxnets", "jaxnets_data", "jaxnets_fsdp")),
    ),
    peers=(),
    agreement={"logits": 1e-4, "losses": 1e-4},
    batch=batch,
    seconds=0.4,
)
