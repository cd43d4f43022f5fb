import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import train

PARAMS = {
    "Dense_0": {"kernel": jnp.full((4, 3), 0.5), "bias": jnp.full(3, 0.5)},
    "Conv_0": {"kernel": jnp.full((3, 2, 5), 0.5)},
    "LayerNorm_0": {"scale": jnp.full(3, 0.5), "bias": jnp.full(3, 0.5)},
    "Embed_0": {"embedding": jnp.full((7, 4), 0.5)},
    "LSTM_0": {"kernel": jnp.full((4, 8), 0.5), "recurrent_kernel": jnp.full((2, 8), 0.5), "bias": jnp.full(8, 0.5)},
}
DECAYED = {
    "Dense_0": {"kernel": True, "bias": False},
    "Conv_0": {"kernel": True},
    "LayerNorm_0": {"scale": False, "bias": False},
    "Embed_0": {"embedding": True},
    "LSTM_0": {"kernel": True, "recurrent_kernel": True, "bias": False},
}


def updated(optimizer, params, gradient, steps=1):
    @jax.jit
    def run(params):
        opt_state = optimizer.init(params)
        for _ in range(steps):
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            params = optax.apply_updates(params, updates)
        return params

    return run(params)


@pytest.mark.parametrize("name", train.OPTIMIZERS)
def test_each_lowers_a_loss(name):
    target = jnp.array(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)

    def loss(params):
        return jnp.square(params["kernel"] + params["bias"] - target).mean()

    optimizer = train.optimizer(name, 0.05, schedule="cosine", steps=60, warmup=3, clip=10.0)

    def step(carry, _):
        params, opt_state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    params = {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}
    _, losses = jax.jit(lambda carry: jax.lax.scan(step, carry, length=60))((params, optimizer.init(params)))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("sgd", [-0.2, -0.4]),
        ("momentum", [-0.2, -0.2 - 0.2 * 1.9]),
        ("nesterov", [-0.2 * 1.9, -0.2 * 1.9 - 0.2 * (1 + 0.9 * 1.9)]),
        ("adam", [-0.1, -0.2]),
        ("lion", [-0.1, -0.2]),
    ],
)
def test_updates_by_hand(name, want):
    # A constant gradient of 2 at a rate of 0.1.
    optimizer = train.optimizer(name, 0.1)
    for steps, value in enumerate(want, start=1):
        params = updated(optimizer, {"bias": jnp.zeros(1)}, {"bias": jnp.full(1, 2.0)}, steps)
        np.testing.assert_allclose(params["bias"], value, rtol=1e-5)


def test_decay_goes_by_path_and_never_by_rank():
    assert train.decay_mask(PARAMS) == DECAYED
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), PARAMS)
    assert train.decay_mask(stacked) == DECAYED


@pytest.mark.parametrize("name", train.OPTIMIZERS)
def test_decay_moves_what_it_should_and_nothing_else(name):
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    after = updated(train.optimizer(name, 0.1, weight_decay=0.1), PARAMS, zero)
    moved = jax.tree.map(lambda a, b: bool((a < b).all()), after, PARAMS)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), after, PARAMS)
    assert moved == DECAYED
    assert same == jax.tree.map(lambda decays: not decays, DECAYED)
    if name in ("adamw", "lion", "muon"):
        np.testing.assert_allclose(after["Dense_0"]["kernel"], 0.5 * (1 - 0.1 * 0.1), rtol=1e-6)


def test_clipping_limits_the_norm_of_the_gradient():
    gradient = {"bias": jnp.array([30.0, 40.0])}
    params = updated(train.optimizer("sgd", 1.0, clip=5.0), {"bias": jnp.zeros(2)}, gradient)
    np.testing.assert_allclose(params["bias"], [-3.0, -4.0], rtol=1e-6)


