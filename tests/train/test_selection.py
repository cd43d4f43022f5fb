import chex
import pytest

from jaxnets import train

VALUES = {2: 0.9, 4: 0.5, 6: float("nan"), 8: 0.7, 10: 0.6, 12: 0.4}


def fit(made, best, state, *, steps=20, others=()):
    callbacks = [train.every(2, lambda step, state, _: best(step, state, {"loss": VALUES.get(step, 0.1)})), *others]
    return train.fit(state, made.step, made.data, steps=steps, callbacks=callbacks)[0]


def test_the_best_weights_are_kept_and_training_ends_without_a_better(made, tmp_path):
    path, ran, kept = tmp_path / "best.safetensors", [], {}

    def last(step, state, metrics):
        ran.append(step)

    def keep(step, state, metrics):
        kept[step] = made.digest(state.variables)

    others = [train.every(3, last, at_end=True), train.every(1, keep)]
    best = train.Best(path, patience=6)
    state = fit(made, best, made.state(), others=others)
    assert (int(state.step), best.step, best.value) == (10, 4, 0.5)
    assert ran == [3, 6, 9, 10]  # at_end holds for an early end too
    assert best.is_over(10)
    assert not best.is_over(9)
    weights = train.load_weights(path, state.averages)
    assert made.digest(weights) == kept[4]
    chex.assert_trees_all_equal(state.with_variables(weights).variables, weights)


def test_a_resumed_run_knows_the_best(made, tmp_path):
    path = tmp_path / "best.safetensors"
    whole = train.Best(tmp_path / "whole.safetensors")
    want = fit(made, whole, made.state(), steps=12)
    state = fit(made, train.Best(path), made.state(), steps=4)
    fit(made, train.Best(path), made.state().replace(step=state.step), steps=4)  # nothing left to do
    best = train.Best(path)
    assert (best.step, best.value) == (4, 0.5)
    got = fit(made, best, state, steps=12)
    assert (best.step, best.value) == (whole.step, whole.value) == (12, 0.4)
    assert made.digest(train.load_weights(path)) == made.digest(train.load_weights(whole.path))
    assert made.digest(got) == made.digest(want)


def test_a_plain_callback_may_end_the_training_too(made):
    ran = []
    callbacks = [lambda step, state, metrics: ran.append(step) or len(ran) == 2]
    state, _ = train.fit(made.state(), made.step, made.data, steps=20, callbacks=callbacks, seconds_per_call=1e-9)
    assert int(state.step) == 3  # told one call late
    assert ran == [1, 2, 3]


def test_wrong_use_is_named(made, tmp_path):
    path = tmp_path / "best.safetensors"
    train.Best(path, metric="accuracy", mode="max")(1, made.state(), {"accuracy": 0.5})
    with pytest.raises(ValueError, match="holds the max of accuracy, not min of loss"):
        train.Best(path)
    with pytest.raises(ValueError, match="Best: patience must be positive, got 0"):
        train.Best(path, patience=0)
    with pytest.raises(TypeError, match="Best: needs the state"):
        train.Best(tmp_path / "other.safetensors")(1, None, {"loss": 1.0})
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        train.Best(path)
