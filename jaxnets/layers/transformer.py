"""Blocks of a Transformer, around attention or any other layer over time, and many of them by one program."""

from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers._dense import Dense
from jaxnets.layers.recurrent import Initializer, label
from jaxnets.layers.sequence import initial_carry_of
from jaxnets.ops._dtype import widened
from jaxnets.ops._recurrent_call import check_time, check_x
from jaxnets.typing import Carry, Precision


class TransformerBlock(nn.Module):
    """A layer over time, attention to a memory if there is one, and a network at each step, each beside a residual.

    Parameters: those of `mixer`, and of `cross`, by these names; `norm_mixer`, `norm_cross` and `norm_mlp`; `up`,
    `down` and, with `gated`, `gate`, each with a `kernel` [D, hidden] or [hidden, D] and, with `use_bias`, a `bias`.

    Attributes:
      mixer: What steps meet in: `SelfAttention`, or any layer over time with as many features as x.
      cross: A layer that attends to a memory, such as `CrossAttention`, or None.
      hidden: Width inside the network; None means four times that of x.
      gated: Whether the network is down(activation(gate x) * up x), and not down(activation(up x)).
      activation: Of the network.
      norm_first: Whether each part sees its input normalised; else the sum of input and part is.
      parallel: Whether mixer and network see the same normalised input, and are added at once.
      dropout: Rate of dropout on what is added to the residual, where `train` is set (key: "dropout").
      use_bias: Whether the network has biases.
      norm: Makes a norm from `dtype`, `param_dtype` and `name`: `nn.LayerNorm`, `nn.RMSNorm`.
      dtype: Type to compute in and of the output; None follows x.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.
      kernel_init: Initialiser of the kernels.

    References:
      Vaswani et al., 2017. Attention is all you need.
      Xiong et al., 2020. On layer normalization in the Transformer architecture.
      Shazeer, 2020. GLU variants improve Transformer.
      Chowdhery et al., 2022. PaLM: scaling language modeling with pathways.

    >>> layer = TransformerBlock(jn.layers.SelfAttention(num_heads=2), dropout=0.1)
    >>> (y, cache), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 8)))
    >>> y.shape, type(cache).__name__
    ((2, 5, 8), 'KVCache')
    """

    mixer: Any
    cross: Any = None
    hidden: int | None = None
    gated: bool = False
    activation: Callable[[Array], Array] = nn.gelu
    norm_first: bool = True
    parallel: bool = False
    dropout: float = 0.0
    use_bias: bool = False
    norm: Callable[..., Any] = nn.LayerNorm
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: Carry | None = None,
        train: bool = False,
        memory: Float[Array, "b s e"] | None = None,
        memory_lengths: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b t d"], Carry]:
        """Runs over the steps of x; the carry is that of the mixer, or with `cross` the pair of both.

        Raises:
          TypeError: If a dtype does not fit.
          ValueError: If a shape does not fit, or there is a memory that nothing attends to.
        """
        self._check(x, lengths, starts, memory)
        x = ops.zero_padding(x, lengths).astype(x.dtype if self.dtype is None else self.dtype)
        own, other = (carry, None) if self.cross is None else (None, None) if carry is None else carry
        context = {"lengths": lengths, "starts": starts, "train": train}
        seen = self._normed("norm_mixer", x) if self.norm_first else x
        mixed, own = self.mixer(seen, carry=own, **context)
        if self.parallel:
            return ops.zero_padding(x + self._dropped(mixed + self._mlp(seen), train), lengths), own
        x = self._added("norm_mixer", x, mixed, train)
        if self.cross is not None:
            seen = self._normed("norm_cross", x) if self.norm_first else x
            attended, other = self.cross(
                seen, carry=other, memory=memory, memory_lengths=memory_lengths, lengths=lengths, train=train
            )
            x = self._added("norm_cross", x, attended, train)
        seen = self._normed("norm_mlp", x) if self.norm_first else x
        x = self._added("norm_mlp", x, self._mlp(seen), train)
        return ops.zero_padding(x, lengths), own if self.cross is None else (own, other)

    def initial_carry(self, spec: jax.ShapeDtypeStruct) -> Carry:
        """The mixer's; with `cross` a pair, of which the second part is None until there is a memory."""
        own = initial_carry_of(self.mixer, spec)
        return own if self.cross is None else (own, None)

    def _normed(self, name: str, x: Array) -> Array:
        return self.norm(dtype=x.dtype, param_dtype=self.param_dtype, name=name)(x)

    def _added(self, name: str, x: Array, part: Array, train: bool) -> Array:
        """The residual, normalised afterwards if the part's input was not."""
        x = x + self._dropped(part, train)
        return x if self.norm_first else self._normed(name, x)

    def _dropped(self, part: Array, train: bool) -> Array:
        return part if not self.dropout else nn.Dropout(self.dropout, deterministic=not train)(part)

    def _mlp(self, x: Array) -> Array:
        hidden = 4 * x.shape[-1] if self.hidden is None else self.hidden
        up = self._dense(hidden, x, "up")
        inside = self._activated(self._dense(hidden, x, "gate")) * up if self.gated else self._activated(up)
        return self._dense(x.shape[-1], inside, "down")

    def _activated(self, x: Array) -> Array:
        """In at least float32: half precision would round at each of the activation's own operations."""
        return self.activation(widened(x)).astype(x.dtype)

    def _dense(self, features: int, x: Array, name: str) -> Array:
        return Dense(
            features,
            use_bias=self.use_bias,
            dtype=x.dtype,
            param_dtype=self.param_dtype,
            precision=cast("Any", self.precision),
            kernel_init=self.kernel_init,
            name=name,
        )(x)

    def _check(self, x: Array, lengths: Array | None, starts: Array | None, memory: Array | None) -> None:
        name = label(self)
        check_x(name, x, rank=3)
        check_time(name, x, lengths, starts, None)
        if self.hidden is not None and self.hidden < 1:
            raise ValueError(f"{name}: hidden wants at least 1 but is {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{name}: dropout wants a rate from 0 to below 1 but is {self.dropout}")
        if self.parallel and (self.cross is not None or not self.norm_first):
            raise ValueError(f"{name}: parallel wants norm_first, and no cross")
        if memory is not None and self.cross is None:
            raise ValueError(f"{name}: memory is given but cross is None: nothing attends to it")


