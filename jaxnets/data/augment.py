"""Image augmentation on the device: pure functions of a key and a batch, to be compiled into the training step.

Each factory gives an `Augment`. It reads `batch["x"]` [B, H, W, C], draws anew for every image, keeps its type (an
integer type is rounded to), and leaves the rest of the batch as it was, but for `mixup` and `cutmix`, which make soft
labels. Black is 0, so `normalise` comes last.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxnets.typing import Batch

Augment = Callable[[jax.Array, Batch], Batch]
"""A function of a PRNG key and a batch that gives the batch changed."""


def chain(*augments: Augment) -> Augment:
    """Applies augmentations one after the other, each with a key of its own."""

    def apply(key: jax.Array, batch: Batch) -> Batch:
        for i, augment in enumerate(augments):
            batch = augment(jax.random.fold_in(key, i), batch)
        return batch

    return apply


def channel_statistics(x: Shaped[np.ndarray, "n h w c"]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and standard deviation of each channel over a data set, of integer images in units of [0, 1].

    >>> channel_statistics(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
    ((0.5,), (0.5,))
    """
    scale = np.iinfo(x.dtype).max if np.issubdtype(x.dtype, np.integer) else 1
    total, squares = np.zeros(x.shape[-1]), np.zeros(x.shape[-1])
    for start in range(0, len(x), 1000):
        part = x[start : start + 1000].astype(np.float64)
        # Over the images first: sums along a short last axis are slow.
        total += part.sum(0).sum((0, 1))
        squares += np.square(part).sum(0).sum((0, 1))
    count = x.size // x.shape[-1]
    mean = total / (count * scale)
    std = np.sqrt(np.maximum(squares / (count * scale**2) - mean**2, 0))
    return tuple(mean.tolist()), tuple(std.tolist())


def normalise(mean: float | Sequence[float], std: float | Sequence[float]) -> Augment:
    """Makes (x - mean) / std, channel by channel; the key is not used.

    Unsigned bytes become float32 and are brought to [0, 1] first; floats are taken to be in the units of the mean.

    Raises:
      ValueError: If a standard deviation is not positive, or their number is not that of the channels.
      TypeError: If x is of another integer type.
    """
    means, stds = (np.atleast_1d(np.asarray(values, np.float64)) for values in (mean, std))
    if not (stds > 0).all():
        raise ValueError(f"normalise: std is {stds.tolist()} but wants positive values: is a channel constant?")

    def apply(key: jax.Array, batch: Batch) -> Batch:
        x = batch["x"]
        for name, value in (("mean", means), ("std", stds)):
            if value.size not in (1, x.shape[-1]):
                raise ValueError(f"normalise: {name} has {value.size} values but x has {x.shape[-1]} channels")
        if x.dtype != jnp.uint8 and not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"normalise: x is {x.dtype} but wants uint8 or floats")
        unit, dtype = (255, jnp.float32) if x.dtype == jnp.uint8 else (1, x.dtype)
        scale, offset = jnp.asarray(1 / (unit * stds), dtype), jnp.asarray(-means / stds, dtype)
        return {**batch, "x": x.astype(dtype) * scale + offset}

    return apply


def random_crop(padding: int = 4, *, fill: Literal["zeros", "reflect", "edge"] = "zeros") -> Augment:
    """Shifts each image by up to `padding` pixels along each axis: a crop of its own size from the padded image.

    Raises:
      ValueError: If the padding is negative, or the fill is unknown.
    """
    if padding < 0:
        raise ValueError(f"random_crop: padding is {padding} but wants 0 pixels or more")
    modes = {"zeros": "constant", "reflect": "reflect", "edge": "edge"}
    if fill not in modes:
        raise ValueError(f"random_crop: fill is {fill!r} but wants one of {', '.join(modes)}")

    def apply(key: jax.Array, batch: Batch) -> Batch:
        x = batch["x"]
        padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=modes[fill])
        offsets = jax.random.randint(key, (x.shape[0], 2), 0, 2 * padding + 1)
        return {
            **batch,
            "x": jax.vmap(lambda i, o: lax.dynamic_slice(i, (o[0], o[1], 0), x.shape[1:]))(padded, offsets),
        }

    return apply


def random_flip(probability: float = 0.5) -> Augment:
    """Mirrors left and right with a probability."""

    def apply(key: jax.Array, batch: Batch) -> Batch:
        x = batch["x"]
        flip = jax.random.bernoulli(key, probability, (x.shape[0], 1, 1, 1))
        return {**batch, "x": jnp.where(flip, x[:, :, ::-1], x)}

    return apply


