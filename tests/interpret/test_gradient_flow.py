"""The gradient by the state at each lag, against loops in float64 that move the state and look at the loss."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import interpret, layers, models, ops
from tests.reference import recurrent as reference

BATCH, TIME, WIDTH, HIDDEN = 2, 6, 3, 4
X = jax.random.normal(jax.random.key(0), (BATCH, TIME, WIDTH))
CELLS = {"rnn": layers.RNN, "lstm": layers.LSTM, "gru": layers.GRU}


def made(layer, x=X):
    """Variables whose biases are not zero."""
    variables = jax.jit(layer.init)(jax.random.key(1), x)
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda p: jnp.asarray(p + 0.3 * rng.normal(size=p.shape).astype(p.dtype)), variables)


def last_sum(y):
    return y[:, -1].sum() / np.sqrt(y.shape[-1])


def squares(y):
    return (y**2).sum()


def norms_by_loops(name, params, x, loss):
    """For each part of the state the norms at lags 1 to T, the mean over rows: every entry is moved by itself."""
    parts = 2 if name == "lstm" else 1
    norms = np.zeros((parts, len(x), TIME))
    for b in range(len(x)):
        states, y = [tuple(np.zeros(HIDDEN) for _ in range(parts))], []
        for t in range(TIME):
            states.append(reference.STEPS[name](params, x[b, t], states[-1]))
            y.append(states[-1][0])
        for t in range(TIME):
            for part in range(parts):
                gradient = np.zeros(HIDDEN)
                for i in range(HIDDEN):
                    state = [leaf.astype(complex) for leaf in states[t]]
                    state[part][i] += 1j * reference.STEP
                    rows = [np.asarray(h, complex) for h in y[:t]]
                    for s in range(t, TIME):
                        state = reference.STEPS[name](params, x[b, s], state)
                        rows.append(state[0])
                    gradient[i] = loss(np.array([rows])).imag / reference.STEP
                norms[part, b, TIME - 1 - t] = np.linalg.norm(gradient)
    return norms


@pytest.mark.parametrize("loss", [None, squares], ids=["last", "all"])
@pytest.mark.parametrize("name", CELLS)
def test_norms_are_those_of_the_loops(name, loss):
    layer = CELLS[name](HIDDEN)
    variables = made(layer)
    params = {name: np.asarray(param, np.float64) for name, param in variables["params"].items()}
    want = norms_by_loops(name, params, np.asarray(X, np.float64), loss or last_sum)
    got = interpret.gradient_norms(layer, variables, X, loss=loss)
    assert list(got) == (["state", "c", "h"] if name == "lstm" else ["state", "h"])
    for part, field in enumerate(("h", "c")[: len(want)]):
        np.testing.assert_allclose(got[field], want[part].mean(0), rtol=1e-5)
    np.testing.assert_allclose(got["state"], np.sqrt((want**2).sum(0)).mean(0), rtol=1e-5)


def test_the_norm_of_a_linear_unit_is_the_power_of_its_eigenvalue():
    layer = layers.LRU(features=3, state_features=1, r_min=0.9, r_max=0.95)
    variables = jax.jit(layer.init)(jax.random.key(0), X)
    modulus = np.exp(-np.exp(np.asarray(variables["params"]["nu_log"], np.float64)))
    norms = interpret.gradient_norms(layer, variables, X)["state"]
    np.testing.assert_allclose(norms[1:] / norms[:-1], np.full(TIME - 1, modulus.item()), rtol=1e-5)


def test_it_runs_over_any_layer_that_streams():
    layer = layers.Stack((layers.LSTM(HIDDEN), layers.MinGRU(HIDDEN)), residual=True)
    variables = made(layer)
    y, gradients = interpret.state_gradients(layer, variables, X)
    np.testing.assert_allclose(y, layer.apply(variables, X)[0], rtol=1e-5, atol=1e-6)
    assert jax.tree.map(jnp.shape, gradients) == (((TIME, BATCH, HIDDEN),) * 2, ((TIME, BATCH, HIDDEN),))
    assert list(interpret.gradient_norms(layer, variables, X)) == ["state", "0/c", "0/h", "1/h"]


def test_a_learned_carry_is_where_it_begins():
    layer = layers.GRU(HIDDEN, learned_carry=True)
    variables = made(layer)
    y, _ = interpret.state_gradients(layer, variables, X)
    np.testing.assert_allclose(y, layer.apply(variables, X)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (layers.GRU(HIDDEN, reverse=True), "GRU runs backwards in time: make it with reverse=False"),
        (layers.Bidirectional(layers.GRU(HIDDEN)), "Bidirectional keeps no state from step to step"),
    ],
)
def test_layers_that_cannot_stream_are_refused(layer, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        interpret.state_gradients(layer, made(layer), X)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_gates_are_those_of_the_steps(name):
    layer = CELLS[name](HIDDEN, learned_carry=True)
    variables = made(layer)
    params = {name: np.asarray(param, np.float64) for name, param in variables["params"].items()}
    gates = interpret.gate_activations(layer, variables, X)
    y = np.asarray(layer.apply(variables, X)[0], np.float64)
    for b, t in np.ndindex(BATCH, TIME):
        before = params["initial_h"] if t == 0 else y[b, t - 1]
        a = np.asarray(X)[b, t] @ params["kernel"] + before @ params["recurrent_kernel"] + params["bias"]
        parts = np.split(reference.sigmoid(a), 4 if name == "lstm" else 3)
        want = {"lstm": {"input": 0, "forget": 1, "output": 3}, "gru": {"reset": 0, "update": 1}}[name]
        assert list(gates) == list(want)
        for gate, i in want.items():
            np.testing.assert_allclose(gates[gate][b, t], parts[i], rtol=1e-5)


def test_gates_of_layers_that_do_not_see_the_state():
    for layer, names in {
        layers.MinGRU(3): ["update"],
        layers.MinLSTM(3): ["input", "forget"],
        layers.RGLRU(3): ["recurrence", "input"],
    }.items():
        variables = made(layer)
        gates = interpret.gate_activations(layer, variables, X)
        assert list(gates) == names
        first = (
            np.asarray(X) @ np.asarray(variables["params"]["kernel"])[:, :3]
            + np.asarray(variables["params"]["bias"])[:3]
        )
        np.testing.assert_allclose(gates[names[0]], reference.sigmoid(first), rtol=1e-5)
    assert interpret.gate_activations(layers.LRU(3), made(layers.LRU(3)), X) == {}


def test_gates_of_a_stack_are_those_of_its_layers():
    stack = layers.Stack((layers.GRU(WIDTH), layers.LSTM(HIDDEN)), residual=True)
    variables = made(stack)
    lower, upper = (layers.GRU(WIDTH), layers.LSTM(HIDDEN))
    below = {"params": variables["params"]["layers_0"]}
    above = {"params": variables["params"]["layers_1"]}
    gates = interpret.gate_activations(stack, variables, X)
    assert list(gates) == ["0/reset", "0/update", "1/input", "1/forget", "1/output"]
    want = interpret.gate_activations(upper, above, X + lower.apply(below, X)[0])
    np.testing.assert_allclose(gates["1/forget"], want["forget"], rtol=1e-6)


def test_gates_of_variants_are_not_guessed():
    layer = layers.LSTM(HIDDEN, peephole=True, layer_norm=True)
    variables = made(layer)
    with pytest.raises(ValueError, match="wants an LSTM without peephole and layer_norm"):
        interpret.gate_activations(layer, variables, X)
    report = interpret.gradient_flow(layer, variables, X, gates=False)
    assert (list(report["norms"]), report["saturation"]) == (["state", "c", "h"], {})


def test_saturation_counts_both_ends():
    assert interpret.saturation(jnp.array([[0.0, 0.1], [0.9, 0.91]])) == {"below": 0.25, "above": 0.25}
    assert interpret.saturation(jnp.array([0.3, 0.6]), low=0.4, high=0.5) == {"below": 0.5, "above": 0.5}


@pytest.mark.parametrize(
    ("norms", "length"),
    [([1, 0.5, 0.011, 0.009], 3), ([1, 0.001, 0.5], 3), ([1e-3, 1, 1e-3], 2), ([0, 0], 0), ([], 0), ([1, 1], 2)],
)
def test_memory_reaches_to_the_last_lag_that_counts(norms, length):
    assert interpret.memory_length(np.array(norms, float)) == length


def test_the_tanh_network_forgets_and_gated_ones_do_not():
    steps, hidden = 60, 8
    x = jax.random.uniform(jax.random.key(0), (2, steps, 2))
    kept = {
        "rnn": layers.RNN(hidden),
        "lstm": layers.LSTM(hidden, forget_bias=0.0, bias_init=layers.chrono(hidden, steps, (-1, 1, 0, 0))),
        "gru": layers.GRU(hidden, bias_init=layers.chrono(hidden, steps, (0, 1, 0))),
        "lru": layers.LRU(hidden, r_min=0.95, r_max=0.99),
    }
    reports = {
        name: interpret.gradient_flow(layer, jax.jit(layer.init)(jax.random.key(1), x), x)
        for name, layer in kept.items()
    }
    left = {name: report["norms"]["state"][-1] / report["norms"]["state"][0] for name, report in reports.items()}
    assert left["rnn"] < 1e-3
    assert min(left["lstm"], left["gru"], left["lru"]) > 1e-2
    assert reports["rnn"]["memory_length"] < 40 < steps == reports["lstm"]["memory_length"]
    assert set(reports["lstm"]["saturation"]) == {"input", "forget", "output"}
    assert json.loads(json.dumps(reports)) == reports


@pytest.mark.parametrize("pooling", [pytest.param("last", marks=pytest.mark.exhaustive), "none"])
def test_the_flow_inside_a_classifier_is_that_of_its_own_loss(pooling):
    layer = layers.GRU(HIDDEN)
    model = models.SequenceClassifier(layer, outputs=2, pooling=pooling, encoder_features=5, hidden_features=3)
    variables = made(model)
    y = jnp.zeros((BATCH, TIME) if pooling == "none" else BATCH, jnp.int32)
    own = {"params": variables["params"]["layer"]}
    report = interpret.classifier_gradient_flow(
        model, variables, {"x": X, "y": y}, loss=lambda outputs, batch: ops.cross_entropy(outputs, batch["y"])
    )
    carry = layers.initial_carry(layer, own, jax.ShapeDtypeStruct((BATCH, TIME, 5), jnp.float32))

    def loss(carry):
        """The network by itself, begun in this state."""
        h, _ = layer.apply(own, model.apply(variables, X, method="encode"), carry=carry)
        return ops.cross_entropy(model.apply(variables, h, method="decode"), y).total

    want = np.linalg.norm(jax.grad(loss)(carry).h, axis=1).mean()
    np.testing.assert_allclose(report["norms"]["state"][-1], want, rtol=1e-5)
    assert list(report["saturation"]) == ["reset", "update"]