@pytest.mark.parametrize("name", ["nesterov", "adamw", "muon"])
def test_every_hyperparameter_may_be_traced(name):
    params = PARAMS["Dense_0"]
    gradient = jax.tree.map(jnp.ones_like, params)

    def run(rate, decay, momentum, clip):
        options = {"weight_decay": decay, "momentum": momentum, "clip": clip}
        return updated(train.optimizer(name, rate, schedule="linear", steps=9, **options), params, gradient)

    values = jnp.array([[0.01, 0.1], [0.0, 0.1], [0.5, 0.9], [1.0, 2.0]])
    swept = jax.jit(jax.vmap(run))(*values)
    second = jax.tree.map(lambda leaf: leaf[1], swept)
    chex.assert_trees_all_close(second, run(0.1, 0.1, 0.9, 2.0), rtol=1e-4)


def test_schedules_are_shapes_between_0_and_1():
    for name in train.SCHEDULES:
        for warmup in (0, 4):
            factor = train.make_schedule(name, 20, warmup)
            values = np.asarray(jax.jit(jax.vmap(factor))(jnp.arange(25)))
            assert values.min() >= 0
            assert values.max() == pytest.approx(1)
            peak = 6 if (name, warmup) == ("one_cycle", 0) else warmup
            assert values[peak] == pytest.approx(1)
            assert values[0] > 0
            assert np.all(np.diff(values[: peak + 1]) > 0)
            end = 1 if name == "constant" else 0
            np.testing.assert_allclose(values[20:], end, atol=1e-5)
    np.testing.assert_allclose(
        [train.make_schedule("linear", 20, 4)(step) for step in (0, 3, 12)], [0.2, 0.8, 0.5], rtol=1e-6
    )
    np.testing.assert_allclose(
        [train.make_schedule("cosine", 20)(step) for step in (0, 10, 15)], [1, 0.5, 0.1464466], rtol=1e-6
    )


def test_options_reach_the_rule():
    params, gradient = {"bias": jnp.zeros(1)}, {"bias": jnp.ones(1)}
    a, b = (updated(train.optimizer("adam", 0.1, b1=b1), params, gradient, 2) for b1 in (0.9, 0.0))
    want = updated(optax.adam(0.1, b1=0.0), params, gradient, 2)
    chex.assert_trees_all_close(b, want, rtol=1e-6)
    chex.assert_trees_all_close(a, b, rtol=1e-5)


def test_muon_orthogonalises_kernels():
    gradient = {"kernel": jnp.array(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)}
    after = updated(train.optimizer("muon", 1.0), {"kernel": jnp.zeros((6, 4))}, gradient)
    values = np.linalg.svd(after["kernel"], compute_uv=False)
    assert values.max() / values.min() < 2 < np.linalg.cond(gradient["kernel"])


def test_muon_takes_the_gates_of_a_cell_one_by_one():
    rng = np.random.default_rng(0)
    scales = np.repeat([1.0, 0.1, 0.01, 0.0], 4)  # the last gate has no gradient
    gradient = {
        "LSTM_0": {
            "kernel": jnp.asarray(rng.normal(size=(6, 16)) * scales, jnp.float32),
            "recurrent_kernel": jnp.asarray(rng.normal(size=(4, 16)) * scales, jnp.float32),
        }
    }
    got = updated(train.optimizer("muon", 1.0), jax.tree.map(jnp.zeros_like, gradient), gradient)["LSTM_0"]
    for name, whole in got.items():
        *gates, last = jnp.split(whole, 4, axis=-1)
        for gate, own in zip(gates, jnp.split(gradient["LSTM_0"][name], 4, axis=-1), strict=False):
            alone = updated(train.optimizer("muon", 1.0), {"kernel": jnp.zeros(own.shape)}, {"kernel": own})["kernel"]
            chex.assert_trees_all_close(gate, alone, atol=1e-6)
        chex.assert_trees_all_equal(last, jnp.zeros_like(last))


def test_muon_takes_a_projected_cell_as_one():
    draw = np.random.default_rng(0).normal
    gradient = {name: jnp.asarray(draw(size=(rows, 16)), jnp.float32) for name, rows in (("kernel", 6), ("other", 2))}
    tx = train.optimizer("muon", 1.0)
    alone = updated(tx, {"kernel": jnp.zeros((6, 16))}, {"kernel": gradient["kernel"]})
    cell = {"kernel": gradient["kernel"], "recurrent_kernel": gradient["other"]}
    chex.assert_trees_all_close(
        updated(tx, jax.tree.map(jnp.zeros_like, cell), cell)["kernel"], alone["kernel"], atol=1e-6
    )


