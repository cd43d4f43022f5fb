"""The functions of `jax.nn`, jitted."""

import jax

from benchmarks.case import Contender, Problem
from benchmarks.peers.layer import CompiledLayer


def attention(problem: Problem) -> Contender:
    """Its dot-product attention."""

    def apply(heads: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return jax.nn.dot_product_attention(heads["q"], heads["k"], heads["v"], is_causal=True), {}

    return CompiledLayer(problem, dict, apply, leaves_out=("x",))
