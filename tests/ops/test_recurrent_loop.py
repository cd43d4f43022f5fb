"""How the engine runs: rows in halves, and what is kept in the place of the projection."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from jaxnets.ops import _recurrent_loop as loop
from jaxnets.ops._recurrent_cell import Cell, Weights
from jaxnets.ops._recurrent_cells import GRUCell, LSTMCell, RNNCell
from jaxnets.ops._recurrent_noise import Noisy
from jaxnets.ops.conv_lstm import _ConvLSTMCell

B, T, D, H = 4, 11, 3, 4  # two blocks of steps and three more
OPS = {"lstm": (ops.lstm, 4), "gru": (ops.gru, 3), "rnn": (ops.rnn, 1)}


@pytest.fixture
def given(request, x64):
    """Whatever an op takes, drawn at random."""
    del x64
    _, gates = OPS[request.param]
    draw = np.random.default_rng(0).normal
    params = {"kernel": draw(size=(D, gates * H)), "recurrent_kernel": draw(size=(H, gates * H)) / 2}
    params |= {"bias": draw(size=gates * H)} | ({"recurrent_bias": draw(size=H)} if request.param == "gru" else {})
    carry = ops.LSTMCarry if request.param == "lstm" else ops.GRUCarry if request.param == "gru" else ops.RNNCarry
    states = [carry(*(draw(size=(B, H)) for _ in carry._fields)) for _ in range(2)]
    return request.param, jax.tree.map(jnp.asarray, (params, draw(size=(B, T, D)), *states))


def everything(name, reverse, given):
    """Values, gradients and second derivatives."""
    lengths, starts = jnp.array([T, 0, 7, 9]), jnp.zeros((B, T), bool).at[0, 3].set(True).at[2, 5].set(True)

    def number(params, x, carry, initial):
        y, carry = OPS[name][0](
            params, x, lengths=lengths, starts=starts, carry=carry, initial_carry=initial, reverse=reverse
        )
        return jnp.sum(jnp.sin(y)) + sum(jnp.sum(jnp.cos(leaf)) for leaf in carry)

    gradient = jax.grad(number, range(4))
    along = jax.tree.map(jnp.cos, given)

    def slope(*given):
        return jax.jvp(number, given, along)[1]

    return jax.jit(lambda *given: (number(*given), gradient(*given), jax.grad(slope, range(4))(*given)))(*given)


@pytest.mark.parametrize(
    ("given", "reverse"),
    [
        pytest.param(name, reverse, marks=() if (name, reverse) == ("lstm", True) else pytest.mark.exhaustive)
        for name in OPS
        for reverse in (False, True)
    ],
    indirect=["given"],
)
def test_halves_of_the_rows_change_nothing(given, reverse, monkeypatch):
    name, arrays = given
    want = everything(name, reverse, arrays)
    monkeypatch.setattr(loop, "_better_halved", lambda *_: True)
    got = everything(name, reverse, arrays)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), got, want)


def test_rows_are_halved_where_it_was_measured_to_help(monkeypatch):
    def halved(cell, hidden, rows, devices=1, platform="cpu"):
        monkeypatch.setattr(jax, "device_count", lambda: devices)
        monkeypatch.setattr(jax, "default_backend", lambda: platform)
        kernel = jnp.zeros((hidden, 4 * hidden))
        return loop.Plan.of(cell, False, None, kernel, 35, rows).halved

    assert halved(LSTMCell(), 200, 64)
    assert halved(LSTMCell(), 512, 64)
    assert not halved(LSTMCell(), 128, 64)
    assert not halved(LSTMCell(), 650, 20)
    assert not halved(LSTMCell(), 200, 63)
    assert not halved(LSTMCell(), 200, 64, devices=2)
    assert not halved(LSTMCell(), 200, 64, platform="gpu")
    assert not halved(_ConvLSTMCell(), 200, 64)


@pytest.mark.parametrize("cell", [RNNCell(), LSTMCell(), GRUCell()], ids=str)
def test_a_noisy_cell_runs_as_the_cell_does(cell):
    noisy = Noisy(cell, zoneout=(0.1,) * 2)
    own = [name for name, kind in Cell.__annotations__.items() if "ClassVar" in str(kind)]
    assert own
    assert all(getattr(noisy, name) == getattr(cell, name) for name in own)


@pytest.mark.parametrize(("cell", "gates"), [(RNNCell(), 1), (LSTMCell(), 4), (GRUCell(), 3)], ids=str)
def test_what_is_kept_takes_the_place_of_the_projection(cell, gates, x64):
    del x64
    time, rows = 64, 8
    state = {1: ops.RNNCarry, 4: ops.LSTMCarry, 3: ops.GRUCarry}[gates]
    carry = state(*(jnp.full((rows, H), 0.1) for _ in state._fields))
    weights = Weights(jnp.full((D, gates * H), 0.1), jnp.ones(gates * H), jnp.full((H, gates * H), 0.2))
    xs = jnp.linspace(-1, 1, time * rows * D).reshape(time, rows, D), None, None, ()
    plan = loop.Plan.of(cell, False, None, weights.recurrent_kernel, time, rows)

    def program(in_place):
        run = functools.partial(loop.forward, plan, cell.linearise, in_place=in_place)
        return jax.jit(run).lower(weights, xs, carry, carry).compile()

    here, elsewhere = program(True), program(False)
    given = weights, xs, carry, carry
    close = functools.partial(np.testing.assert_allclose, rtol=1e-13, atol=1e-15)
    jax.tree.map(close, here(*given), elsewhere(*given))
    own, usual = (run.memory_analysis().temp_size_in_bytes for run in (here, elsewhere))
    assert own < 0.9 * usual
    assert own < 0.5 * 8 * time * rows * gates * H
