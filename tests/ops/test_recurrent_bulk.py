"""In a recurrence's compiled gradient no loop sums up an array of a weight's shape: one product after it does."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from jaxnets import ops

B, T, D, H, P = 3, 24, 5, 7, 6


def shapes_that_loops_change(program):
    """The shapes of all that the loops of a compiled program hand from step to step, but what they leave as it is."""
    bodies = set(re.findall(r"body=%?([\w.\-]+)", program))
    assert bodies
    for body in bodies:
        lines = re.search(rf"^%?{re.escape(body)} \(.*?^}}", program, re.M | re.S).group(0).splitlines()
        made = dict(re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)", line).groups() for line in lines[1:-1])
        (root,) = (line for line in lines if line.lstrip().startswith("ROOT"))
        for name in re.findall(r"%([\w.\-]+)", root.split(" tuple(")[1]):
            if " get-tuple-element(" not in made[name]:
                yield tuple(int(n) for n in re.match(r"\w+\[([\d,]*)\]", made[name]).group(1).split(",") if n)


def weights(gates, hidden=H, out=H, window=(), **more):
    shapes = {"kernel": (*window, D, gates * hidden), "recurrent_kernel": (*window, out, gates * hidden)}
    return {name: jnp.ones(shape) for name, shape in {**shapes, "bias": (gates * hidden,), **more}.items()}


NORMS = {"input_scale": (4 * H,), "recurrent_scale": (4 * H,), "cell_scale": (H,), "cell_bias": (H,)}
NOISE = {"key": jax.random.key(0), "recurrent_dropout": 0.3, "zoneout": 0.1}
CASES = {
    "rnn": (ops.rnn, weights(1), NOISE),
    "gru": (ops.gru, weights(3, recurrent_bias=(H,)), {**NOISE, "dropout_kind": "per_step"}),
    "lstm": (ops.lstm, weights(4), {}),
    "variants": (ops.lstm, weights(4, out=P, projection=(H, P), peephole=(3 * H,), **NORMS), {"zoneout": 0.1}),
    "coupled": (functools.partial(ops.lstm, coupled=True), weights(3), {"reverse": True}),
    "conv_lstm": (ops.conv_lstm, weights(4, window=(2, 2)), {"zoneout": 0.1}),
}


@pytest.mark.parametrize("case", CASES)
def test_weight_gradients_are_in_bulk(case):
    op, params, options = CASES[case]
    x = jnp.ones((B, T, *((4, 4) if case == "conv_lstm" else ()), D))
    program = jax.jit(jax.grad(lambda params, x: op(params, x, **options)[0].sum(), argnums=(0, 1)))
    changed = set(shapes_that_loops_change(program.lower(params, x).compile().as_text()))
    assert changed
    assert not changed & {tuple(reversed(p.shape)) for p in params.values()} | changed & {
        p.shape for p in params.values()
    }


def test_the_check_sees_a_sum_over_steps():
    params = weights(1)

    def plain(params, x):
        def step(h, x):
            h = jnp.tanh(x @ params["kernel"] + h @ params["recurrent_kernel"] + params["bias"][None])
            return h, h

        return jax.lax.scan(step, jnp.zeros((B, H)), x)[1].sum()

    program = jax.jit(jax.grad(plain)).lower(params, jnp.ones((T, B, D))).compile().as_text()
    assert {(D, H), (H, H)} & set(shapes_that_loops_change(program))
