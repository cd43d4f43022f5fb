"""How far back a layer over time learns: what is left of the gradient at each lag, and how its gates stand."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxnets.interpret.gates import gate_activations, saturation
from jaxnets.layers import initial_carry
from jaxnets.typing import Batch, Carry, Mean

Loss = Callable[[Array], Array]
"""From a layer's output y [B, T, F] to a number: the sum of the rows' losses."""


def state_gradients(
    layer: Any, variables: Any, x: Float[Array, "b t d"], *, loss: Loss | None = None
) -> tuple[Float[Array, "b t f"], Carry]:
    """The gradient of the loss by the state before each step.

    The layer is run step by step, its carry threaded through, which by its contract equals the whole. What an earlier
    state adds to an earlier output counts too, where the loss looks at it.

    Args:
      layer: Any layer that keeps the sequence contract and can stream.
      variables: Its variables, as for `layer.apply`.
      x: Sequences of full length.
      loss: The sum of the rows' losses, of y; None takes the last output's component along (1, ..., 1) / sqrt(F), so
        that the gradient at the output has norm 1.

    Returns:
      y, and the gradients in the structure of the carry, leaves [T, B, ...]: entry t is by the carry entering step t.

    Raises:
      ValueError: If the layer cannot stream, or runs backwards in time.

    >>> layer = jn.layers.LSTM(features=8)
    >>> x = jnp.ones((2, 5, 3))
    >>> y, gradients = state_gradients(layer, layer.init(jax.random.key(0), x), x)
    >>> y.shape, gradients.c.shape
    ((2, 5, 8), (5, 2, 8))
    """
    name = type(layer).__name__
    if getattr(layer, "reverse", False):
        raise ValueError(f"state_gradients: {name} runs backwards in time: make it with reverse=False")
    carry = initial_carry(layer, variables, jax.ShapeDtypeStruct(x.shape, x.dtype))
    if not jax.tree.leaves(carry):
        raise ValueError(f"state_gradients: {name} keeps no state from step to step, so no gradient flows through one")
    measure = _unit_projection if loss is None else loss

    def total(nudges: Carry) -> tuple[Array, Array]:
        def step(carry: Carry, inputs: tuple[Array, Carry]) -> tuple[Carry, Array]:
            x_t, nudge = inputs
            entering = jax.tree.map(jnp.add, carry, nudge)
            y_t, carry = layer.apply(variables, x_t[:, None], carry=entering)
            return carry, y_t[:, 0]

        _, y = lax.scan(step, carry, (jnp.swapaxes(x, 0, 1), nudges))
        y = jnp.swapaxes(y, 0, 1)
        return measure(y), y

    nudges = jax.tree.map(lambda leaf: jnp.zeros((x.shape[1], *leaf.shape), leaf.dtype), carry)
    gradients, y = jax.grad(total, has_aux=True)(nudges)
    return y, gradients


def gradient_norms(
    layer: Any, variables: Any, x: Float[Array, "b t d"], *, loss: Loss | None = None
) -> dict[str, Float[Array, " t"]]:
    """The norm of the gradient by the state k steps before the end, at index k - 1; the mean over the rows.

    Args:
      layer: As for `state_gradients`.
      variables: As for `state_gradients`.
      x: As for `state_gradients`.
      loss: As for `state_gradients`.

    Returns:
      The norms under `"state"`, and those of each part of the carry by its path, such as `"h"` and `"c"`.

    Raises:
      ValueError: As `state_gradients` does.

    References:
      Hochreiter, 1991. Untersuchungen zu dynamischen neuronalen Netzen.
      Bengio, Simard and Frasconi, 1994. Learning long-term dependencies with gradient descent is difficult.
      Pascanu, Mikolov and Bengio, 2013. On the difficulty of training recurrent neural networks.

    >>> layer = jn.layers.LSTM(features=8)
    >>> x = jnp.ones((2, 5, 3))
    >>> norms = gradient_norms(layer, layer.init(jax.random.key(0), x), x)
    >>> {name: norm.shape for name, norm in norms.items()}
    {'state': (5,), 'c': (5,), 'h': (5,)}
    """
    _, gradients = state_gradients(layer, variables, x, loss=loss)
    squares = {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.sum(
            jnp.abs(leaf.reshape(*leaf.shape[:2], -1)) ** 2, axis=-1
        )
        for path, leaf in jax.tree.leaves_with_path(gradients)
    }
    # The last step is entered by the state one step before the end.
    norms = {"state": sum(squares.values()), **dict(sorted(squares.items()))}
    return {name: jnp.mean(jnp.sqrt(square), axis=1)[::-1] for name, square in norms.items()}


def memory_length(norms: Float[Any, " t"], *, share: float = 0.01) -> int:
    """The greatest lag at which the gradient is at least `share` of its largest; 0 where there is none at all.

    The number of lags means that the memory may be longer than what was looked at.

    >>> memory_length(np.array([1.0, 0.1, 0.02, 0.001]))
    3
    """
    norms = np.asarray(norms)
    reached = np.flatnonzero((norms >= share * norms.max(initial=0)) & (norms > 0))
    return int(reached[-1]) + 1 if reached.size else 0


def gradient_flow(
    layer: Any,
    variables: Any,
    x: Float[Array, "b t d"],
    *,
    loss: Loss | None = None,
    share: float = 0.01,
    gates: bool = True,
) -> dict[str, Any]:
    """The report of a layer on some sequences, in plain numbers fit for JSON.

    Args:
      layer: As for `state_gradients`.
      variables: As for `state_gradients`.
      x: As for `state_gradients`.
      loss: As for `state_gradients`.
      share: As for `memory_length`.
      gates: Whether to look at the gates too.

    Returns:
      `"norms"`, lists of T numbers by part of the state, as `gradient_norms` has them; `"memory_length"`, of the whole
      state; `"saturation"`, for each gate the share of activations `"below"` 0.1 and `"above"` 0.9, empty for a layer
      without gates.

    Raises:
      ValueError: As `state_gradients` and `gate_activations` do.

    >>> layer = jn.layers.RNN(features=8)
    >>> x = jax.random.normal(jax.random.key(0), (2, 30, 3))
    >>> report = gradient_flow(layer, layer.init(jax.random.key(1), x), x)
    >>> len(report["norms"]["state"]), report["memory_length"] < 30, report["saturation"]
    (30, True, {})
    """

    @jax.jit
    def measured(variables: Any, x: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        activations = gate_activations(layer, variables, x) if gates else {}
        return gradient_norms(layer, variables, x, loss=loss), activations

    norms, activations = measured(variables, x)
    norms = {name: np.asarray(norm, np.float64) for name, norm in norms.items()}
    parts = sorted(norms, key=lambda name: (name != "state", name))  # a program hands them out by name
    return {
        "norms": {name: norms[name].tolist() for name in parts},
        "memory_length": memory_length(norms["state"], share=share),
        "saturation": {name: saturation(gate) for name, gate in activations.items()},
    }


def classifier_gradient_flow(
    model: Any, variables: Any, batch: Batch, *, loss: Callable[[Any, Batch], Mean]
) -> dict[str, Any]:
    """The report of the layer over time inside a network, on what the network is trained for.

    Args:
      model: A `SequenceClassifier`, or whatever else has a `layer` between `encode` and `decode`.
      variables: Its parameters, as for `model.apply`.
      batch: `"x"`, sequences of full length, and what the loss looks at.
      loss: Of the network's outputs and the batch, as for `make_step`; its total is taken.

    Returns:
      As `gradient_flow` does.

    Raises:
      ValueError: As `gradient_flow` does.

    >>> model = jn.models.SequenceClassifier(jn.layers.GRU(features=8), outputs=3)
    >>> batch = {"x": jnp.ones((2, 5, 4)), "y": jnp.array([0, 2])}
    >>> variables = model.init(jax.random.key(0), batch["x"])
    >>> loss = lambda outputs, batch: jn.ops.cross_entropy(outputs, batch["y"])
    >>> len(classifier_gradient_flow(model, variables, batch, loss=loss)["norms"]["state"])
    5
    """

    def total(y: Array) -> Array:
        return loss(model.apply(variables, y, method="decode"), batch).total

    x = model.apply(variables, batch["x"], method="encode")
    return gradient_flow(model.layer, {"params": variables["params"]["layer"]}, x, loss=total)


def _unit_projection(y: Array) -> Array:
    return jnp.sum(y[:, -1]) / y.shape[-1] ** 0.5
