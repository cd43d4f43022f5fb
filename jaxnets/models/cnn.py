"""Small networks for small images: the classic convolutional ones, a modern one, and a perceptron to compare with."""

import math
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxnets import ops
from jaxnets.layers import Conv

Images = Float[Array, "b h w c"]
Logits = Float[Array, "b classes"]


class SmallCNN(nn.Module):
    """The classic small network: convolutions of 3x3 and max-pools of 2, then dense layers, with ReLU between.

    As it comes (28x28x1, 10 classes): conv 32, pool, conv 64, pool, conv 64, dense 64, dense 10; 93,322 parameters.

    Attributes:
      classes: Number of classes.
      padding: Of the convolutions; "VALID" needs images of 18x18 or more (10x10 without the third convolution), "SAME"
        of 4x4 or more.
      third_conv: Whether there is a third convolution after the second pool.
      dense: Width of the hidden dense layer; None leaves it out.
      dropout: Rate of dropout before the last layer, in training.
      dtype: Type to compute in; None follows x.

    Raises:
      ValueError: If x is not [B, H, W, C] or the images are too small.
      TypeError: If x is not floating.

    >>> SmallCNN().init_with_output(jax.random.key(0), jnp.ones((2, 28, 28, 1)))[0].shape
    (2, 10)
    """

    classes: int = 10
    padding: Literal["VALID", "SAME"] = "VALID"
    third_conv: bool = True
    dense: int | None = 64
    dropout: float = 0.0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Images, *, train: bool = False) -> Logits:
        """Gives the logits of the images x; dropout acts only in training."""
        smallest = 4 if self.padding == "SAME" else 18 if self.third_conv else 10
        x = check_images(self, x, smallest, " (padding='SAME' takes 4x4)" if self.padding == "VALID" else "")
        for i, features in enumerate((32, 64, 64) if self.third_conv else (32, 64)):
            x = nn.relu(Conv(features, 3, padding=self.padding, dtype=x.dtype, name=f"conv_{i + 1}")(x))
            if i < 2:
                x = ops.max_pool(x, 2)
        x = _flat(x)
        if self.dense is not None:
            x = nn.relu(nn.Dense(self.dense, dtype=x.dtype, name="dense")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, dtype=x.dtype, name="head")(x)


class LeNet5(nn.Module):
    """LeNet-5 as it is told today: every map of the second convolution sees all of the first, softmax at the end.

    Two convolutions of 5x5 (6 and 16 maps) with tanh and average pools of 2, then dense 120, 84 and classes. On
    28x28x1 with 10 classes it has 61,706 parameters.

    Attributes:
      classes: Number of classes.
      padding: Of the first convolution: "SAME" for 28x28 images, "VALID" for the paper's 32x32.
      dtype: Type to compute in; None follows x.

    Raises:
      ValueError: If x is not [B, H, W, C] or the images are smaller than 12x12 ("VALID": 16x16).
      TypeError: If x is not floating.

    References:
      LeCun et al., 1998. Gradient-based learning applied to document recognition.

    >>> LeNet5().init_with_output(jax.random.key(0), jnp.ones((2, 28, 28, 1)))[0].shape
    (2, 10)
    """

    classes: int = 10
    padding: Literal["SAME", "VALID"] = "SAME"
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Images, *, train: bool = False) -> Logits:
        """Gives the logits of the images x; training changes nothing."""
        x = check_images(self, x, 12 if self.padding == "SAME" else 16)
        for i, (features, padding) in enumerate(((6, self.padding), (16, "VALID"))):
            x = nn.tanh(Conv(features, 5, padding=padding, dtype=x.dtype, name=f"conv_{i + 1}")(x))
            x = ops.avg_pool(x, 2)
        x = _flat(x)
        for i, features in enumerate((120, 84)):
            x = nn.tanh(nn.Dense(features, dtype=x.dtype, name=f"dense_{i + 1}")(x))
        return nn.Dense(self.classes, dtype=x.dtype, name="head")(x)


