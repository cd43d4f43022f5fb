"""cuDNN's LSTM under the contract: against JAX's own account of it where there is no GPU, and on one where there is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

from jaxnets import ops
from jaxnets.ops import _cudnn_lstm
from tests.ops.test_recurrent import B, H, draw, outcome, split
from tests.reference.tolerance import tolerance

TIME = 6
ON_A_GPU = pytest.mark.skipif(jax.default_backend() != "gpu", reason="wants a GPU of NVIDIA's")


@pytest.fixture
def stand_in(monkeypatch):
    """In place of cuDNN, the reference implementation that JAX holds it to, with the same packed parameters."""

    def lstm(x, h, c, weights, lengths, input_size, hidden_size, num_layers, dropout, bidirectional, precision):
        assert (h.shape, lengths.dtype, precision) == ((1, B, H), jnp.int32, None)
        sizes = input_size, hidden_size, num_layers
        parts = rnn.unpack_lstm_weights(weights, *sizes, bidirectional)
        with jax.numpy_rank_promotion("allow"):
            return rnn.lstm_ref(x, h, c, *parts, lengths, *sizes, dropout, bidirectional)

    monkeypatch.setattr(_cudnn_lstm, "available", lambda: True)
    monkeypatch.setattr(rnn, "lstm", lstm)


def drawn():
    rng = np.random.default_rng(9)
    weights = [rng.normal(size=(B, TIME, H)), *(rng.normal(size=(B, H)) for _ in range(2))]
    return jax.tree.map(lambda a: jnp.asarray(a, "float32"), (draw("lstm", TIME), weights))


def check(reverse, lengths, bound):
    arrays, weights = drawn()

    def both(implementation):
        run = functools.partial(outcome, "lstm", reverse=reverse, lengths=lengths, implementation=implementation)
        return jax.value_and_grad(run, has_aux=True)(arrays, weights)

    jax.tree.map(functools.partial(np.testing.assert_allclose, **bound), both("cudnn"), both("scan"))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [TIME, 0, 3]])
def test_is_the_scan_with_the_parameters_packed(lengths, reverse, stand_in):
    check(reverse, None if lengths is None else jnp.array(lengths), {"rtol": 1e-4, "atol": 1e-5})


def test_half_precision_is_computed_in_float32(stand_in):
    arrays, _ = drawn()
    params, x, _, _ = split("lstm", {key: value.astype(jnp.bfloat16) for key, value in arrays.items()})
    y, carry = ops.lstm(params, x, implementation="cudnn")
    assert (y.dtype, carry.c.dtype) == (jnp.bfloat16, jnp.float32)
    want, _ = ops.lstm(params, x)
    np.testing.assert_allclose(y.astype("float32"), want.astype("float32"), **tolerance(jnp.bfloat16))


def test_no_steps_leave_the_carry(stand_in):
    params, x, carry, _ = split("lstm", drawn()[0])
    y, last = ops.lstm(params, x[:, :0], carry=ops.LSTMCarry(*carry), implementation="cudnn")
    assert y.shape == (B, 0, H)
    jax.tree.map(np.testing.assert_array_equal, tuple(last), tuple(carry))


def test_errors_name_the_way_out(stand_in, own_errors):
    params, x, _, _ = split("lstm", drawn()[0])
    with pytest.raises(ValueError, match="knows no starts: take 'scan'"):
        ops.lstm(params, x, starts=jnp.zeros((B, TIME), bool), implementation="cudnn")
    with pytest.raises(ValueError, match="no use for checkpoint_every"):
        ops.lstm(params, x, checkpoint_every=2, implementation="cudnn")
    with pytest.raises(ValueError, match="knows no variants"):
        ops.lstm(params, x, zoneout=0.1, implementation="cudnn")
    with pytest.raises(ValueError, match="'cudnn' but wants one of auto, scan, newton, or a Newton"):
        ops.rnn(
            {"kernel": jnp.ones((2, H)), "recurrent_kernel": jnp.eye(H), "bias": jnp.ones(H)}, x, implementation="cudnn"
        )
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), (params, x))
        with pytest.raises(ValueError, match="computes in float32"):
            ops.lstm(*wide, implementation="cudnn")


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="wants a machine without a GPU")
def test_without_a_gpu_it_says_so():
    params, x, _, _ = split("lstm", drawn()[0])
    with pytest.raises(RuntimeError, match="wants a GPU but the default platform is 'cpu'"):
        ops.lstm(params, x, implementation="cudnn")


@ON_A_GPU
@pytest.mark.parametrize("reverse", [False, True])
def test_on_a_gpu(reverse):
    with jax.default_matmul_precision("highest"):
        check(reverse, jnp.array([TIME, 0, 3]), {"rtol": 1e-4, "atol": 1e-5})