_ARITHMETIC = "abs", "add", "add_any", "clamp", "div", "max", "min", "mul", "neg", "sign", "sub"
_FUNCTIONS = "erf", "exp", "expm1", "integer_pow", "log", "log1p", "logistic", "pow", "rsqrt", "sqrt", "square", "tanh"
_CHOICES = "and", "eq", "ge", "gt", "is_finite", "le", "lt", "ne", "not", "or", "select_n"
_MOVES = "broadcast_in_dim", "concatenate", "convert_element_type", "reshape", "slice", "split", "squeeze", "transpose"
_OTHERS = "copy", "iota", "reduce_max", "reduce_sum", "stop_gradient"
_CHEAP = frozenset((*_ARITHMETIC, *_FUNCTIONS, *_CHOICES, *_MOVES, *_OTHERS))


def _kept(primitive: Any, *_: Any, **__: Any) -> bool:
    """Whether the gradient keeps what an operation gave, for every layer of a loop, or computes it again.

    Norms, activations and the like cost more to store than to compute: with all of it kept a Transformer takes a third
    longer, and more than twice the memory.
    """
    return primitive.name not in _CHEAP


class Repeated(nn.Module):
    """A layer over time, several times one on another, each with parameters of its own: compiled once for any depth.

    Parameters: those of the layer, under `layer`, with a first axis of `times`.

    Attributes:
      layer: One layer, whose output has the shape and dtype of its input.
      times: How many there are.
      remat: Whether the gradient runs each layer again instead of keeping what its products and loops gave: less memory
        for one more forward pass.

    On a CPU the gradient of a convolution is many times slower inside the loop that this is: take `Stack` there.

    >>> layer = Repeated(jn.layers.TransformerBlock(jn.layers.SelfAttention(num_heads=2)), times=3)
    >>> (y, carry), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 8)))
    >>> y.shape, carry.k.shape, variables["params"]["layer"]["up"]["kernel"].shape
    ((2, 5, 8), (2, 3, 2, 5, 4), (3, 8, 32))
    """

    layer: Any
    times: int
    remat: bool = False

    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: Carry | None = None,
        train: bool = False,
        memory: Float[Array, "b s e"] | None = None,
        memory_lengths: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b t d"], Carry]:
        """Runs over the steps of x; the leaves of the carry are [B, times, ...].

        Raises:
          ValueError: If `times` is less than 1, or the output is not like the input.
        """
        if self.times < 1:
            raise ValueError(f"{label(self)}: times wants at least 1 but is {self.times}")
        attended = {} if memory is None else {"memory": memory, "memory_lengths": memory_lengths}

        def one(layer: Any, below: Array, carry: Carry | None) -> tuple[Array, Carry]:
            y, carry = layer(below, lengths=lengths, starts=starts, carry=carry, train=train, **attended)
            if y.shape != below.shape:
                raise ValueError(f"{label(self)}: layer makes {y.shape} of {below.shape}, but wants the same shape")
            return y.astype(below.dtype), carry

        run = nn.scan(
            nn.remat(one, prevent_cse=False, policy=None if self.remat else _kept),
            variable_axes={True: 0},
            split_rngs={True: True},
            in_axes=1,
            out_axes=1,
            length=self.times,
        )
        return run(self.layer, x, carry)

    def initial_carry(self, spec: jax.ShapeDtypeStruct) -> Carry:
        """The carries of the layers, leaves [B, times, ...]."""
        if not hasattr(self.layer, "initial_carry"):
            return self(jnp.zeros((spec.shape[0], 0, *spec.shape[2:]), spec.dtype))[1]
        one = initial_carry_of(self.layer, spec)
        return jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], self.times, axis=1), one)
