"""The variants of the papers against loops in float64: values, every gradient, whatever the options and the noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from jaxnets.ops import GRUCarry, LSTMCarry, RNNCarry
from jaxnets.ops._recurrent_cell import Cell
from jaxnets.ops._recurrent_noise import noisy
from tests.reference import recurrent_variants as reference
from tests.reference.recurrent import gradients
from tests.reference.tolerance import tolerance

OPS = {"lstm": ops.lstm, "gru": ops.gru, "rnn": ops.rnn}
CARRIES = {"lstm": LSTMCarry, "gru": GRUCarry, "rnn": RNNCarry}
B, D, H, P = 2, 3, 4, 2


def draw(name, time, *variants, seed=0):
    """Everything that a gradient is taken by, in float64: parameters, the carry, the initial state and x."""
    rng = np.random.default_rng(seed)
    gates = {"lstm": 3 if "coupled" in variants else 4, "gru": 3, "rnn": 1}[name]
    out = P if "projection" in variants else H
    made = {
        "kernel": rng.normal(size=(D, gates * H)) / D**0.5,
        "recurrent_kernel": rng.normal(size=(out, gates * H)) / out**0.5,
        "bias": rng.normal(size=gates * H),
        "x": rng.normal(size=(B, time, D)),
    }
    if name == "gru":
        made["recurrent_bias"] = rng.normal(size=H)
    if "peephole" in variants:
        made["peephole"] = rng.normal(size=(gates - 1) * H) / 2
    if "projection" in variants:
        made["projection"] = rng.normal(size=(H, P)) / H**0.5
    if "layer_norm" in variants:
        made |= {key: 1 + rng.normal(size=gates * H) / 4 for key in ("input_scale", "recurrent_scale")}
        made |= {"cell_scale": 1 + rng.normal(size=H) / 4, "cell_bias": rng.normal(size=H) / 4}
    for field in CARRIES[name]._fields:
        width = out if field == "h" else H
        made[f"carry_{field}"], made[f"initial_{field}"] = rng.normal(size=(B, width)), rng.normal(size=width)
    return made


def split(name, arrays):
    given = [f"{kind}_{f}" for kind in ("carry", "initial") for f in CARRIES[name]._fields]
    params = {k: v for k, v in arrays.items() if k not in ("x", *given)}
    carry, initial = ([arrays[f"{kind}_{f}"] for f in CARRIES[name]._fields] for kind in ("carry", "initial"))
    return params, arrays["x"], carry, initial


def weigh(y, carry, weights):
    """A number that everything has a part in."""
    return sum((part * weight).sum() for part, weight in zip((y, *carry), weights, strict=True))


def compare(name, arrays, dtype, options=None, noise=None, reverse=False, checkpoint_every=None, **settings):
    options = {} if options is None else options
    kind, rng, steps = CARRIES[name], np.random.default_rng(9), {"reverse": reverse, **settings}

    def run(arrays):
        params, x, carry, initial = split(name, arrays)
        return reference.run(name, params, x, carry, initial=initial, noise=noise, **steps)

    value = run(arrays)
    weights = [rng.normal(size=part.shape) for part in (value[0], *value[1])]
    wanted = gradients(lambda arrays: weigh(*run(arrays), weights), arrays)

    def outcome(arrays, weights, settings):
        params, x, carry, initial = split(name, arrays)
        given = {"carry": kind(*carry), "initial_carry": kind(*initial), "checkpoint_every": checkpoint_every}
        y, carry = OPS[name](params, x, reverse=reverse, **given, **settings, **options)
        return weigh(y, carry, weights), (y, tuple(carry))

    cast = functools.partial(jax.tree.map, lambda a: jnp.asarray(a, dtype))
    both = jax.jit(jax.value_and_grad(outcome, has_aux=True))
    (_, got), got_gradients = both(cast(arrays), cast(weights), jax.tree.map(jnp.asarray, settings))
    bound = tolerance(dtype)
    jax.tree.map(functools.partial(np.testing.assert_allclose, **bound), got, value)
    for key, want in wanted.items():  # relative to the largest: entries are sums over the whole sequence
        scale = max(np.abs(want).max(initial=0), 1e-6)
        np.testing.assert_allclose(got_gradients[key] / scale, want / scale, atol=bound["atol"], rtol=0, err_msg=key)


VARIANTS = [
    ("peephole",),
    ("projection",),
    ("layer_norm",),
    ("coupled",),
    ("coupled", "peephole"),
    ("coupled", "layer_norm", "peephole", "projection"),
]


@pytest.mark.parametrize("variants", VARIANTS, ids=" ".join)
def test_lstm_matches_the_loop(variants):
    compare("lstm", draw("lstm", 7, *variants), "float32", {"coupled": "coupled" in variants})


SETTINGS = {
    "lengths": np.array([0, 6]),
    "starts": np.array([[1, 0] * 3, [0, 0, 0, 1, 0, 0]], bool),
}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("variants", [("layer_norm", "peephole", "projection"), ("coupled",)], ids=" ".join)
def test_options_match_the_loop(variants, reverse, x64):
    options = {"coupled": "coupled" in variants, "zoneout": (0.1, 0.3)}
    noise = {"zoneout_h": 0.1, "zoneout_c": 0.3}
    given = {"reverse": reverse, "checkpoint_every": 4, **SETTINGS}
    compare("lstm", draw("lstm", 6, *variants), "float64", options, noise, **given)


def masks(name, arrays, key, starts, options):
    """The noise that an op draws from a key, as the reference takes it."""
    _, x, carry, _ = split(name, arrays)
    template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], x.dtype), CARRIES[name](*carry))
    rate, kind = options.get("recurrent_dropout", 0.0), options.get("dropout_kind", "variational")
    _, drawn = noisy(name, Cell(), template, jnp.asarray(x), starts, options.get("zoneout", 0.0), rate, kind, key)
    drawn_dropout = {"fed": drawn.fed, "update": drawn.update}
    made = {kind: np.asarray(mask) / (1 - rate) for kind, mask in drawn_dropout.items() if mask is not None}
    for field, mask in zip(CARRIES[name]._fields, drawn.zoneout or (), strict=bool(drawn.zoneout)):
        made[f"zoneout_{field}"] = np.asarray(mask, float)
    return made


NOISES = {
    "variational": {"recurrent_dropout": 0.4},
    "per_step": {"recurrent_dropout": 0.4, "dropout_kind": "per_step"},
    "zoneout": {"zoneout": 0.4},
    "all": {"zoneout": 0.2, "recurrent_dropout": 0.5},
}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("name", OPS)
def test_noise_matches_the_loop(name, noise):
    if (name, noise) == ("rnn", "per_step"):
        with pytest.raises(TypeError, match="dropout_kind"):
            ops.rnn({}, jnp.zeros((1, 1, 1)), **NOISES[noise])
        return
    arrays, key, starts = draw(name, 5), jax.random.key(3), SETTINGS["starts"][:, :5]
    given = masks(name, arrays, key, jnp.asarray(starts), NOISES[noise])
    compare(name, arrays, "float32", {**NOISES[noise], "key": key}, given, starts=starts)


def test_noise_of_every_variant_matches_the_loop():
    variants = ("peephole", "projection", "layer_norm")
    options = {"recurrent_dropout": 0.3, "dropout_kind": "per_step", "zoneout": (0.2, 0.4)}
    arrays, key = draw("lstm", 5, *variants), jax.random.key(5)
    compare("lstm", arrays, "float32", {**options, "key": key}, masks("lstm", arrays, key, None, options))


@pytest.mark.parametrize("name", OPS)
def test_zoneout_without_a_key_is_its_expectation(name):
    noise = {"zoneout_h": 0.4, "zoneout_c": 0.4}
    compare(name, draw(name, 5), "float32", {"zoneout": 0.4, "recurrent_dropout": 0.5}, noise)


@pytest.mark.parametrize("name", OPS)
def test_steps_are_the_sequence(name):
    variants = ("peephole", "projection", "layer_norm") if name == "lstm" else ()
    params, x, _, _ = split(name, jax.tree.map(lambda a: jnp.asarray(a, "float32"), draw(name, 2, *variants)))
    y, last = OPS[name](params, x, zoneout=0.3)
    step, carry = {"lstm": ops.lstm_step, "gru": ops.gru_step, "rnn": ops.rnn_step}[name], None
    for t in range(2):
        out, carry = step(params, x[:, t], carry, zoneout=0.3)
        np.testing.assert_allclose(out, y[:, t], **tolerance("float32"))
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance("float32")), carry, last)


@pytest.mark.parametrize("kind", ["variational", "per_step"])
def test_masks_keep_their_rate_for_as_long_as_they_should(kind):
    leaf = jax.ShapeDtypeStruct((50,), jnp.float32)
    x, starts = jnp.zeros((40, 4, 1)), jnp.zeros((40, 4), bool).at[:, 2].set(True)
    for given in (None, starts):
        _, noise = noisy("lstm", Cell(), LSTMCarry(leaf, leaf), x, given, (0.2, 0.6), 0.4, kind, jax.random.key(1))
        mask, other = (noise.fed, noise.update) if kind == "variational" else (noise.update, noise.fed)
        assert other is None
        np.testing.assert_allclose(mask.mean((0, 2)), 0.6, atol=0.05)
        changes = (mask[:, 1:] != mask[:, :-1]).any((0, 2))
        wanted = [True] * 3 if kind == "per_step" else [False, given is not None, False]
        np.testing.assert_array_equal(changes, wanted)
        np.testing.assert_allclose([part.mean() for part in noise.zoneout], [0.2, 0.6], atol=0.02)


WRONG = {
    "dropout": ({}, {"recurrent_dropout": 1.0}, ValueError, "recurrent_dropout wants a rate .* 1.0"),
    "kind": ({}, {"dropout_kind": "always"}, ValueError, "dropout_kind is 'always'"),
    "zoneout": ({}, {"zoneout": -0.1}, ValueError, "zoneout wants a rate .* h and c, .* -0.1"),
    "zoneouts": ({}, {"zoneout": (0.1,)}, ValueError, "zoneout"),
    "gates": ({}, {"coupled": True}, ValueError, r"\[H, 3 \* H\]"),
    "peephole": ({"peephole": (4,)}, {}, ValueError, r"'peephole'\] wants shape \(12,\) but has \(4,\)"),
    "projection": ({"projection": (4, 3)}, {}, ValueError, r"'projection'\] wants \[H, P\]"),
    "norms": ({"cell_scale": (4,)}, {}, ValueError, "no 'input_scale'"),
    "dtype": ({"peephole": (12,)}, {"dtype": "bfloat16"}, TypeError, "dtype of the state, float32"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_errors(wrong, own_errors):
    more, options, error, message = WRONG[wrong]
    params, x, _, _ = split("lstm", draw("lstm", 2))
    dtype = options.get("dtype", "float32")
    given = {**params, **{name: np.ones(shape) for name, shape in more.items()}}
    given, x = jax.tree.map(lambda a: jnp.asarray(a, dtype), (given, x))
    with pytest.raises(error, match=f"lstm: .*{message}"):
        ops.lstm(given, x, **{name: option for name, option in options.items() if name != "dtype"})
