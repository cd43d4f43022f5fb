"""The gates of recurrent layers: what they say at each step, and how often they are stuck."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnets import layers


def gate_activations(layer: Any, variables: Any, x: Float[Array, "b t d"]) -> dict[str, Float[Array, "b t h"]]:
    """The activations of a layer's gates at every step, by name.

    Args:
      layer: `LSTM` (input, forget, output), `GRU` (reset, update), `MinGRU` (update), `MinLSTM` (input, forget) or
        `RGLRU` (recurrence, input); `Stack` has the gates of its layers, each name preceded by the layer's number.
        Any other layer has none.
      variables: Its variables, as for `layer.apply`.
      x: Sequences of full length.

    Raises:
      ValueError: If the layer is an LSTM with peepholes, layer norm or coupled gates, whose gates are other functions.

    >>> layer = jn.layers.GRU(features=8)
    >>> x = jnp.ones((2, 5, 3))
    >>> {name: gate.shape for name, gate in gate_activations(layer, layer.init(jax.random.key(0), x), x).items()}
    {'reset': (2, 5, 8), 'update': (2, 5, 8)}
    """
    if isinstance(layer, layers.Stack):
        found: dict[str, Array] = {}
        for i, part in enumerate(layer.layers):
            own = {kind: tree[f"layers_{i}"] for kind, tree in variables.items() if f"layers_{i}" in tree}
            found |= {f"{i}/{name}": gate for name, gate in gate_activations(part, own, x).items()}
            below, (x, _) = x, part.apply(own, x)
            x = x + below if layer.residual and x.shape == below.shape else x
        return found
    if type(layer) not in _GATES:
        return {}
    if variants := [name for name in ("peephole", "layer_norm", "coupled") if getattr(layer, name, False)]:
        raise ValueError(f"gate_activations: wants an LSTM without {' and '.join(variants)}")
    names, sees_state = _GATES[type(layer)]
    params = variables["params"]
    a = x @ params["kernel"] + params["bias"][None, None]
    if sees_state:
        first = layers.initial_carry(layer, variables, jax.ShapeDtypeStruct(x.shape, x.dtype)).h.astype(a.dtype)
        y, _ = layer.apply(variables, x)
        before = jnp.concatenate([first[:, None], y[:, :-1]], axis=1)
        a = a + before @ params["recurrent_kernel"]
    parts = jnp.split(a, len(names), axis=-1)
    return {name: jax.nn.sigmoid(part) for name, part in zip(names, parts, strict=True) if name}


def saturation(gate: Float[Array, "..."], *, low: float = 0.1, high: float = 0.9) -> dict[str, float]:
    """The share of a gate's activations below `low`, and that above `high`: little gradient goes through either.

    References:
      Karpathy, Johnson and Fei-Fei, 2016. Visualizing and understanding recurrent networks.

    >>> saturation(jnp.array([0.05, 0.5, 0.95, 0.99]))
    {'below': 0.25, 'above': 0.5}
    """
    return {"below": float(jnp.mean(gate < low)), "above": float(jnp.mean(gate > high))}


_GATES: dict[type[Any], tuple[tuple[str, ...], bool]] = {
    layers.LSTM: (("input", "forget", "", "output"), True),
    layers.GRU: (("reset", "update", ""), True),
    layers.MinGRU: (("update", ""), False),
    layers.MinLSTM: (("input", "forget", ""), False),
    layers.RGLRU: (("recurrence", "input"), False),
}
"""Of each layer: the names of its gates in the order of the kernel's columns, with "" for what is no gate; and
whether they see the state, whose h is the layer's output."""
