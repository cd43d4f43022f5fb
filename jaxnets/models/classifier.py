"""One answer for a sequence, or one for each of its steps, from any layer over time."""

from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers._dense import Dense
from jaxnets.layers.sequence import output_lengths

Pooling = Literal["last", "first", "mean", "none"]


class SequenceClassifier(nn.Module):
    """A layer over time between an encoder of its steps and a head: logits of classes, or numbers to predict.

    Parameters: those of `layer` and `head`, and of `embedding`, `encoder` and `hidden` where there are such.

    Attributes:
      layer: Any layer that keeps the sequence contract.
      outputs: Classes, or numbers to predict.
      pooling: What the head sees: the "last" step that counts, the "first", the "mean" of those that do, or, with
        "none", each. A row without any gives zeros.
      vocabulary: Number of tokens, if x holds integers: each is embedded in as many numbers. None where x does not, or
        where the layer embeds them itself, as an `Encoder` does.
      encoder_features: Width of a dense layer with GELU under the layer, for one that is linear in its input; None
        leaves it out.
      hidden_features: Width of a dense layer with GELU under the head, likewise.
      dropout: Rate of dropout before the head, in training.

    >>> model = SequenceClassifier(jn.layers.LSTM(features=8), outputs=3)
    >>> model.init_with_output(jax.random.key(0), jnp.ones((2, 5, 4)), lengths=jnp.array([5, 2]))[0].shape
    (2, 3)
    """

    layer: Any
    outputs: int
    pooling: Pooling = "last"
    vocabulary: int | None = None
    encoder_features: int | None = None
    hidden_features: int | None = None
    dropout: float = 0.0

    def setup(self) -> None:
        """Makes the dense layers."""
        if self.pooling not in get_args(Pooling):
            raise ValueError(
                f"SequenceClassifier: pooling must be 'last', 'first', 'mean' or 'none', got {self.pooling!r}"
            )
        if self.vocabulary is not None:
            self.embedding = nn.Embed(self.vocabulary, self.vocabulary)
        if self.encoder_features is not None:
            self.encoder = Dense(self.encoder_features)
        if self.hidden_features is not None:
            self.hidden = Dense(self.hidden_features)
        self.drop = nn.Dropout(self.dropout)
        self.head = Dense(self.outputs)

    def __call__(
        self,
        x: Float[Array, "b t d"] | Int[Array, "b t"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b *t outputs"]:
        """Gives [B, outputs], or [B, T', outputs] where nothing is pooled.

        Raises:
          TypeError: If x is not floating, or not of integers where there is a vocabulary.
          ValueError: If there are `starts`, rows of many sequences, and the pooling is not "none".
        """
        if starts is not None and self.pooling != "none":
            raise ValueError(f"SequenceClassifier: starts want pooling='none', got {self.pooling!r}")
        y, _ = self.layer(self.encode(x), lengths=lengths, starts=starts, train=train)
        return self.decode(y, lengths=lengths, train=train)

    def encode(self, x: Float[Array, "b t d"] | Int[Array, "b t"]) -> Float[Array, "b t e"] | Int[Array, "b t"]:
        """What the layer is given."""
        tokens = self.vocabulary is not None or hasattr(self.layer, "vocabulary")
        wanted = jnp.integer if tokens else jnp.floating
        if not jnp.issubdtype(x.dtype, wanted):
            raise TypeError(f"SequenceClassifier: x has dtype {x.dtype} but wants {wanted.__name__}")
        if self.vocabulary is not None:
            x = self.embedding(x)
        return x if self.encoder_features is None else nn.gelu(self.encoder(x))

    def decode(
        self, y: Float[Array, "b u f"], *, lengths: Int[Array, " b"] | None = None, train: bool = False
    ) -> Float[Array, "b *u outputs"]:
        """What is made of the layer's output; `lengths` are those of x."""
        lengths = output_lengths(self.layer, lengths)
        if self.pooling == "first":
            y = ops.last_valid(y[:, :1], lengths)
        elif self.pooling != "none":
            y = (ops.last_valid if self.pooling == "last" else ops.masked_mean)(y, lengths)
        if self.hidden_features is not None:
            y = nn.gelu(self.hidden(y))
        return self.head(self.drop(y, deterministic=not train))
