"""Drawing the next token: temperature, filters of what is unlikely, a penalty on what was said."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int32, Key


def sample(
    logits: Float[Array, "b v"],
    key: Key[Array, ""],
    *,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    top_p: float | Float[Array, ""] | None = None,
    min_p: float | Float[Array, ""] | None = None,
) -> Int32[Array, " b"]:
    """Draws a token from each row of logits, as `filter_logits` leaves them.

    >>> sample(jnp.array([[0.0, 9.0, 8.0]]), jax.random.key(0), top_k=1)
    Array([1], dtype=int32)
    """
    filtered = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    return jax.random.categorical(key, filtered).astype(jnp.int32)


def filter_logits(
    logits: Float[Array, "b v"],
    *,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    top_p: float | Float[Array, ""] | None = None,
    min_p: float | Float[Array, ""] | None = None,
) -> Float[Array, "b v"]:
    """Logits over the temperature, and -inf for the tokens left out: by each filter in turn, of what the last one left.

    The likeliest token always stays, and so does what is as likely as the last one that does.

    Args:
      logits: Unnormalised, each row those of one distribution.
      temperature: Above 0; below 1 the likely gets likelier.
      top_k: Only so many, the likeliest.
      top_p: Only as many, the likeliest first, as it takes for a probability of this in all.
      min_p: Only those at least this times as likely as the likeliest.

    Raises:
      ValueError: If a number that is known lies outside of its range.

    References:
      Fan, Lewis and Dauphin, 2018. Hierarchical neural story generation (top-k).
      Holtzman et al., 2020. The curious case of neural text degeneration (top-p).
      Nguyen et al., 2024. Turning up the heat: min-p sampling for creative and coherent LLM outputs.

    >>> filter_logits(jnp.log(jnp.array([[0.5, 0.3, 0.2]])), top_p=0.7) > -jnp.inf
    Array([[ True,  True, False]], dtype=bool)
    """
    # What is traced cannot be compared.
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ValueError(f"filter_logits: temperature is {temperature} but wants a value above 0")
    if top_k is not None and top_k < 1:
        raise ValueError(f"filter_logits: top_k is {top_k} but wants 1 or more")
    for name, value in (("top_p", top_p), ("min_p", min_p)):
        if isinstance(value, int | float) and not 0 <= value <= 1:
            raise ValueError(f"filter_logits: {name} is {value} but wants a value from 0 to 1")

    logits = logits / jnp.asarray(temperature, logits.dtype)
    if top_k is not None and top_k < logits.shape[-1]:
        least = lax.top_k(logits, top_k)[0][:, -1:]
        logits = _only(logits, logits >= least)
    if top_p is not None:
        probabilities = jax.nn.softmax(logits)
        ordered = -jnp.sort(-probabilities)
        before = jnp.cumsum(ordered, axis=-1) - ordered
        count = jnp.maximum(jnp.sum(before < jnp.asarray(top_p, logits.dtype), axis=-1, keepdims=True), 1)
        logits = _only(logits, probabilities >= jnp.take_along_axis(ordered, count - 1, axis=-1))
    if min_p is not None:
        least = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(jnp.asarray(min_p, logits.dtype))
        logits = _only(logits, logits >= least)
    return logits


def penalise_repetition(
    logits: Float[Array, "b v"], seen: Bool[Array, "b v"], penalty: float | Float[Array, ""]
) -> Float[Array, "b v"]:
    """Makes the tokens that were seen less likely: a logit above 0 is divided by the penalty, one below multiplied.

    References:
      Keskar et al., 2019. CTRL: a conditional transformer language model for controllable generation.

    >>> penalise_repetition(jnp.array([[2.0, -2.0, 1.0]]), jnp.array([[True, True, False]]), 2.0)
    Array([[ 1., -4.,  1.]], dtype=float32)
    """
    penalty = jnp.asarray(penalty, logits.dtype)
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def _only(logits: Array, keep: Array) -> Array:
    return jnp.where(keep, logits, jnp.full((), -jnp.inf, logits.dtype))
