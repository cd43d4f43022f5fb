"""Recurrent networks under JAX's transformations: both modes, second order, vmap, export; PyTorch; memory; errors."""

import functools

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxnets import ops
from jaxnets.ops import GRUCarry, LSTMCarry
from tests.reference.tolerance import tolerance

OPS = {"lstm": ops.lstm, "gru": ops.gru, "rnn": ops.rnn}
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
B, T, D, H = 2, 5, 2, 3


def draw(name, dtype="float32", shape=(B, T, D, H)):
    rng, (batch, time, inputs, hidden) = np.random.default_rng(0), shape
    width = GATES[name] * hidden
    params = {
        "kernel": rng.normal(size=(inputs, width)) / inputs**0.5,
        "recurrent_kernel": rng.normal(size=(hidden, width)) / hidden**0.5,
        "bias": rng.normal(size=width),
    }
    if name == "gru":
        params["recurrent_bias"] = rng.normal(size=hidden)
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), (params, rng.normal(size=(batch, time, inputs))))


def scalar(name, **settings):
    """A number that every output has a part in."""

    def number(params, x, **given):
        y, carry = OPS[name](params, x, **settings, **given)
        return jnp.sum(jnp.sin(y)).astype(carry.h.dtype) + sum(jnp.sum(jnp.cos(leaf)) for leaf in carry)

    return number


MASKS = {"lengths": np.array([2, 5]), "starts": np.array([[0, 1, 0, 1, 0], [0, 0, 1, 1, 0]], bool)}


SETTINGS = {"plain": {}, "masks": MASKS, "reversed": {**MASKS, "reverse": True}}
USUAL = {("lstm", "masks"), ("rnn", "reversed")}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param(op, given, id=f"{op}-{name}", marks=() if (op, name) in USUAL else pytest.mark.exhaustive)
        for op in OPS
        for name, given in SETTINGS.items()
    ],
)
def test_both_modes_agree_with_differences(name, settings, x64):
    settings = {k: v if k == "reverse" else jnp.asarray(v) for k, v in settings.items()}
    number, (params, x) = scalar(name, **settings), draw(name, "float64")
    direction = jax.tree.map(jnp.cos, (params, x))

    @jax.jit
    def modes(*at):
        forward = jax.jvp(number, at, direction)[1]
        gradient = jax.grad(number, (0, 1))(*at)
        # The second derivative along the direction, by all four orders of the modes.
        slope = lambda at: jax.jvp(number, at, direction)[1]  # noqa: E731
        backward = lambda at: along(jax.grad(number, (0, 1))(*at))  # noqa: E731
        second = [jax.jvp(f, (at,), (direction,))[1] for f in (slope, backward)]
        second += [along(jax.grad(f)(at)) for f in (slope, backward)]
        return forward, along(gradient), second

    def along(gradient):
        return sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))

    forward, reverse, second = modes(params, x)
    np.testing.assert_allclose(forward, reverse, rtol=1e-11)
    np.testing.assert_allclose(second, second[0], rtol=1e-10)
    moved = [jax.tree.map(lambda a, d, s=s: a + s * d, (params, x), direction) for s in (1e-4, -1e-4)]
    value, (ahead, behind) = jax.jit(number)(params, x), (jax.jit(number)(*at) for at in moved)
    np.testing.assert_allclose(forward, (ahead - behind) / 2e-4, rtol=1e-5)
    np.testing.assert_allclose(second[0], (ahead - 2 * value + behind) / 1e-8, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", OPS)
def test_hessian_is_symmetric(name, x64):
    params, x = draw(name, "float64")

    def number(kernel):
        return scalar(name, lengths=jnp.array([3, 5]))({**params, "recurrent_kernel": kernel}, x)

    hessian = jax.jit(jax.hessian(number))(params["recurrent_kernel"])
    size = params["recurrent_kernel"].size
    hessian = hessian.reshape(size, size)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)
    assert np.abs(hessian).max() > 1e-3


