"""Layers over time made of layers over time: in both directions, one on another; and the carry to begin with."""

import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers.recurrent import label
from jaxnets.ops._recurrent_call import entries
from jaxnets.typing import Carry


class Bidirectional(nn.Module):
    """Two layers over the same steps, one of them from the last to the first; their features side by side.

    Parameters: those of the two layers, under `forward` and `backward`.

    Attributes:
      forward: The layer that runs forwards.
      backward: The layer that is run backwards (its own `reverse`, if it has one, is set); None means one like
        `forward`, with parameters of its own.

    References:
      Schuster and Paliwal, 1997. Bidirectional recurrent neural networks.

    >>> layer = Bidirectional(jn.layers.LSTM(features=8))
    >>> (y, carry), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> y.shape, carry, sorted(variables["params"])
    ((2, 5, 16), (), ['backward', 'forward'])
    """

    forward: Any
    backward: Any = None

    def __post_init__(self) -> None:
        """Makes the layer that runs backwards."""
        if self.backward is self.forward:
            raise ValueError(f"Bidirectional: forward and backward are one module and would share weights; got {self}")
        backward = self.forward if self.backward is None else self.backward
        if not getattr(backward, "reverse", True):
            self.backward = backward.clone(parent=None, name=None, reverse=True)
        elif self.backward is None:
            self.backward = backward.clone(parent=None, name=None)
        super().__post_init__()

    def __call__(
        self,
        x: Float[Array, "b t *features"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: Carry | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t f"], tuple[()]]:
        """Runs both layers over the steps of x.

        Raises:
          ValueError: If there is a carry: to begin, the last step is needed.
        """
        if jax.tree.leaves(carry):
            raise ValueError(
                f"{label(self)}: carry is {type(carry).__name__} but wants None or (): a layer that runs in both "
                "directions cannot go on from a carry"
            )
        forward, _ = self.forward(x, lengths=lengths, starts=starts, train=train)
        if hasattr(self.backward, "reverse"):
            backward, _ = self.backward(x, lengths=lengths, starts=starts, train=train)
        else:
            if starts is not None:
                starts = ops.reverse_sequence(entries(starts, lengths), lengths)
            backward, _ = self.backward(ops.reverse_sequence(x, lengths), lengths=lengths, starts=starts, train=train)
            backward = ops.reverse_sequence(backward, output_lengths(self.backward, lengths))
        return jnp.concatenate([forward, backward], axis=-1), ()

    def output_lengths(self, lengths: Int[Array, " b"] | None) -> Int[Array, " b"] | None:
        """Steps of y that count, for so many of x."""
        return output_lengths(self.forward, lengths)


class Stack(nn.Module):
    """Layers over time, one on another.

    Parameters: those of the layers, under `layers_0`, `layers_1` and so on.

    Attributes:
      layers: The layers, a tuple of distinct modules.
      dropout: Rate of dropout on the output of every layer but the last, where `train` is set (key: "dropout").
      residual: Whether to add a layer's input to its output, wherever the two have one shape.

    References:
      Zaremba, Sutskever and Vinyals, 2014. Recurrent neural network regularization.

    >>> layer = Stack((jn.layers.LSTM(features=8), jn.layers.GRU(features=4)), dropout=0.5)
    >>> (y, carry), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> y.shape, [type(part).__name__ for part in carry]
    ((2, 5, 4), ['LSTMCarry', 'GRUCarry'])
    """

    layers: tuple[Any, ...]
    dropout: float = 0.0
    residual: bool = False

    def __post_init__(self) -> None:
        """Checks the layers."""
        if not isinstance(self.layers, tuple) or not self.layers:
            raise TypeError(f"Stack: layers wants a tuple of at least one module but is {self.layers!r}")
        if len({id(layer) for layer in self.layers}) < len(self.layers):
            raise ValueError(f"Stack: layers has one module more than once, and would share its weights: {self.layers}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"Stack: dropout wants a rate from 0 to below 1 but is {self.dropout}")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t *features"] | Int[Array, "b t *features"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: Carry | None = None,
        train: bool = False,
        memory: Array | None = None,
        memory_lengths: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b u f"], tuple[Carry, ...]]:
        """Runs the layers, each over the steps of the one below; `memory` goes to those that attend to one.

        Raises:
          ValueError: If the carry has not one part a layer, there are `starts` above a layer that changes time, or a
            memory that no layer attends to.
        """
        if carry is not None and len(carry) != len(self.layers):
            raise ValueError(
                f"{label(self)}: carry has {len(carry)} parts but wants one for each of {len(self.layers)}"
            )
        if memory is not None and not any(map(attends, self.layers)):
            raise ValueError(f"{label(self)}: memory is given but no layer attends to it")
        carries = []
        for i, layer in enumerate(self.layers):
            part = None if carry is None else carry[i]
            attended = {"memory": memory, "memory_lengths": memory_lengths} if attends(layer) else {}
            below = x
            if starts is not None and starts.shape[1] != x.shape[1]:
                raise ValueError(f"{label(self)}: layer {i - 1} changes time, so starts cannot go to layer {i}")
            x, part = layer(below, lengths=lengths, starts=starts, carry=part, train=train, **attended)
            if i < len(self.layers) - 1:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            if self.residual and x.shape == below.shape:
                x = x + ops.zero_padding(below, lengths).astype(x.dtype)
            lengths = output_lengths(layer, lengths)
            carries.append(part)
        return x, tuple(carries)

    def initial_carry(self, spec: jax.ShapeDtypeStruct) -> tuple[Carry, ...]:
        """Those of the layers, each with room for as many steps."""
        carries, x = [], jnp.zeros((spec.shape[0], 0, *spec.shape[2:]), spec.dtype)
        for layer in self.layers:
            shape = x.shape[0], spec.shape[1], *x.shape[2:]
            carries.append(initial_carry_of(layer, jax.ShapeDtypeStruct(shape, x.dtype)))
            if attends(layer):  # It cannot be run without its memory.
                x = jnp.zeros((*x.shape[:2], getattr(layer, "features", None) or x.shape[-1]), x.dtype)
            else:
                x, _ = layer(x)
        return tuple(carries)

    def output_lengths(self, lengths: Int[Array, " b"] | None) -> Int[Array, " b"] | None:
        """Steps of y that count, for so many of x."""
        for layer in self.layers:
            lengths = output_lengths(layer, lengths)
        return lengths


def output_lengths(layer: Any, lengths: Int[Array, " b"] | None) -> Int[Array, " b"] | None:
    """Steps of a layer's output that count, for so many of its input: the same, unless the layer says otherwise."""
    change = getattr(layer, "output_lengths", None)
    return lengths if lengths is None or change is None else change(lengths)


def initial_carry(layer: Any, variables: Any, spec: jax.ShapeDtypeStruct) -> Carry:
    """The carry that `carry=None` stands for: zeros, or what the layer has learned.

    A layer with a method `initial_carry(spec)` makes its own (a cache, say, with room for the T of the spec); any other
    gives it back from no steps at all, since T = 0 leaves a carry as it was.

    Args:
      layer: A layer over time, not bound to variables.
      variables: Its variables, as for `layer.apply`.
      spec: Shape [B, T, ...] and dtype of the input.

    >>> layer = jn.layers.LSTM(features=4)
    >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> initial_carry(layer, variables, jax.ShapeDtypeStruct((2, 5, 3), jnp.float32)).c.shape
    (2, 4)
    """
    return layer.apply(variables, spec, method=initial_carry_of)


def initial_carry_of(layer: Any, spec: jax.ShapeDtypeStruct) -> Carry:
    """The same for a layer that is bound to its variables."""
    if hasattr(layer, "initial_carry"):
        return layer.initial_carry(spec)
    return layer(jnp.zeros((spec.shape[0], 0, *spec.shape[2:]), spec.dtype))[1]


def attends(layer: Any) -> bool:
    """Whether a layer takes a memory to look into."""
    return "memory" in inspect.signature(type(layer).__call__).parameters
