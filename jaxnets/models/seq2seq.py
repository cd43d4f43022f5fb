"""From one sequence of tokens to another: an encoder whose output is the memory that a decoder looks into."""

import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers import (
    GRU,
    AdditiveAttention,
    Attending,
    Bidirectional,
    CrossAttention,
    MultiplicativeAttention,
    Repeated,
    SelfAttention,
    SinusoidalPosition,
    Stack,
    TransformerBlock,
)
from jaxnets.layers._dense import Dense
from jaxnets.layers.recurrent import label
from jaxnets.layers.sequence import attends, initial_carry_of, output_lengths
from jaxnets.models.language import attend_tied, check_tokens
from jaxnets.typing import Carry


class Seq2Seq(nn.Module):
    """A source's tokens through an encoder to a memory, and a target's through a decoder that looks into it to logits.

    Embeddings are multiplied by the root of their width. `decode` keeps the sequence contract, and streams: what it
    needs of the memory is in its carry.

    Parameters: `embedding` of the target's tokens, and of the source's too unless there is a `source_embedding`; those
    of `encoder` and `decoder`; with `norm` also `encoder_norm` and `decoder_norm`; `head`, where weights are not tied.

    Attributes:
      encoder: Any layer over time; its output is the memory.
      decoder: Any layer over time that attends to a memory, such as `Attending`, or blocks with `cross`.
      vocabulary: Number of tokens of the target.
      features: Width of the embeddings; where weights are tied, of the decoder's output too.
      source_vocabulary: Number of tokens of the source; None means that it has the target's, and one table serves both.
      tied: Whether logits are products with the target's embedding, and not with a head of their own.
      norm: Makes what normalises the memory and the decoder's output, such as `nn.LayerNorm`, or None.
      dropout: Rate of dropout on the embeddings and the decoder's output where `train` is set (key: "dropout").
      dtype: Type to compute in; None means that of the parameters.
      param_dtype: Type of the parameters.

    References:
      Sutskever, Vinyals and Le, 2014. Sequence to sequence learning with neural networks.
      Vaswani et al., 2017. Attention is all you need.

    >>> encoder, attention = jn.layers.Bidirectional(jn.layers.GRU(4)), jn.layers.MultiplicativeAttention()
    >>> model = Seq2Seq(encoder, jn.layers.Attending(jn.layers.GRU(8), attention, 8), vocabulary=5, features=8)
    >>> source, target = jnp.array([[1, 2, 3, 4]]), jnp.array([[0, 4, 3]])
    >>> (logits, _), variables = model.init_with_output(jax.random.key(0), source, target)
    >>> logits.shape
    (1, 3, 5)

    Token by token, and the last of them:

    >>> carry = model.apply(variables, source, capacity=3, method="begin")
    >>> for t in range(3):
    ...     step, carry = model.apply(variables, target[:, t : t + 1], carry=carry, method="decode")
    >>> jnp.allclose(step, logits[:, 2:], atol=1e-5)
    Array(True, dtype=bool)
    """

    encoder: Any
    decoder: Any
    vocabulary: int
    features: int
    source_vocabulary: int | None = None
    tied: bool = False
    norm: Callable[..., Any] | None = None
    dropout: float = 0.0
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Makes the embeddings, the norms and the head."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.embedding = nn.Embed(self.vocabulary, self.features, **types)
        if self.source_vocabulary is not None:
            self.source_embedding = nn.Embed(self.source_vocabulary, self.features, **types)
        if self.norm is not None:
            self.encoder_norm, self.decoder_norm = self.norm(**types), self.norm(**types)
        if not self.tied:
            self.head = Dense(self.vocabulary, **types)
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        source: Int[Array, "b s"],
        target: Int[Array, "b t"],
        *,
        source_lengths: Int[Array, " b"] | None = None,
        target_lengths: Int[Array, " b"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t vocabulary"], Carry]:
        """Gives logits of the token that follows each of the target's; ids outside a vocabulary give NaN.

        Raises:
          TypeError: If source or target is not of integers.
          ValueError: If a shape does not fit, or weights are tied and the decoder's output has not the width for it.
        """
        memory, memory_lengths = self.encode(source, lengths=source_lengths, train=train)
        return self.decode(target, lengths=target_lengths, train=train, memory=memory, memory_lengths=memory_lengths)

    def encode(
        self, source: Int[Array, "b s"], *, lengths: Int[Array, " b"] | None = None, train: bool = False
    ) -> tuple[Float[Array, "b u e"], Int[Array, " b"] | None]:
        """Gives the memory, and how many of its steps count."""
        check_tokens(self, "source", source)
        embed = self.embedding if self.source_vocabulary is None else self.source_embedding
        memory, _ = self.encoder(self._embedded(embed, source, lengths, train), lengths=lengths, train=train)
        lengths = output_lengths(self.encoder, lengths)
        return (memory if self.norm is None else ops.zero_padding(self.encoder_norm(memory), lengths)), lengths

    def decode(
        self,
        x: Int[Array, "b t"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: Carry | None = None,
        train: bool = False,
        memory: Float[Array, "b u e"] | None = None,
        memory_lengths: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b t vocabulary"], Carry]:
        """Gives logits of the token that follows each; the memory is given once, and is in the carry from then on.

        Targets packed in one row with `starts` look into one memory.

        Raises:
          TypeError: If x is not of integers.
          ValueError: If a shape does not fit, the decoder attends to no memory, or there is neither a memory nor one in
            the carry, or both.
        """
        check_tokens(self, "x", x)
        if not attends(self.decoder):
            raise ValueError(f"{label(self)}: decoder, {type(self.decoder).__name__}, attends to no memory")
        y, carry = self.decoder(
            self._embedded(self.embedding, x, lengths, train),
            lengths=lengths,
            starts=starts,
            carry=carry,
            train=train,
            memory=memory,
            memory_lengths=memory_lengths,
        )
        y = self.drop(y if self.norm is None else self.decoder_norm(y), deterministic=not train)
        logits = attend_tied(self, self.embedding, y) if self.tied else self.head(y)
        return ops.zero_padding(logits, lengths), carry

    def begin(self, source: Int[Array, "b s"], *, lengths: Int[Array, " b"] | None = None, capacity: int) -> Carry:
        """The carry to decode from: what the decoder needs of the source, and room for so many tokens of a target."""
        memory, memory_lengths = self.encode(source, lengths=lengths)
        x = jnp.zeros((source.shape[0], 0), source.dtype)
        carry = self.initial_carry(jax.ShapeDtypeStruct((source.shape[0], capacity), source.dtype))
        return self.decode(x, carry=carry, memory=memory, memory_lengths=memory_lengths)[1]

    def initial_carry(self, spec: jax.ShapeDtypeStruct) -> Carry:
        """The decoder's before it has a memory, for tokens like `spec`."""
        dtype = self.param_dtype if self.dtype is None else self.dtype
        return initial_carry_of(self.decoder, jax.ShapeDtypeStruct((*spec.shape, self.features), dtype))

    def _embedded(self, embed: nn.Embed, x: Array, lengths: Array | None, train: bool) -> Array:
        return self.drop(embed(ops.zero_padding(x, lengths)) * math.sqrt(self.features), deterministic=not train)


def transformer_seq2seq(
    vocabulary: int,
    features: int,
    depth: int,
    num_heads: int,
    *,
    source_vocabulary: int | None = None,
    hidden: int | None = None,
    gated: bool = False,
    norm: Callable[..., Any] = nn.LayerNorm,
    tied: bool = True,
    dropout: float = 0.0,
    remat: bool = False,
    dtype: DTypeLike | None = None,
) -> Seq2Seq:
    """The Transformer, normalised before each part, with sinusoids for its positions.

    Args:
      vocabulary: Number of tokens of the target.
      features: Width of the residual.
      depth: Number of blocks of the encoder, and of the decoder.
      num_heads: Heads of every attention.
      source_vocabulary: See `Seq2Seq`.
      hidden: See `TransformerBlock`.
      gated: See `TransformerBlock`.
      norm: What normalises.
      tied: See `Seq2Seq`.
      dropout: Rate of dropout on what is added to the residual, and on the embeddings.
      remat: See `Repeated`.
      dtype: See `Seq2Seq`.

    References:
      Vaswani et al., 2017. Attention is all you need.

    >>> model = transformer_seq2seq(vocabulary=5, features=8, depth=2, num_heads=2)
    >>> source, target = jnp.array([[1, 2, 3, 4]]), jnp.array([[0, 4, 3]])
    >>> model.init_with_output(jax.random.key(0), source, target)[0][0].shape
    (1, 3, 5)
    """

    def blocks(causal: bool) -> Stack:
        block = TransformerBlock(
            SelfAttention(num_heads, causal=causal),
            CrossAttention(num_heads) if causal else None,
            hidden=hidden,
            gated=gated,
            norm=norm,
            dropout=dropout,
        )
        return Stack((SinusoidalPosition(), Repeated(block, depth, remat)))

    return Seq2Seq(
        blocks(causal=False),
        blocks(causal=True),
        vocabulary,
        features,
        source_vocabulary=source_vocabulary,
        tied=tied,
        norm=norm,
        dropout=dropout,
        dtype=dtype,
    )


def recurrent_seq2seq(
    vocabulary: int,
    features: int,
    depth: int = 1,
    *,
    layer: Callable[[int], Any] = GRU,
    attention: Literal["additive", "multiplicative"] = "additive",
    feed: bool = True,
    source_vocabulary: int | None = None,
    tied: bool = True,
    dropout: float = 0.0,
    dtype: DTypeLike | None = None,
) -> Seq2Seq:
    """Recurrent layers in both directions to encode, and in one to decode, the last of which looks into the memory.

    Args:
      vocabulary: Number of tokens of the target.
      features: Width of the embeddings and of every layer.
      depth: Number of layers of the encoder, and of the decoder.
      layer: Makes a layer of its width.
      attention: How a step is compared with the memory.
      feed: See `Attending`.
      source_vocabulary: See `Seq2Seq`.
      tied: See `Seq2Seq`.
      dropout: Rate of dropout on what every layer is given, and on the last one's output.
      dtype: See `Seq2Seq`.

    References:
      Bahdanau, Cho and Bengio, 2015. Neural machine translation by jointly learning to align and translate.
      Luong, Pham and Manning, 2015. Effective approaches to attention-based neural machine translation.

    >>> model = recurrent_seq2seq(vocabulary=5, features=8, attention="multiplicative")
    >>> source, target = jnp.array([[1, 2, 3, 4]]), jnp.array([[0, 4, 3]])
    >>> model.init_with_output(jax.random.key(0), source, target)[0][0].shape
    (1, 3, 5)
    """
    if attention not in ("additive", "multiplicative"):
        raise ValueError(f"recurrent_seq2seq: attention is {attention!r} but wants 'additive' or 'multiplicative'")
    look = AdditiveAttention(features) if attention == "additive" else MultiplicativeAttention()
    encoder = tuple(Bidirectional(layer(features)) for _ in range(depth))
    below = tuple(layer(features) for _ in range(depth - 1))
    return Seq2Seq(
        Stack(encoder, dropout),
        Stack((*below, Attending(layer(features), look, features, feed)), dropout),
        vocabulary,
        features,
        source_vocabulary=source_vocabulary,
        tied=tied,
        dropout=dropout,
        dtype=dtype,
    )
