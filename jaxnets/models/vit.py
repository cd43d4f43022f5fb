"""Vision Transformers: an image as a sequence of its patches."""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxnets.layers import Conv, Repeated, SelfAttention, TransformerBlock
from jaxnets.layers.recurrent import label
from jaxnets.models.cnn import Images, Logits, check_images


class ViT(nn.Module):
    """A Transformer over the patches of an image, each told of its place by a learned vector.

    As it comes it is ViT-Small: on 224x224x3 with 1,000 classes and patches of 16 it has 22,050,664 parameters. For
    the 8x8 scans of digits `ViT(classes=10, patch_size=2, features=64, depth=4, num_heads=4)` will do.

    Parameters: `patch`, a convolution whose window and stride are a patch; `position` [N, features]; with the pooling
    "token" also `token` [features]; those of the blocks in `layer`; `norm` and `head`.

    Attributes:
      classes: Number of classes.
      patch_size: Side of a patch, which divides the sides of an image; all images are of one size.
      features: Width of the residual.
      depth: Number of blocks, which are compiled once.
      num_heads: Heads of attention.
      hidden: Width inside the blocks' networks; None means four times `features`.
      pooling: What the head sees: a learned "token" that goes before the patches, or the "mean" of these.
      dropout: Rate of dropout on what is added to the residual, and on the embedded patches, in training.
      remat: See `Repeated`.
      dtype: Type to compute in; None follows x.

    Raises:
      ValueError: If x is not [B, H, W, C], or its images have not the size.
      TypeError: If x is not floating.

    References:
      Dosovitskiy et al., 2021. An image is worth 16x16 words: Transformers for image recognition at scale.
      Touvron et al., 2021. Training data-efficient image transformers & distillation through attention (ViT-Small).

    >>> model = ViT(classes=10, patch_size=2, features=8, depth=2, num_heads=2)
    >>> logits, variables = model.init_with_output(jax.random.key(0), jnp.ones((3, 8, 8, 1)))
    >>> logits.shape, variables["params"]["position"].shape
    ((3, 10), (17, 8))
    """

    classes: int = 1000
    patch_size: int = 16
    features: int = 384
    depth: int = 12
    num_heads: int = 6
    hidden: int | None = None
    pooling: Literal["token", "mean"] = "token"
    dropout: float = 0.0
    remat: bool = False
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Images, *, train: bool = False) -> Logits:
        """Gives the logits of the images x; dropout acts only in training."""
        x = self._checked(x)
        conv = Conv(
            self.features, self.patch_size, strides=self.patch_size, padding="VALID", dtype=x.dtype, name="patch"
        )
        x = conv(x)
        x = x.reshape(x.shape[0], x.shape[1] * x.shape[2], self.features)
        if self.pooling == "token":
            token = self.param("token", nn.initializers.zeros, (self.features,), jnp.float32)
            first = jnp.broadcast_to(jnp.asarray(token, x.dtype)[None, None], (x.shape[0], 1, self.features))
            x = jnp.concatenate([first, x], axis=1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x + self._position(x.shape[1:], x.dtype)[None])
        block = TransformerBlock(
            SelfAttention(self.num_heads, causal=False, use_bias=True, parent=None),
            hidden=self.hidden,
            use_bias=True,
            dropout=self.dropout,
            parent=None,  # It is the blocks' own, below.
        )
        x, _ = Repeated(block, self.depth, self.remat, name="layer")(x, train=train)
        x = nn.LayerNorm(dtype=x.dtype, name="norm")(x)
        x = x[:, 0] if self.pooling == "token" else jnp.mean(x, axis=1)
        return nn.Dense(self.classes, dtype=x.dtype, name="head")(x)

    def _position(self, shape: tuple[int, ...], dtype: Any) -> Array:
        if self.has_variable("params", "position"):
            stored: tuple[int, ...] = self.get_variable("params", "position").shape
            if stored != shape:
                raise ValueError(f"{label(self)}: images make {shape[0]} steps but were {stored[0]} when it was made")
        return jnp.asarray(self.param("position", nn.initializers.normal(0.02), shape, jnp.float32), dtype)

    def _checked(self, x: Array) -> Array:
        if self.pooling not in ("token", "mean"):
            raise ValueError(f"ViT: pooling must be 'token' or 'mean', got {self.pooling!r}")
        if self.patch_size < 1:
            raise ValueError(f"ViT: patch_size must be at least 1, got {self.patch_size}")
        x = check_images(self, x, self.patch_size)
        if x.shape[1] % self.patch_size or x.shape[2] % self.patch_size:
            raise ValueError(
                f"ViT: images are {x.shape[1]}x{x.shape[2]}, wanted multiples of patch_size={self.patch_size}"
            )
        return x
