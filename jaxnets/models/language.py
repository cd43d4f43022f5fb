"""Models of language: from tokens to the logits of the next, over any layer that keeps the sequence contract."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers import LSTM, RGLRU, Repeated, Rotary, SelfAttention, Stack, TransformerBlock
from jaxnets.layers._dense import Dense
from jaxnets.layers.recurrent import label
from jaxnets.layers.sequence import initial_carry_of
from jaxnets.typing import Carry


class LanguageModel(nn.Module):
    """Tokens, embedded, through a layer over time, to logits: itself a layer over time, of tokens.

    Parameters: `embedding` (a table [vocabulary, features]), those of `layer`, and `norm` where there is one; `head`
    [features, vocabulary] and its bias where weights are not tied.

    Attributes:
      layer: Any layer that keeps the sequence contract.
      vocabulary: Number of tokens.
      features: Width of the embedding; where weights are tied, of the layer's output too.
      tied: Whether logits are products with the embedding, and not with a head of their own.
      norm: Makes what normalises the layer's output, such as `nn.LayerNorm`, or None.
      dropout: Rate of dropout on the layer's input and output where `train` is set (key: "dropout").
      input_dropout: That on its input where it is another, say 0 for an embedding too narrow to spare a part.
      dtype: Type to compute in; None means that of the parameters.
      param_dtype: Type of the parameters.

    References:
      Press and Wolf, 2017. Using the output embedding to improve language models.

    >>> model = LanguageModel(jn.layers.LSTM(features=8), vocabulary=5, features=8, tied=True)
    >>> (logits, carry), _ = model.init_with_output(jax.random.key(0), jnp.array([[1, 2, 3]]))
    >>> logits.shape, carry.h.shape
    ((1, 3, 5), (1, 8))
    """

    layer: Any
    vocabulary: int
    features: int
    tied: bool = False
    norm: Callable[..., Any] | None = None
    dropout: float = 0.0
    input_dropout: float | None = None
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Int[Array, "b t"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: Carry | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t vocabulary"], Carry]:
        """Gives logits of the token that follows each; ids outside the vocabulary give NaN.

        Raises:
          TypeError: If x is not of integers.
          ValueError: If weights are tied and the layer's output has another width than the embedding.
        """
        check_tokens(self, "x", x)
        embed = nn.Embed(
            self.vocabulary, self.features, dtype=self.dtype, param_dtype=self.param_dtype, name="embedding"
        )
        into = nn.Dropout(self.dropout if self.input_dropout is None else self.input_dropout, deterministic=not train)
        embedded = into(embed(ops.zero_padding(x, lengths)))
        y, carry = self.layer(embedded, lengths=lengths, starts=starts, carry=carry, train=train)
        if self.norm is not None:
            y = self.norm(dtype=y.dtype, param_dtype=self.param_dtype, name="norm")(y)
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        logits = attend_tied(self, embed, y) if self.tied else self._head(y)
        return ops.zero_padding(logits, lengths), carry

    def initial_carry(self, spec: jax.ShapeDtypeStruct) -> Carry:
        """The layer's, for tokens like `spec`: a cache has room for as many."""
        dtype = self.param_dtype if self.dtype is None else self.dtype
        return initial_carry_of(self.layer, jax.ShapeDtypeStruct((*spec.shape, self.features), dtype))

    def _head(self, y: Array) -> Array:
        return Dense(self.vocabulary, dtype=self.dtype, param_dtype=self.param_dtype, name="head")(y)