def test_muon_is_that_of_optax():
    rng = np.random.default_rng(0)
    shapes = {
        "tall": {"kernel": (3, 3, 4, 8)},
        "wide": {"kernel": (4, 12), "bias": (12,)},
        "square": {"kernel": (5, 5)},
    }

    def draw():
        return {
            layer: {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in leaves.items()}
            for layer, leaves in shapes.items()
        }

    def dimensions(leaf):
        axes = tuple(range(leaf.ndim))
        return optax.contrib.MuonDimensionNumbers(axes[:-1], axes[-1]) if leaf.ndim > 1 else None

    ours = train.optimizer("muon", 0.1)
    theirs = optax.contrib.muon(
        0.1, consistent_rms=0.2, muon_weight_dimension_numbers=lambda p: jax.tree.map(dimensions, p)
    )
    params = draw()
    states = [rule.init(params) for rule in (ours, theirs)]
    for _ in range(3):
        gradient = draw()
        found, wanted = (
            rule.update(gradient, state, params) for rule, state in zip((ours, theirs), states, strict=True)
        )
        states = [found[1], wanted[1]]
        chex.assert_trees_all_close(found[0], wanted[0], atol=1e-6)


def test_wrong_names_are_listed():
    with pytest.raises(ValueError, match="unknown name 'adamm', choose from sgd, momentum, nesterov, adagrad, rmsprop"):
        train.optimizer("adamm", 0.1)
    with pytest.raises(ValueError, match="learning_rate is -1 but wants at least 0"):
        train.optimizer("adam", -1)
    with pytest.raises(ValueError, match="weight_decay is nan but wants at least 0"):
        train.optimizer("adam", 1e-3, weight_decay=float("nan"))
    with pytest.raises(ValueError, match="unknown name 'step', choose from constant, cosine, linear, one_cycle"):
        train.optimizer("sgd", 0.1, schedule="step")
    with pytest.raises(ValueError, match="cosine needs steps above warmup=0, got steps=None"):
        train.optimizer("sgd", 0.1, schedule="cosine")
    with pytest.raises(ValueError, match="linear needs steps above warmup=5, got steps=5"):
        train.make_schedule("linear", 5, 5)
    with pytest.raises(ValueError, match="warmup must be at least 0, got -1"):
        train.make_schedule("constant", 5, -1)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_frozen_parameters_keep_their_bits_and_others_have_rates_of_their_own(name):
    gradient = jax.tree.map(jnp.ones_like, PARAMS)
    options = {"weight_decay": 0.1, "clip": 1.0}
    by_path = {"frozen": ("^Conv_0", "embedding"), "rates": {"^LSTM_0/": 0.1, "kernel$": 2.0}}
    optimizer = train.optimizer(name, 0.01, **options, **by_path)
    got = updated(optimizer, PARAMS, gradient, 3)
    chex.assert_trees_all_equal((got["Conv_0"], got["Embed_0"]), (PARAMS["Conv_0"], PARAMS["Embed_0"]))
    state = optimizer.init(PARAMS)
    assert not any("Conv_0" in path for path in train.paths.flatten(state))

    # Against the same rule on what is left, which makes the clipping the same too.
    rest = {layer: leaves for layer, leaves in PARAMS.items() if layer not in ("Conv_0", "Embed_0")}
    plain = train.optimizer(name, 0.01, **options)
    once = updated(plain, rest, {layer: gradient[layer] for layer in rest})
    first = updated(optimizer, PARAMS, gradient)
    factors = {"LSTM_0/kernel": 0.1, "LSTM_0/bias": 0.1, "Dense_0/kernel": 2.0, "Dense_0/bias": 1.0}
    for path, factor in factors.items():
        layer, leaf = path.split("/")
        moved, wanted = first[layer][leaf] - 0.5, factor * (once[layer][leaf] - 0.5)
        np.testing.assert_allclose(moved, wanted, rtol=1e-4, atol=1e-7)


def test_an_expression_found_nowhere_is_named():
    with pytest.raises(ValueError, match=r"by_path: 'Cnov' is found in no parameter, there are Conv_0/"):
        train.by_path(optax.sgd(0.1), frozen=["Cnov"]).init(PARAMS)
