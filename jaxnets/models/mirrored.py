"""A classifier that is asked twice: about an image, and about its mirror image."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class Mirrored(nn.Module):
    """A network that, once trained, gives the mean of its logits for an image and for the image seen in a mirror.

    It suits images whose class stays when left and right change places, and a network trained on both. In training
    nothing is different.

    Parameters: those of `model`.

    Attributes:
      model: A network of images [B, H, W, C].

    References:
      Krizhevsky, Sutskever and Hinton, 2012. ImageNet classification with deep convolutional neural networks.

    >>> model = Mirrored(jn.models.SmallCNN(classes=3, padding="SAME"))
    >>> x = jax.random.uniform(jax.random.key(0), (1, 8, 8, 1))
    >>> variables = model.init(jax.random.key(1), x)
    >>> bool(jnp.allclose(model.apply(variables, x), model.apply(variables, x[:, :, ::-1]), atol=1e-6))
    True
    """

    model: Any

    def setup(self) -> None:
        """Gives the network's parameters their own names."""
        nn.share_scope(self, self.model)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b k"]:
        """Gives logits."""
        if train:
            return self.model(x, train=True)
        both = self.model(jnp.concatenate([x, x[:, :, ::-1]]), train=False)
        return jnp.mean(jnp.stack(jnp.split(both, 2)), axis=0)