def check_tokens(model: nn.Module, name: str, x: Array) -> None:
    """Checks that x, called so by the model, holds tokens [B, T]."""
    if x.ndim != 2:
        raise ValueError(f"{label(model)}: {name} wants [B, T] but has shape {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"{label(model)}: {name} wants tokens, of an integer dtype, but has {x.dtype}")


def attend_tied(model: nn.Module, embed: nn.Embed, y: Float[Array, "b t d"]) -> Float[Array, "b t vocabulary"]:
    """Logits as products of y with the embedding of every token."""
    if y.shape[-1] != embed.features:
        raise ValueError(
            f"{label(model)}: tied weights want {embed.features} features of the layer but it has {y.shape[-1]}"
        )
    rows = y.reshape(math.prod(y.shape[:-1]), y.shape[-1])  # as one product: see `ops._product`
    return embed.attend(rows).reshape(*y.shape[:-1], embed.num_embeddings)


class _Preset(nn.Module):
    """A `LanguageModel`, made in `setup`, whose parameters keep their names."""

    def __call__(self, x: Int[Array, "b t"], **context: Any) -> tuple[Float[Array, "b t vocabulary"], Carry]:
        """Gives logits of the token that follows each, as a `LanguageModel` does."""
        return self.model(x, **context)

    def initial_carry(self, spec: jax.ShapeDtypeStruct) -> Carry:
        """What the layer carries before any token; a cache has room for as many as `spec` has."""
        return self.model.initial_carry(spec)


class TransformerLM(_Preset):
    """A Transformer: blocks of causal self-attention, normalised before each part and at the end.

    Parameters: those of a `LanguageModel` whose layer is `Repeated`.

    Attributes:
      vocabulary: Number of tokens.
      features: Width of the residual.
      depth: Number of blocks, which are compiled once.
      num_heads: Heads of queries.
      num_kv_heads: See `SelfAttention`.
      hidden: See `TransformerBlock`.
      window: See `SelfAttention`.
      position: What attention is told of positions.
      gated: See `TransformerBlock`.
      norm: What normalises.
      tied: See `LanguageModel`.
      dropout: Rate of dropout on what is added to the residual, and on the embedding.
      remat: See `Repeated`.
      dtype: Type to compute in; None means that of the parameters.

    References:
      Radford et al., 2019. Language models are unsupervised multitask learners.

    >>> model = TransformerLM(vocabulary=5, features=8, depth=3, num_heads=2)
    >>> (logits, cache), _ = model.init_with_output(jax.random.key(0), jnp.array([[1, 2, 3]]))
    >>> logits.shape, cache.k.shape
    ((1, 3, 5), (1, 3, 2, 3, 4))
    """

    vocabulary: int
    features: int
    depth: int
    num_heads: int
    num_kv_heads: int | None = None
    hidden: int | None = None
    window: int | None = None
    position: Any = Rotary()
    gated: bool = False
    norm: Callable[..., Any] = nn.LayerNorm
    tied: bool = True
    dropout: float = 0.0
    remat: bool = False
    dtype: DTypeLike | None = None

    def setup(self) -> None:
        """Makes the model."""
        position = self.position.clone(parent=None) if isinstance(self.position, nn.Module) else self.position
        attention = SelfAttention(self.num_heads, num_kv_heads=self.num_kv_heads, window=self.window, position=position)
        block = TransformerBlock(attention, hidden=self.hidden, gated=self.gated, norm=self.norm, dropout=self.dropout)
        self.model = LanguageModel(
            Repeated(block, self.depth, self.remat),
            self.vocabulary,
            self.features,
            tied=self.tied,
            norm=self.norm,
            dropout=self.dropout,
            dtype=self.dtype,
        )
        nn.share_scope(self, self.model)


class RecurrentLM(_Preset):
    """Recurrent layers, one on another.

    Parameters: those of a `LanguageModel` whose layer is a `Stack`.

    Attributes:
      vocabulary: Number of tokens.
      features: Width of the embedding and of every layer.
      depth: Number of layers.
      layer: Makes a layer of its width: `LSTM`, `GRU`, `MinGRU`, or `functools.partial(LSTM, layer_norm=True)`.
      residual: Whether what a layer is given is added to what it makes.
      tied: See `LanguageModel`.
      dropout: Rate of dropout on what every layer is given, and on the last one's output.
      dtype: Type to compute in; None means that of the parameters.

    References:
      Zaremba, Sutskever and Vinyals, 2014. Recurrent neural network regularization.

    >>> model = RecurrentLM(vocabulary=5, features=8, depth=2, layer=jn.layers.GRU)
    >>> (logits, carry), _ = model.init_with_output(jax.random.key(0), jnp.array([[1, 2, 3]]))
    >>> logits.shape, [part.h.shape for part in carry]
    ((1, 3, 5), [(1, 8), (1, 8)])
    """

    vocabulary: int
    features: int
    depth: int = 1
    layer: Callable[[int], Any] = LSTM
    residual: bool = False
    tied: bool = True
    dropout: float = 0.0
    dtype: DTypeLike | None = None

    def setup(self) -> None:
        """Makes the model."""
        layers = tuple(self.layer(self.features) for _ in range(self.depth))
        self.model = LanguageModel(
            Stack(layers, self.dropout, self.residual),
            self.vocabulary,
            self.features,
            tied=self.tied,
            dropout=self.dropout,
            dtype=self.dtype,
        )
        nn.share_scope(self, self.model)


class HybridLM(_Preset):
    """Two blocks around an RG-LRU for each around attention in a window: it decodes in memory that does not grow.

    Parameters: those of a `LanguageModel` whose layer is a `Stack`.

    Attributes:
      vocabulary: Number of tokens.
      features: Width of the residual.
      depth: Number of blocks; every third has attention.
      num_heads: Heads of queries, which share one head of keys.
      window: Steps that attention sees.
      tied: See `LanguageModel`.
      dropout: Rate of dropout on what is added to the residual, and on the embedding.
      dtype: Type to compute in; None means that of the parameters.

    References:
      De et al., 2024. Griffin: mixing gated linear recurrences with local attention for efficient language models.

    >>> model = HybridLM(vocabulary=5, features=8, depth=3, num_heads=2, window=4)
    >>> (logits, carry), _ = model.init_with_output(jax.random.key(0), jnp.array([[1, 2, 3]]))
    >>> logits.shape, [type(part).__name__ for part in carry]
    ((1, 3, 5), ['RGLRUCarry', 'RGLRUCarry', 'KVCache'])
    """

    vocabulary: int
    features: int
    depth: int
    num_heads: int
    window: int
    tied: bool = True
    dropout: float = 0.0
    dtype: DTypeLike | None = None

    def setup(self) -> None:
        """Makes the model."""

        def mixer(i: int) -> Any:
            if i % 3 < 2:
                return RGLRU(self.features)
            return SelfAttention(self.num_heads, num_kv_heads=1, window=self.window, position=Rotary())

        mixers = map(mixer, range(self.depth))
        blocks = (TransformerBlock(part, gated=True, norm=nn.RMSNorm, dropout=self.dropout) for part in mixers)
        self.model = LanguageModel(
            Stack(tuple(blocks)),
            self.vocabulary,
            self.features,
            tied=self.tied,
            norm=nn.RMSNorm,
            dropout=self.dropout,
            dtype=self.dtype,
        )
        nn.share_scope(self, self.model)
