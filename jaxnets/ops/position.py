"""Positions for attention: rotary, sinusoidal, ALiBi and the buckets of relative bias.

Every function takes the positions themselves, traced or not, so that steps fed one piece after the other lie where they
lie in the whole: the piece's offset comes from the carry.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Real

from jaxnets.ops._dtype import accumulation_dtype
from jaxnets.ops._rotary_scaling import RotaryScaling, RotaryYarn, rotary_frequencies


def rotary(
    x: Float[Array, "b t n h"],
    positions: Int[Array, "b t"] | Int[Array, " t"],
    *,
    base: float = 10000.0,
    scaling: RotaryScaling | None = None,
    fraction: float = 1.0,
) -> Float[Array, "b t n h"]:
    """Rotates queries or keys by their position, so that scores depend on differences of positions alone.

    Feature i of the first half is paired with feature i of the second (as in GPT-NeoX and Llama; the first form of the
    paper pairs neighbours), and the pair turned by position * base^(-2i / H) radians. Norms are kept. Angles are in at
    least float32, where they are good to about 1e-7 * position radians.

    Args:
      x: Queries or keys, a vector for each head.
      positions: Of each step, the same for all rows or row by row.
      base: The longest wavelength is 2 pi times nearly this many steps.
      scaling: How frequencies are stretched for contexts longer than those of training; `RotaryYarn` multiplies the
        rotated features by its `magnitude` too.
      fraction: Of the features, how many are rotated; those that come after stay as they are.

    Raises:
      TypeError: If x is not floating, or positions are not integers.
      ValueError: If what is rotated is not an even number of features, or the shapes do not fit.

    References:
      Su et al., 2021. RoFormer: enhanced transformer with rotary position embedding.

    >>> y = rotary(jnp.ones((1, 3, 1, 2)), jnp.arange(3))
    >>> [round(feature.item(), 3) for feature in y[0, 1, 0]]
    [-0.301, 1.382]
    """
    width = _rotated_width(x, positions, fraction)
    dtype = accumulation_dtype(x.dtype)
    frequencies = rotary_frequencies(base, width) if scaling is None else scaling.frequencies(base, width)
    positions = positions if positions.ndim == 2 else positions[None]
    angles = positions[..., None, None].astype(dtype) * jnp.asarray(frequencies, dtype)[None, None, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    if isinstance(scaling, RotaryYarn):
        magnitude = jnp.asarray(scaling.magnitude, dtype)
        cos, sin = magnitude * cos, magnitude * sin
    first, second, rest = jnp.split(x, (width // 2, width), axis=-1)
    first, second = first.astype(dtype), second.astype(dtype)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
    return jnp.concatenate([turned, rest], axis=-1)


def sinusoidal(positions: Real[Array, "*s"], features: int, *, base: float = 10000.0) -> Float[Array, "*s {features}"]:
    """Sines (features 0, 2, ...) and cosines (1, 3, ...) of position / base^(2i / features), for each pair i.

    Args:
      positions: Of each step; fractions too, such as the time of a diffusion. Float64 stays so, all else gives float32.
      features: How many, an even number.
      base: The longest wavelength is 2 pi times nearly this many steps.

    Raises:
      ValueError: If `features` is odd or below 2.

    References:
      Vaswani et al., 2017. Attention is all you need.

    >>> sinusoidal(jnp.array([0, 1]), 4).round(3)
    Array([[0.   , 1.   , 0.   , 1.   ],
           [0.841, 0.54 , 0.01 , 1.   ]], dtype=float32)
    """
    if features < 2 or features % 2:
        raise ValueError(f"sinusoidal: features is {features} but wants an even number of at least 2")
    dtype = accumulation_dtype(positions.dtype)
    frequencies = jnp.asarray(rotary_frequencies(base, features), dtype)
    angles = positions[..., None].astype(dtype) * frequencies.reshape((1,) * positions.ndim + (-1,))
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*positions.shape, features)


def alibi_slopes(num_heads: int) -> Float[Array, " n"]:
    """The slope of each head's bias: 2^(-8 i / N) for i = 1, ..., N where N is a power of two.

    Otherwise they are those of the greatest power of two below N, followed by every other one of the power above, as in
    the paper's code.

    Raises:
      ValueError: If there is no head.

    References:
      Press et al., 2022. Train short, test long: attention with linear biases enables input length extrapolation.

    >>> alibi_slopes(6)
    Array([0.25      , 0.0625    , 0.015625  , 0.00390625, 0.5       ,
           0.125     ], dtype=float32)
    """
    if num_heads < 1:
        raise ValueError(f"alibi_slopes: num_heads is {num_heads} but wants at least 1")

    def powers(n: int) -> np.ndarray:
        return 2.0 ** (-8 * np.arange(1, n + 1) / n)

    whole = 1 << (num_heads.bit_length() - 1)
    slopes = np.concatenate([powers(whole), powers(2 * whole)[::2][: num_heads - whole]])
    return jnp.asarray(slopes, jnp.float32)


def alibi(
    num_heads: int,
    query_positions: Int[Array, "*b t"],
    key_positions: Int[Array, "*b s"],
) -> Float[Array, "*b n t s"]:
    """The bias -slope * |t - s| of each head, added to the scores of attention; float32.

    Of a causal model, whose queries see no later key, this is the paper's bias; the distance makes it symmetric
    elsewhere.

    Args:
      num_heads: As for `alibi_slopes`.
      query_positions: [T], or [B, T] row by row.
      key_positions: [S], or [B, S] where the queries' are row by row.

    Raises:
      TypeError: If positions are not integers.
      ValueError: If there is no head, or the shapes do not fit.

    References:
      Press et al., 2022. Train short, test long: attention with linear biases enables input length extrapolation.

    >>> alibi(2, jnp.array([2]), jnp.arange(4))
    Array([[[-0.125     , -0.0625    , -0.        , -0.0625    ]],
    <BLANKLINE>
           [[-0.0078125 , -0.00390625, -0.        , -0.00390625]]],      dtype=float32)
    """
    for name, positions in (("query_positions", query_positions), ("key_positions", key_positions)):
        _check_positions("alibi", name, positions)
    if query_positions.shape[:-1] != key_positions.shape[:-1]:
        raise ValueError(
            f"alibi: key_positions wants [S] or [B, S] as query_positions has it, but they have shapes "
            f"{key_positions.shape} and {query_positions.shape}"
        )
    t, s = query_positions.astype(jnp.int32), key_positions.astype(jnp.int32)
    distance = jnp.abs(t[..., None, :, None] - s[..., None, None, :]).astype(jnp.float32)
    slopes = alibi_slopes(num_heads)
    return -slopes.reshape((1,) * (distance.ndim - 3) + (-1, 1, 1)) * distance


def relative_buckets(
    relative_positions: Int[Array, "*s"],
    *,
    num_buckets: int = 32,
    max_distance: int = 128,
    bidirectional: bool,
) -> Int[Array, "*s"]:
    """The bucket, int32, whose learned bias a query adds for a key that lies so many steps after it.

    Half of the buckets are for one distance each, the other half for ranges that widen with the logarithm of the
    distance, up to `max_distance`; what lies beyond is in the last.

    Args:
      relative_positions: Position of the key less that of the query.
      num_buckets: Of both directions together.
      max_distance: Steps at which the last bucket is reached.
      bidirectional: Whether keys after the query have buckets of their own, the upper half; else they share that of
        distance 0.

    Raises:
      TypeError: If the positions are not integers.
      ValueError: If there are too few buckets, or an odd number of them in two directions, or `max_distance` is not
        beyond the distances that have a bucket each.

    References:
      Raffel et al., 2020. Exploring the limits of transfer learning with a unified text-to-text transformer.

    >>> relative_buckets(jnp.array([-200, -12, -1, 0, 1, 12, 200]), bidirectional=True)
    Array([15,  9,  1,  0, 17, 25, 31], dtype=int32)
    """
    if not jnp.issubdtype(relative_positions.dtype, jnp.integer):
        raise TypeError(
            f"relative_buckets: relative_positions wants an integer dtype but has {relative_positions.dtype}"
        )
    directions = 2 if bidirectional else 1
    if num_buckets < 2 * directions or num_buckets % directions:
        raise ValueError(
            f"relative_buckets: num_buckets is {num_buckets} but wants "
            f"{'an even number of at least 4' if bidirectional else 'at least 2'}"
        )
    buckets = num_buckets // directions
    exact = buckets // 2
    if max_distance <= exact:
        raise ValueError(f"relative_buckets: max_distance is {max_distance} but wants more than {exact}")
    ahead = relative_positions.astype(jnp.int32)
    distance = jnp.abs(ahead) if bidirectional else -ahead
    bucket = jnp.asarray(_bucket_of_distance(buckets, exact, max_distance))[jnp.clip(distance, 0, max_distance)]
    return bucket + jnp.int32(buckets) * (ahead > 0).astype(jnp.int32) if bidirectional else bucket


def _bucket_of_distance(buckets: int, exact: int, furthest: int) -> np.ndarray:
    """The bucket of each distance from 0 to the furthest."""
    distance = np.arange(furthest + 1)
    ratio = np.log(np.maximum(distance, exact) / exact) / math.log(furthest / exact)
    # Distances at which a bucket begins exactly must not fall into the one before by rounding.
    wide = exact + np.floor(ratio * (buckets - exact) + 1e-9).astype(int)
    return np.where(distance < exact, distance, np.minimum(wide, buckets - 1)).astype(np.int32)


def _rotated_width(x: Array, positions: Array, fraction: float) -> int:
    """Checks the arguments of `rotary`; returns how many features it turns."""
    if x.ndim != 4:
        raise ValueError(f"rotary: x wants [B, T, N, H] but has shape {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"rotary: x wants a floating dtype but has {x.dtype}")
    _check_positions("rotary", "positions", positions)
    if positions.shape not in (x.shape[:2], x.shape[1:2]):
        raise ValueError(
            f"rotary: positions wants shape {x.shape[:2]} or {x.shape[1:2]} but has {positions.shape} "
            f"(x.shape={x.shape})"
        )
    width = round(fraction * x.shape[-1])
    if not 0 < fraction <= 1 or width % 2 or abs(width - fraction * x.shape[-1]) > 1e-6:
        raise ValueError(
            f"rotary: wants to rotate an even number of features, at most all, but got {fraction} of {x.shape[-1]} "
            f"(x.shape={x.shape})"
        )
    return width


def _check_positions(op: str, name: str, positions: Array) -> None:
    if not jnp.issubdtype(positions.dtype, jnp.integer):
        raise TypeError(f"{op}: {name} wants an integer dtype but has {positions.dtype}")
    if positions.ndim not in (1, 2):
        raise ValueError(f"{op}: {name} wants one axis or two but has shape {positions.shape}")