def random_rotation(degrees: float) -> Augment:
    """Rotates by an angle drawn evenly from -degrees to degrees; see `random_affine`."""
    return random_affine(degrees=degrees)


def random_affine(
    *, degrees: float = 0.0, translate_pixels: float = 0.0, scale: tuple[float, float] = (1.0, 1.0)
) -> Augment:
    """Rotates about the centre, enlarges and shifts each image, by bilinear sampling; what comes from outside is 0.

    The angle is even over -degrees to degrees, each shift over -translate_pixels to translate_pixels, the factor over
    the logarithms of `scale` = (smallest, largest).

    Raises:
      ValueError: If the scale is not two positive factors in order.
    """
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f"random_affine: scale is {scale} but wants 0 < smallest <= largest")

    def apply(key: jax.Array, batch: Batch) -> Batch:
        x = batch["x"]
        keys, count = jax.random.split(key, 3), x.shape[:1]
        angle = math.radians(degrees) * jax.random.uniform(keys[0], count, minval=-1, maxval=1)
        shift = translate_pixels * jax.random.uniform(keys[1], (*count, 2), minval=-1, maxval=1)
        lowest, highest = math.log(scale[0]), math.log(scale[1])
        factor = jnp.exp(lowest + (highest - lowest) * jax.random.uniform(keys[2], count))
        return {**batch, "x": affine(x, angle, factor, shift)}

    return apply


def affine(
    x: Shaped[Array, "b h w c"],
    angle: Float[Array, " b"],
    factor: Float[Array, " b"],
    shift: Float[Array, "b 2"],
) -> Shaped[Array, "b h w c"]:
    """Rotates each image about its centre, enlarges it, then shifts it; bilinear, 0 outside.

    Args:
      x: The images; an integer type is rounded to.
      angle: Radians, anticlockwise as the image is looked at.
      factor: 2 makes things twice as large.
      shift: Pixels down and to the right.
    """
    h, w = x.shape[1:3]
    cos, sin = jnp.cos(angle) / factor, jnp.sin(angle) / factor
    # Row and column of the source = matrix @ (row, column, 1) of the result, counted from the centre.
    matrix = jnp.stack([jnp.stack([cos, sin], -1), jnp.stack([-sin, cos], -1)], 1)
    grid = np.stack(np.meshgrid(np.arange(h) - (h - 1) / 2, np.arange(w) - (w - 1) / 2, indexing="ij"))
    grid = grid.reshape(2, -1).astype(np.float32)

    def sample(image: jax.Array, matrix: jax.Array, shift: jax.Array) -> jax.Array:
        rows, columns = jnp.dot(matrix, grid - shift[:, None], precision="highest")
        # A border of zeros, one pixel before and two after, answers for all that is outside.
        rows, columns = jnp.clip(rows + (h + 1) / 2, 0, h + 1), jnp.clip(columns + (w + 1) / 2, 0, w + 1)
        top, left = jnp.floor(rows), jnp.floor(columns)
        down, right = (rows - top)[:, None], (columns - left)[:, None]
        padded = jnp.pad(image, ((1, 2), (1, 2), (0, 0))).astype(jnp.float32)
        corner = [
            padded.at[top.astype(jnp.int32) + i, left.astype(jnp.int32) + j].get(mode="promise_in_bounds")
            for i in (0, 1)
            for j in (0, 1)
        ]
        upper = corner[0] * (1 - right) + corner[1] * right
        lower = corner[2] * (1 - right) + corner[3] * right
        return _as(upper * (1 - down) + lower * down, image.dtype).reshape(image.shape)

    # In one piece XLA would fuse the sampling into whatever reads the result, and sample anew for each of its reads:
    # the loop keeps it apart, and its blocks in the cache.
    return lax.map(lambda args: sample(*args), (x, matrix, shift), batch_size=32)


def cutout(size: int) -> Augment:
    """Blackens a square whose centre is drawn evenly over the image; what hangs over the edge is lost.

    References:
      DeVries and Taylor, 2017. Improved regularization of convolutional neural networks with cutout.
    """

    def apply(key: jax.Array, batch: Batch) -> Batch:
        x = batch["x"]
        sides = jnp.full((x.shape[0], 2), size)
        return {**batch, "x": jnp.where(_boxes(key, sides, x.shape), jnp.zeros((), x.dtype), x)}

    return apply


