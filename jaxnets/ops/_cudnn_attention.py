"""cuDNN's attention, on a GPU, and what it is asked around."""

import functools
import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxnets.ops._attention_weights import Context, Operands, Plan, conditions
from jaxnets.ops._cudnn_lstm import available

_HALF = (jnp.float16, jnp.bfloat16)


def cudnn_attention(
    plan: Plan, x: Operands, context: Context, lengths: Array | None, key_lengths: Array | None
) -> Array:
    """The output [B, T, N, V]; queries that attend to nothing, of which cuDNN makes means of garbage, give zeros.

    Raises:
      TypeError: If the operands are not in half precision.
      ValueError: If it has no such option.
      RuntimeError: If there is no GPU.
    """
    op = "dot_product_attention: implementation 'cudnn'"
    if x.q.dtype not in _HALF:
        raise TypeError(f"{op} wants float16 or bfloat16 but q is {x.q.dtype}: take 'auto' for it")
    options = {
        "soft_cap": plan.soft_cap is not None,
        "dropout": plan.dropout > 0,
        "offset": plan.offset != 0,
        "segment_ids": context.queries.segment is not None,
    }
    if refused := [name for name, asked in options.items() if asked]:
        raise ValueError(f"{op} knows no {' and no '.join(refused)}: take 'auto' for it")
    if not available():
        raise RuntimeError(f"{op} wants a GPU but the default platform is {jax.default_backend()!r}: take 'auto'")
    q, k, v = (
        leaf if valid is None else jnp.where(valid[:, :, None, None], leaf, jnp.zeros((), leaf.dtype))
        for leaf, valid in ((x.q, context.queries.valid), (x.k, context.keys.valid), (x.v, context.keys.valid))
    )
    y = jax.nn.dot_product_attention(
        q,
        k,
        v,
        x.bias,
        context.mask,
        scale=plan.scale,
        is_causal=plan.causal or plan.window is not None,
        query_seq_lengths=lengths,
        key_value_seq_lengths=key_lengths,
        local_window_size=None if plan.window is None else (plan.window - 1, 0),
        implementation="cudnn",
    )
    queries, keys = (jax.tree.map(lambda leaf: leaf[:, None], steps) for steps in context[:2])
    seen = list(conditions(plan, context._replace(queries=queries, keys=keys)))
    if not seen:
        return y
    some = jnp.any(functools.reduce(operator.and_, seen), axis=-1)  # [B, N, T]
    return jnp.where(some.swapaxes(1, 2)[..., None], y, jnp.zeros((), y.dtype))
