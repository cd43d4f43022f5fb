"""Classifiers of texts: words, embedded, through any layer over time or none, pooled to the logits of classes."""

from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxnets import ops
from jaxnets.layers import CausalConv
from jaxnets.layers._dense import Dense
from jaxnets.layers.sequence import output_lengths
from jaxnets.models.language import check_tokens
from jaxnets.typing import Carry

WordPooling = Literal["mean", "sqrt", "max", "last", "attention"]


class TextClassifier(nn.Module):
    """Words, embedded, through a layer over time, pooled, to logits of classes. Padding counts nowhere.

    Parameters: `embedding` and, where pairs and n-grams count, `pair_embedding` and `ngram_embedding`; those of
    `layer`; `attention` and `score` where it pools by attention; `head`.

    Attributes:
      vocabulary: Number of words.
      features: Width of the embedding.
      classes: Number of classes.
      layer: Any layer that keeps the sequence contract; None reads the embedded words as they are.
      pooling: What the head sees of the words: their "mean", their sum by the root of their number, "sqrt", their
        "max", the "last", or their mean weighted by "attention", a softmax over the words of a small network's scores.
        A text without words gives zeros.
      pairs: Rows of a table in which every pair of neighbours has one by a hash, which is added to its second word's;
        0 for none. Pairs that meet in a row share it.
      ngrams: Rows of a table of what words are spelled of, the sum of which is added to the word's; 0 for none. A word
        is then a row of numbers: its own and, from `data.word_ngrams`, those of its n-grams.
      scale: How large the tables begin, as a part of the usual: with little, a word that was never seen adds little.
      word_dropout: Rate at which whole words are left out in training.
      dropout: Rate of dropout before the head, in training.

    References:
      Joulin, Grave, Bojanowski and Mikolov, 2017. Bag of tricks for efficient text classification (hashed pairs).
      Bojanowski, Grave, Joulin and Mikolov, 2017. Enriching word vectors with subword information (n-grams).
      Iyyer, Manjunatha, Boyd-Graber and Daumé, 2015. Deep unordered composition rivals syntactic methods for text
        classification (dropout of words).
      Yang et al., 2016. Hierarchical attention networks for document classification (attention that pools).

    >>> model = TextClassifier(vocabulary=9, features=8, classes=3, layer=jn.layers.GRU(4), pooling="attention")
    >>> words, lengths = jnp.array([[1, 2, 3], [8, 0, 0]]), jnp.array([3, 1])
    >>> model.init_with_output(jax.random.key(0), words, lengths=lengths)[0].shape
    (2, 3)
    """

    vocabulary: int
    features: int
    classes: int
    layer: Any = None
    pooling: WordPooling = "mean"
    pairs: int = 0
    ngrams: int = 0
    scale: float = 1.0
    word_dropout: float = 0.0
    dropout: float = 0.0

    def setup(self) -> None:
        """Makes the tables and the dense layers."""
        if self.pooling not in get_args(WordPooling):
            raise ValueError(
                f"TextClassifier: pooling must be one of {', '.join(get_args(WordPooling))}, got {self.pooling!r}"
            )
        init = nn.initializers.variance_scaling(self.scale**2, "fan_in", "normal", out_axis=0)
        self.embedding = nn.Embed(self.vocabulary, self.features, embedding_init=init)
        if self.pairs:
            self.pair_embedding = nn.Embed(self.pairs, self.features, embedding_init=init)
        if self.ngrams:
            self.ngram_embedding = nn.Embed(self.ngrams, self.features, embedding_init=init)
        if self.pooling == "attention":
            self.attention, self.score = Dense(self.features), Dense(1, use_bias=False)
        self.drop_words = nn.Dropout(self.word_dropout, broadcast_dims=(2,))
        self.drop = nn.Dropout(self.dropout)
        self.head = nn.Dense(self.classes)

    def __call__(
        self,
        x: Int[Array, "b t"] | Int[Array, "b t n"],
        *,
        lengths: Int[Array, " b"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b k"]:
        """Gives logits; ids outside the vocabulary give NaN.

        Raises:
          TypeError: If x is not of integers.
          ValueError: If x has n-grams where the model has none, or none where it has.
        """
        return self.read(self.embed(x, lengths=lengths), lengths=lengths, train=train)

    def embed(
        self, x: Int[Array, "b t"] | Int[Array, "b t n"], *, lengths: Int[Array, " b"] | None = None
    ) -> Float[Array, "b t e"]:
        """The words as vectors, with what n-grams and the pair with the word before add; 0 in the padding."""
        if self.ngrams and x.ndim != 3:
            raise ValueError(f"TextClassifier: x wants [B, T, 1 + n-grams] but has shape {x.shape}")
        x, grams = (x[..., 0], x[..., 1:]) if self.ngrams else (x, None)
        check_tokens(self, "x", x)
        x = ops.zero_padding(x, lengths)
        y = self.embedding(x)
        if grams is not None:
            grams = ops.zero_padding(grams, lengths)
            y += jnp.sum(jnp.where(grams[..., None] > 0, self.ngram_embedding(grams), 0), axis=2)
        if self.pairs:
            y = y.at[:, 1:].add(self.pair_embedding(_hashed(x[:, :-1], x[:, 1:], self.pairs)))
        return ops.zero_padding(y, lengths)

    def read(
        self, embedded: Float[Array, "b t e"], *, lengths: Int[Array, " b"] | None = None, train: bool = False
    ) -> Float[Array, "b k"]:
        """The logits of words that are embedded already, as `embed` does it."""
        y, lengths = self._encoded(embedded, lengths, train)
        if self.pooling == "attention":
            weights = self._weights(y, lengths)[..., None]
            y = jnp.sum(weights * ops.zero_padding(y, lengths), axis=1)
        else:
            pools = {"mean": ops.masked_mean, "sqrt": _sum_by_root, "max": ops.masked_max, "last": ops.last_valid}
            y = pools[self.pooling](y, lengths)
        return self.head(self.drop(y, deterministic=not train))

    def attend(
        self, x: Int[Array, "b t"] | Int[Array, "b t n"], *, lengths: Int[Array, " b"] | None = None
    ) -> Float[Array, "b t"]:
        """The weight of each word where attention pools: 1 in all, 0 in the padding.

        Raises:
          ValueError: If something else pools.
        """
        if self.pooling != "attention":
            raise ValueError(f"TextClassifier: attend wants pooling='attention', got {self.pooling!r}")
        return self._weights(*self._encoded(self.embed(x, lengths=lengths), lengths, False))

    def _encoded(self, embedded: Array, lengths: Array | None, train: bool) -> tuple[Array, Array | None]:
        y = self.drop_words(embedded, deterministic=not train)
        if self.layer is None:
            return y, lengths
        y, _ = self.layer(y, lengths=lengths, train=train)
        return y, output_lengths(self.layer, lengths)

    def _weights(self, y: Array, lengths: Array | None) -> Array:
        scores = self.score(jnp.tanh(self.attention(ops.zero_padding(y, lengths))))[..., 0]
        if lengths is None:
            return jax.nn.softmax(scores, axis=1)
        keep = ops.time_mask(lengths, y.shape[1])
        return jnp.where(keep, jax.nn.softmax(jnp.where(keep, scores, jnp.finfo(scores.dtype).min), axis=1), 0)


class WordCNN(nn.Module):
    """Convolutions over time of several widths beside one another, each with ReLU: a layer over time.

    Parameters: `conv_<width>` of each.

    Attributes:
      features: Filters of each width.
      widths: Words that a filter sees.

    References:
      Kim, 2014. Convolutional neural networks for sentence classification.

    >>> (y, carry), _ = WordCNN(4, widths=(2, 3)).init_with_output(jax.random.key(0), jnp.ones((2, 5, 6)))
    >>> y.shape, [part.x.shape for part in carry]
    ((2, 5, 8), [(2, 1, 6), (2, 2, 6)])
    """

    features: int
    widths: tuple[int, ...] = (3, 4, 5)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: Carry | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t f"], Carry]:
        """Runs over the words; the carry has a part for each width."""
        carries = [None] * len(self.widths) if carry is None else carry
        parts = [
            CausalConv(self.features, width, name=f"conv_{width}")(x, lengths=lengths, starts=starts, carry=part)
            for width, part in zip(self.widths, carries, strict=True)
        ]
        filters, carries = zip(*parts, strict=True)
        return nn.relu(ops.zero_padding(jnp.concatenate(filters, axis=-1), lengths)), carries


def _sum_by_root(y: Float[Array, "b t f"], lengths: Int[Array, " b"] | None) -> Float[Array, "b f"]:
    """The sum over the steps that count, by the root of their number."""
    count = jnp.full(y.shape[0], y.shape[1]) if lengths is None else jnp.clip(lengths, 0, y.shape[1])
    return ops.masked_mean(y, lengths) * jnp.sqrt(count.astype(y.dtype))[:, None]


def _hashed(first: Int[Array, "b t"], second: Int[Array, "b t"], rows: int) -> UInt32[Array, "b t"]:
    """A row for each pair, spread evenly by the last steps of MurmurHash3."""
    h = first.astype(jnp.uint32) * jnp.uint32(0x9E3779B1) + second.astype(jnp.uint32)
    h = (h ^ (h >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
    return (h ^ (h >> jnp.uint32(16))) % jnp.uint32(rows)