def mixup(alpha: float, classes: int) -> Augment:
    """Blends each image and its label with those of another of the batch, by a share drawn from Beta(alpha, alpha).

    `batch["y"]` becomes float32 [B, classes]: integer labels are made one-hot (all zeros where out of range), soft
    ones are blended as they are.

    References:
      Zhang et al., 2018. mixup: beyond empirical risk minimization.
    """
    _check_alpha("mixup", alpha)

    def apply(key: jax.Array, batch: Batch) -> Batch:
        x, y = batch["x"], _soft("mixup", batch["y"], classes)
        share_key, partner_key = jax.random.split(key)
        share = _beta(share_key, alpha, x.shape[0])
        partner = jax.random.permutation(partner_key, x.shape[0])
        mixed = _blend(x.astype(jnp.float32), partner, share)
        return {**batch, "x": _as(mixed, x.dtype), "y": _blend(y, partner, share)}

    return apply


def cutmix(alpha: float, classes: int) -> Augment:
    """Pastes a box of another image of the batch into each, and blends the labels by the area.

    The box has the image's shape and, where it does not hang over the edge, an area of 1 - Beta(alpha, alpha).
    Labels are as in `mixup`.

    References:
      Yun et al., 2019. CutMix: regularization strategy to train strong classifiers with localizable features.
    """
    _check_alpha("cutmix", alpha)

    def apply(key: jax.Array, batch: Batch) -> Batch:
        x, y = batch["x"], _soft("cutmix", batch["y"], classes)
        share_key, partner_key, box_key = jax.random.split(key, 3)
        side = jnp.sqrt(1 - _beta(share_key, alpha, x.shape[0]))
        sides = jnp.round(side[:, None] * np.array(x.shape[1:3], np.float32)).astype(jnp.int32)
        partner = jax.random.permutation(partner_key, x.shape[0])
        box = _boxes(box_key, sides, x.shape)
        kept = 1 - box.mean((1, 2, 3), dtype=jnp.float32)
        return {**batch, "x": jnp.where(box, x[partner], x), "y": _blend(y, partner, kept)}

    return apply


def _boxes(key: jax.Array, sides: Int[Array, "b 2"], shape: tuple[int, ...]) -> Bool[Array, "b h w 1"]:
    """True inside a box of these sides around a pixel drawn evenly."""
    masks = []
    for axis, axis_key in enumerate(jax.random.split(key)):
        length, side = shape[1 + axis], sides[:, axis, None]
        start = jax.random.randint(axis_key, (shape[0], 1), 0, length) - side // 2
        position = jnp.arange(length)
        masks.append((position >= start) & (position < start + side))
    return (masks[0][:, :, None] & masks[1][:, None, :])[..., None]


def _check_alpha(op: str, alpha: float) -> None:
    if not alpha > 0:
        raise ValueError(f"{op}: alpha is {alpha} but wants a positive value")


def _soft(op: str, y: Shaped[Array, "b *k"], classes: int) -> Float[Array, "b k"]:
    if jnp.issubdtype(y.dtype, jnp.integer) and y.ndim == 1:
        return jax.nn.one_hot(y, classes, dtype=jnp.float32)
    if y.shape[1:] != (classes,):
        raise ValueError(f"{op}: y is {y.dtype}{list(y.shape)} but wants integers [B] or soft labels [B, {classes}]")
    return y.astype(jnp.float32)


def _beta(key: jax.Array, alpha: float, count: int) -> Float[Array, " b"]:
    """Draws from Beta(alpha, alpha) as G / (G + H) of two gammas; `jax.random.beta` takes twice as long to compile."""
    log_gammas = jax.random.loggamma(key, alpha, (2, count))
    return jax.nn.sigmoid(log_gammas[0] - log_gammas[1])


def _blend(values: Float[Array, "b *k"], partner: Int[Array, " b"], share: Float[Array, " b"]) -> Float[Array, "b *k"]:
    share = share.reshape(-1, *(1,) * (values.ndim - 1))
    return share * values + (1 - share) * values[partner]


def _as(values: Float[Array, "..."], dtype: jnp.dtype) -> Shaped[Array, "..."]:
    """Values in another type, rounded to the nearest where that is an integer one."""
    return (jnp.round(values) if jnp.issubdtype(dtype, jnp.integer) else values).astype(dtype)