@pytest.mark.parametrize(
    "name", ["rnn", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("lstm", "gru"))]
)
def test_vmap_and_checkpoint_change_nothing(name, x64):
    params, x = draw(name, "float64", (B, T, D, H))
    many = jax.tree.map(lambda a: jnp.stack([a, a / 2, -a]), params)
    lengths = jnp.array([[0, 5], [1, 2], [5, 3]])
    f = jax.value_and_grad(lambda p, x, n: scalar(name)(p, x, lengths=n), (0, 1))
    want = [f(jax.tree.map(lambda a: a[i], many), x, lengths[i]) for i in range(3)]  # noqa: B023
    want = jax.tree.map(lambda *a: jnp.stack(a), *want)
    close = functools.partial(np.testing.assert_allclose, **tolerance("float64"))
    jax.tree.map(close, jax.jit(jax.vmap(f, (0, None, 0)))(many, x, lengths), want)
    again = jax.checkpoint(lambda p, x: scalar(name)(p, x, lengths=lengths[1]))
    at = jax.tree.map(lambda a: a[1], many)
    jax.tree.map(close, jax.jit(jax.value_and_grad(again, (0, 1)))(at, x), jax.tree.map(lambda a: a[1], want))


@pytest.mark.parametrize("name", OPS)
def test_exports_for_every_platform_with_any_batch_and_time(name):
    batch, time = jax.export.symbolic_shape("b, t", constraints=["b >= 1", "t >= 1"])
    params, x = draw(name)
    run = jax.jit(jax.value_and_grad(lambda p, x, n, s: scalar(name)(p, x, lengths=n, starts=s), (0, 1)))
    specs = (
        jax.ShapeDtypeStruct((batch, time, D), "float32"),
        jax.ShapeDtypeStruct((batch,), "int32"),
        jax.ShapeDtypeStruct((batch, time), "bool"),
    )
    exported = jax.export.export(run, platforms=("cpu", "cuda", "tpu"))(params, *specs)
    given = params, x, jnp.array([2, 5]), jnp.asarray(MASKS["starts"])
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, **tolerance("float32")), exported.call(*given), run(*given)
    )


@pytest.mark.parametrize("name", OPS)
def test_one_shape_is_one_program(name):
    params, x = draw(name)
    traces = []

    @jax.jit
    def run(params, x, lengths):
        traces.append(1)
        return jax.grad(scalar(name))(params, x, lengths=lengths)

    for lengths in ([5, 5], [0, 1]):
        run(params, x, jnp.array(lengths))
    assert len(traces) == 1


@pytest.mark.parametrize("name", OPS)
def test_bfloat16_has_float32_states(name):
    params, x = draw(name)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, x))
    y, carry = OPS[name](*half)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in carry} == {jnp.dtype("float32")}
    want, _ = OPS[name](*jax.tree.map(lambda a: a.astype(jnp.float32), half))
    np.testing.assert_allclose(y.astype(jnp.float32), want, **tolerance("bfloat16"))
    gradient = jax.grad(scalar(name), (0, 1))(*half)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("bfloat16")}
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", OPS)
def test_matches_pytorch(name):
    torch = pytest.importorskip("torch")
    params, x = draw(name, shape=(3, 7, 4, 5))
    twin = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[name](4, 5, batch_first=True)
    recurrent = np.zeros_like(params["bias"])
    if name == "gru":
        recurrent[10:] = params["recurrent_bias"]
    weights = (params["kernel"].T, params["recurrent_kernel"].T, params["bias"], recurrent)
    with torch.no_grad():
        for theirs, ours in zip(twin.parameters(), weights, strict=True):
            theirs.copy_(torch.tensor(np.asarray(ours)))
    theirs = torch.tensor(np.asarray(x), requires_grad=True)
    want, _ = twin(theirs)
    want.sin().sum().backward()
    grads = [p.grad.numpy() for p in twin.parameters()]

    (got, gradients), dx = (
        jax.value_and_grad(lambda p: jnp.sum(jnp.sin(OPS[name](p, x)[0])))(params),
        jax.grad(lambda x: jnp.sum(jnp.sin(OPS[name](params, x)[0])))(x),
    )
    close = functools.partial(np.testing.assert_allclose, **tolerance("float32"))
    close(OPS[name](params, x)[0], want.detach().numpy())
    close(got, want.detach().sin().sum())
    close(dx, theirs.grad.numpy())
    close(gradients["kernel"], grads[0].T)
    close(gradients["recurrent_kernel"], grads[1].T)
    close(gradients["bias"], grads[2])
    if name == "gru":
        close(gradients["recurrent_bias"], grads[3][10:])


