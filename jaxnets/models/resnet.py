"""Residual networks for images, with the stem of ImageNet or of CIFAR."""

import functools
from typing import Literal

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxnets import ops
from jaxnets.layers import Conv
from jaxnets.models.cnn import Images, Logits, check_images

# He's variance for ReLU, over the outgoing connections, so that gradients keep their size on the way back.
_Conv = functools.partial(Conv, use_bias=False, kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"))


class ResNet(nn.Module):
    """A residual network of four stages whose widths double, each stage after the first at half the resolution.

    Convolutions are padded by half their window on both sides (not "SAME", which pads unevenly where it strides), so
    weights from elsewhere fit. Batch statistics are in "batch_stats" (momentum 0.9, epsilon 1e-5).

    Attributes:
      blocks: Number of blocks in each stage.
      classes: Number of classes.
      bottleneck: Whether blocks are 1x1, 3x3, 1x1 with four times the features at the end, or two of 3x3.
      stem: "imagenet" is 7x7 with stride 2 and a max-pool of 3 with stride 2; "cifar" is 3x3 and keeps the size.
      width: Features of the first stage.
      zero_init: Whether the last scale of each block starts at 0, which makes every block start as the identity.
      dtype: Type to compute in; None follows x.

    Raises:
      ValueError: If x is not [B, H, W, C], or the stem is unknown.
      TypeError: If x is not floating.

    References:
      He et al., 2015. Deep residual learning for image recognition. The stride of a bottleneck is in its 3x3, and
      zero_init, after Goyal et al., 2017. Accurate, large minibatch SGD.

    >>> model = ResNet(blocks=(1, 1, 1, 1), width=8)
    >>> model.init_with_output(jax.random.key(0), jnp.ones((2, 16, 16, 3)))[0].shape
    (2, 10)
    """

    blocks: tuple[int, ...]
    classes: int = 10
    bottleneck: bool = False
    stem: Literal["cifar", "imagenet"] = "cifar"
    width: int = 64
    zero_init: bool = True
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Images, *, train: bool = False) -> Logits:
        """Gives the logits of the images x; the statistics are those of the batch in training."""
        if self.stem not in ("cifar", "imagenet"):
            raise ValueError(f"ResNet: stem must be 'cifar' or 'imagenet', got {self.stem!r}")
        x = check_images(self, x)
        if self.stem == "imagenet":
            x = _Conv(self.width, 7, strides=2, padding=3, dtype=x.dtype, name="stem")(x)
        else:
            x = _Conv(self.width, 3, padding=1, dtype=x.dtype, name="stem")(x)
        x = nn.relu(_norm(x, train, "stem_norm")(x))
        if self.stem == "imagenet":
            x = ops.max_pool(x, 3, strides=2, padding=1)
        for stage, count in enumerate(self.blocks):
            for i in range(count):
                x = Block(
                    features=self.width * 2**stage,
                    strides=2 if stage > 0 and i == 0 else 1,
                    bottleneck=self.bottleneck,
                    zero_init=self.zero_init,
                    name=f"stage{stage + 1}_block{i + 1}",
                )(x, train=train)
        return nn.Dense(self.classes, dtype=x.dtype, name="head")(ops.global_avg_pool(x))


class Block(nn.Module):
    """Two convolutions, or three around a bottleneck, added to a shortcut; it computes in x's type.

    Attributes:
      features: Width of the block; a bottleneck gives four times as many.
      strides: Of its first 3x3 convolution and of the shortcut.
      bottleneck: Whether it is 1x1, 3x3, 1x1 instead of 3x3, 3x3.
      zero_init: Whether the last scale starts at 0.
    """

    features: int
    strides: int = 1
    bottleneck: bool = False
    zero_init: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h_out w_out c_out"]:
        """Gives the block's map, x added."""
        windows = (1, 3, 1) if self.bottleneck else (3, 3)
        strided = windows.index(3)
        out = self.features * (4 if self.bottleneck else 1)
        y = x
        for i, window in enumerate(windows):
            last = i == len(windows) - 1
            strides = self.strides if i == strided else 1
            features = out if last else self.features
            y = _Conv(features, window, strides=strides, padding=window // 2, dtype=x.dtype, name=f"conv_{i + 1}")(y)
            scale = nn.initializers.zeros if last and self.zero_init else nn.initializers.ones
            y = _norm(x, train, f"norm_{i + 1}", scale)(y)
            y = y if last else nn.relu(y)
        if x.shape != y.shape:
            x = _Conv(out, 1, strides=self.strides, padding=0, dtype=x.dtype, name="shortcut")(x)
            x = _norm(x, train, "shortcut_norm")(x)
        return nn.relu(x + y)


def resnet18(
    classes: int = 10,
    *,
    stem: Literal["cifar", "imagenet"] = "cifar",
    zero_init: bool = True,
    dtype: DTypeLike | None = None,
) -> ResNet:
    """ResNet-18: two basic blocks a stage; 11,689,512 parameters with the ImageNet stem and 1,000 classes."""
    return ResNet((2, 2, 2, 2), classes, stem=stem, zero_init=zero_init, dtype=dtype)


def resnet34(
    classes: int = 10,
    *,
    stem: Literal["cifar", "imagenet"] = "cifar",
    zero_init: bool = True,
    dtype: DTypeLike | None = None,
) -> ResNet:
    """ResNet-34: 3, 4, 6, 3 basic blocks; 21,797,672 parameters with the ImageNet stem and 1,000 classes."""
    return ResNet((3, 4, 6, 3), classes, stem=stem, zero_init=zero_init, dtype=dtype)


def resnet50(
    classes: int = 10,
    *,
    stem: Literal["cifar", "imagenet"] = "cifar",
    zero_init: bool = True,
    dtype: DTypeLike | None = None,
) -> ResNet:
    """ResNet-50: 3, 4, 6, 3 bottlenecks; 25,557,032 parameters with the ImageNet stem and 1,000 classes."""
    return ResNet((3, 4, 6, 3), classes, bottleneck=True, stem=stem, zero_init=zero_init, dtype=dtype)


def _norm(x: Array, train: bool, name: str, scale: nn.initializers.Initializer = nn.initializers.ones) -> nn.BatchNorm:
    # The variance of x - mean, rather than of x less mean^2: the gradient then needs x - mean alone, and x is let go.
    return nn.BatchNorm(
        not train, momentum=0.9, epsilon=1e-5, use_fast_variance=False, dtype=x.dtype, scale_init=scale, name=name
    )
