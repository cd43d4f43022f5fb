"""What a program waits for before its first line: the import, in a fresh interpreter."""

from benchmarks.case import Case, Shape

CASE = Case(
    name="import",
    summary="a fresh interpreter that imports the library, and ends",
    shapes=(Shape("fresh", {}),),
    peers=("flax", "jax", "torch"),
    agreement={"exit": 0.0},
    batch=lambda parameters: {},
    group="startup",
    seconds=2.0,
)