def compiled(name, shape, **settings):
    params, x = jax.eval_shape(lambda: draw(name, shape=shape))
    return jax.jit(jax.grad(scalar(name, **settings), (0, 1))).lower(params, x).compile()


CELLS = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "rnn": nn.SimpleCell}


def flax_gradient(name, shape):
    batch, time, width, hidden = shape
    layer, x = nn.RNN(CELLS[name](hidden)), jax.ShapeDtypeStruct((batch, time, width), jnp.float32)
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    gradient = jax.grad(lambda variables, x: jnp.sum(jnp.sin(layer.apply(variables, x))), (0, 1))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jax.jit(gradient).lower(variables, x).compile()


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("empty", ["batch", "time"])
def test_no_rows_or_no_steps_have_no_gradient(name, empty):
    params, x = draw(name)
    x = x[:0] if empty == "batch" else x[:, :0]
    gradient, slope = jax.grad(scalar(name), (0, 1))(params, x), jax.jvp(scalar(name), (params, x), (params, x))[1]
    assert gradient[1].shape == x.shape
    assert slope == 0
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", OPS)
def test_checkpoints_save_memory(name):
    shape = batch, time, width, hidden = 4, 400, 8, 16
    programs = compiled(name, shape, checkpoint_every=20), compiled(name, shape), flax_gradient(name, shape)
    cheap, usual, flax = (program.memory_analysis().temp_size_in_bytes for program in programs)
    # The tanh network keeps one array a step, y itself: beside it stand dy and the gradient of x, which no checkpoint
    # saves, and Flax on the newest JAX has only one array more.
    least = 4 * time * batch * (2 * hidden + width)
    assert cheap < usual
    assert cheap < (1.1 * least if name == "rnn" else min(usual, flax) / 2)


@pytest.mark.parametrize("own", ["x", "x and carry", "carry"])
def test_under_shard_map(own):
    """Each device has its rows, its carry or both; the weights, alike on all, get the gradient of all rows."""
    params = {"kernel": jnp.full((3, 8), 0.1), "recurrent_kernel": jnp.full((2, 8), 0.1), "bias": jnp.zeros(8)}
    x, carry = jnp.linspace(-1, 1, 60).reshape(4, 5, 3), LSTMCarry(jnp.full((4, 2), 0.3), jnp.full((4, 2), -0.2))
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    carry, whole, rows = carry if "carry" in own else None, PartitionSpec(), PartitionSpec("data")
    specs = whole, rows if "x" in own else whole, rows

    def loss(params, x, carry):
        return jnp.sum(jnp.square(ops.lstm(params, x, carry=carry)[0]))

    sharded = jax.shard_map(
        lambda *given: jax.lax.psum(loss(*given), "data"), mesh=mesh, in_specs=specs, out_specs=whole
    )
    got, want = (jax.jit(jax.grad(f))(params, x, carry) for f in (sharded, loss))
    for name, gradient in want.items():
        np.testing.assert_allclose(got[name], gradient, rtol=1e-6)


def test_weight_gradients_are_not_summed_step_by_step():
    hidden = 24
    program = compiled("lstm", (2, 64, 8, hidden)).as_text()
    loops = program.count(" while(")
    assert loops >= 2
    bodies = [part for part in program.split("\n\n") if part.startswith(("%region", "%while", "%wide"))]
    shapes = (f"f32[{hidden},{4 * hidden}]", f"f32[{4 * hidden},{hidden}]")
    assert bodies
    assert not any(
        f"{shape}{{" in line and " add(" in line for part in bodies for line in part.splitlines() for shape in shapes
    )