class ConvNet(nn.Module):
    """A small modern network: stages of convolution, batch norm and ReLU.

    Each stage halves the image by a max-pool of 2 right after its first convolution, so that all else in it works on a
    quarter of the places.

    Batch statistics are kept in the collection "batch_stats" (momentum 0.9) and are those of the batch at hand in
    training. On 28x28x1 with 10 classes it has 94,186 parameters as it comes.

    Attributes:
      classes: Number of classes.
      widths: Channels of each stage; images must be at least 2^stages wide and high.
      depth: Convolutions in each stage.
      pooling: What becomes of the last map: its "average" over all places, or "flatten".
      dropout: Rate of dropout before the last layer, in training.
      dtype: Type to compute in; None follows x.

    Raises:
      ValueError: If x is not [B, H, W, C] or the images are too small.
      TypeError: If x is not floating.

    References:
      Ioffe and Szegedy, 2015. Batch normalization.
      Jordan, 2024. 94% on CIFAR-10 in 3.29 seconds on a single GPU (the place of the pool).

    >>> ConvNet().init_with_output(jax.random.key(0), jnp.ones((2, 28, 28, 1)))[0].shape
    (2, 10)
    """

    classes: int = 10
    widths: tuple[int, ...] = (32, 64, 128)
    depth: int = 1
    pooling: Literal["average", "flatten"] = "average"
    dropout: float = 0.0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Images, *, train: bool = False) -> Logits:
        """Gives the logits of the images x; batch statistics and dropout act only in training."""
        if self.pooling not in ("average", "flatten"):
            raise ValueError(f"ConvNet: pooling must be 'average' or 'flatten', got {self.pooling!r}")
        x = check_images(self, x, 2 ** len(self.widths))
        for stage, features in enumerate(self.widths):
            for i in range(self.depth):
                place = f"stage{stage + 1}_conv{i + 1}"
                x = Conv(features, 3, use_bias=False, dtype=x.dtype, name=place)(x)
                x = ops.max_pool(x, 2) if i == 0 else x
                norm = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=x.dtype, name=f"{place}_norm")
                x = nn.relu(norm(x))
        x = ops.global_avg_pool(x) if self.pooling == "average" else _flat(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, dtype=x.dtype, name="head")(x)


class MLP(nn.Module):
    """Dense layers with ReLU between, over whatever x holds for each row: on 8x8 images 64-64-10.

    Attributes:
      hidden: Widths of the hidden layers.
      classes: Number of classes.
      dropout: Rate of dropout after each hidden layer, in training.
      dtype: Type to compute in; None follows x.

    Raises:
      TypeError: If x is not floating.

    >>> MLP().init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 1)))[0].shape
    (2, 10)
    """

    hidden: tuple[int, ...] = (64,)
    classes: int = 10
    dropout: float = 0.0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b *features"], *, train: bool = False) -> Logits:
        """Gives the logits of the rows of x; dropout acts only in training."""
        x = _flat(_floating(self, x))
        for i, features in enumerate(self.hidden):
            x = nn.relu(nn.Dense(features, dtype=x.dtype, name=f"dense_{i + 1}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, dtype=x.dtype, name="head")(x)


def check_images(model: nn.Module, x: Array, smallest: int = 1, hint: str = "") -> Images:
    """Images in the model's type, refused if they are no batch of images or not at least `smallest` high and wide."""
    name = type(model).__name__
    if x.ndim != 4:
        raise ValueError(f"{name}: x must be images [B, H, W, C], got x.shape={x.shape}")
    if min(x.shape[1:3]) < smallest:
        got = "x".join(map(str, x.shape[1:3]))
        raise ValueError(f"{name}: images are {got}, wanted at least {smallest}x{smallest}{hint}")
    return _floating(model, x)


def _flat(x: Array) -> Array:
    """Each row as one vector; the number of rows may be 0, or a symbol."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _floating(model: nn.Module, x: Array) -> Array:
    """X in the type that the model computes in, which every layer then follows."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{type(model).__name__}: x must be floating, got {x.dtype} (scale integer pixels first)")
    return x if model.dtype is None else jnp.asarray(x, model.dtype)
