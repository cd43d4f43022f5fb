"""A Transformer that reads: from tokens to features of each, which see all of the sequence."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers import Repeated, Rotary, SelfAttention, TransformerBlock
from jaxnets.layers.recurrent import label
from jaxnets.models.language import check_tokens
from jaxnets.typing import Carry


class Encoder(nn.Module):
    """Tokens, embedded, through blocks of attention to the whole sequence, to features: a layer over time, of tokens.

    To classify with it, give it to a `SequenceClassifier`, which takes the mean over each row's tokens, or the first.

    Parameters: `embedding`, those of the blocks in `layer`, and `norm`.

    Attributes:
      vocabulary: Number of tokens.
      features: Width of the residual and of the output.
      depth: Number of blocks, which are compiled once.
      num_heads: Heads of attention.
      hidden: See `TransformerBlock`.
      position: What attention is told of positions.
      gated: See `TransformerBlock`.
      norm: What normalises.
      dropout: Rate of dropout on what is added to the residual, and on the embedding.
      remat: See `Repeated`.
      dtype: Type to compute in; None means that of the parameters.

    References:
      Devlin et al., 2019. BERT: pre-training of deep bidirectional Transformers for language understanding.

    >>> model = jn.models.SequenceClassifier(Encoder(9, features=8, depth=2, num_heads=2), outputs=3, pooling="mean")
    >>> tokens, lengths = jnp.array([[1, 2, 3], [8, 0, 0]]), jnp.array([3, 1])
    >>> model.init_with_output(jax.random.key(0), tokens, lengths=lengths)[0].shape
    (2, 3)
    """

    vocabulary: int
    features: int
    depth: int
    num_heads: int
    hidden: int | None = None
    position: Any = Rotary()
    gated: bool = False
    norm: Callable[..., Any] = nn.LayerNorm
    dropout: float = 0.0
    remat: bool = False
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self,
        x: Int[Array, "b t"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: Carry | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t f"], tuple[()]]:
        """Gives the features of each token; ids outside the vocabulary give NaN.

        Raises:
          TypeError: If x is not of integers.
          ValueError: If there is a carry: the first token sees the last.
        """
        check_tokens(self, "x", x)
        if jax.tree.leaves(carry):
            raise ValueError(
                f"{label(self)}: carry is {type(carry).__name__} but wants None or (): attention to all tokens cannot "
                "go on from a carry"
            )
        position = self.position.clone(parent=None) if isinstance(self.position, nn.Module) else self.position
        block = TransformerBlock(
            SelfAttention(self.num_heads, causal=False, position=position, parent=None),
            hidden=self.hidden,
            gated=self.gated,
            norm=self.norm,
            dropout=self.dropout,
            parent=None,  # It is the blocks' own, below.
        )
        embed = nn.Embed(self.vocabulary, self.features, dtype=self.dtype, name="embedding")
        y = nn.Dropout(self.dropout, deterministic=not train)(embed(ops.zero_padding(x, lengths)))
        y, _ = Repeated(block, self.depth, self.remat, name="layer")(y, lengths=lengths, starts=starts, train=train)
        y = self.norm(dtype=y.dtype, param_dtype=jnp.float32, name="norm")(y)
        return ops.zero_padding(y, lengths), ()