X, P = jnp.zeros((3, 5, 4)), {"kernel": jnp.zeros((4, 8)), "recurrent_kernel": jnp.zeros((2, 8)), "bias": jnp.zeros(8)}
C = LSTMCarry(jnp.zeros((3, 2)), jnp.zeros((3, 2)))


@pytest.mark.parametrize(
    ("params", "x", "settings", "error", "message"),
    [
        (P, X[..., :3], {}, ValueError, r"x has 3 features but params\['kernel'\] expects 4 \(x.shape=\(3, 5, 3\)"),
        (P, X[0], {}, ValueError, r"x wants \[B, T, D\] but has shape \(5, 4\)"),
        (P, X.astype(int), {}, TypeError, "x wants a floating dtype but has int32"),
        (
            P,
            X.astype(jnp.bfloat16),
            {},
            TypeError,
            r"params\['kernel'\] wants the dtype of x, bfloat16, but has float32",
        ),
        ({"kernel": P["kernel"]}, X, {}, ValueError, r"params has no 'recurrent_kernel', only \['kernel'\]"),
        ({**P, "recurrent_kernel": P["kernel"]}, X, {}, ValueError, r"wants \[H, 4 \* H\] but has shape \(4, 8\)"),
        ({**P, "kernel": P["kernel"][:, :4]}, X, {}, ValueError, r"\['kernel'\] wants \[D, 8\] but has shape \(4, 4\)"),
        ({**P, "bias": P["bias"][:4]}, X, {}, ValueError, r"\['bias'\] wants shape \(8,\) but has \(4,\)"),
        (P, X, {"lengths": jnp.zeros(2, int)}, ValueError, r"lengths wants shape \(3,\) but has \(2,\)"),
        (P, X, {"lengths": jnp.zeros(3)}, TypeError, "lengths wants an integer dtype but has float32"),
        (P, X, {"starts": jnp.zeros((3, 4), bool)}, ValueError, r"starts wants shape \(3, 5\) but has \(3, 4\)"),
        (P, X, {"starts": jnp.zeros((3, 5), int)}, TypeError, "starts wants dtype bool but has int32"),
        (P, X, {"carry": GRUCarry(C.h)}, TypeError, "carry wants LSTMCarry but is GRUCarry"),
        (
            P,
            X,
            {"carry": jax.tree.map(lambda a: a[:2], C)},
            ValueError,
            r"carry.h wants shape \(3, 2\) but has \(2, 2\)",
        ),
        (P, X, {"carry": C._replace(c=C.c.astype(jnp.bfloat16))}, TypeError, "carry.c wants dtype float32 but has bf"),
        (
            P,
            X,
            {"initial_carry": C._replace(h=C.h[0, :1])},
            ValueError,
            r"initial_carry.h wants shape \(2,\) or \(3, 2\)",
        ),
        (P, X, {"checkpoint_every": 0}, ValueError, "checkpoint_every wants at least 1 step but got 0"),
        (P, X, {"implementation": "fast"}, ValueError, "implementation is 'fast' but wants one of auto, scan"),
    ],
)
def test_bad_input_is_named(params, x, settings, error, message, own_errors):
    with pytest.raises(error, match=f"^lstm: .*{message}"):
        ops.lstm(params, x, **settings)


def test_bad_input_of_the_other_ops_is_named(own_errors):
    with pytest.raises(ValueError, match=r"^lstm_step: x wants \[B, D\] but has shape \(3, 5, 4\)"):
        ops.lstm_step(P, X)
    params = {"kernel": jnp.zeros((4, 6)), "recurrent_kernel": jnp.zeros((2, 6)), "bias": jnp.zeros(6)}
    with pytest.raises(ValueError, match=r"^gru: params\['recurrent_bias'\] wants shape \(2,\) but has \(6,\)"):
        ops.gru({**params, "recurrent_bias": jnp.zeros(6)}, X)
    with pytest.raises(ValueError, match=r"^rnn: activation is 'sine' but wants one of tanh, relu"):
        ops.rnn(P, X, activation="sine")
