import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import train
from jaxnets.typing import Mean

# Odd steps, the end of an epoch (5), and one past it.
CUTS = [(1, 2, 5, 6, 13), (4, 13), (13,)]


def fit_in_parts(made, cuts, **options):
    state = made.state()
    for steps in cuts:
        state, metrics = train.fit(state, made.step, made.data, steps=steps, **options)
    return state, metrics


@pytest.mark.parametrize("scan", [True, False])
def test_cuts_change_no_bit(made, scan):
    digests = {made.digest(fit_in_parts(made, cuts, scan=scan)[0]) for cuts in CUTS}
    digests.add(made.digest(fit_in_parts(made, (13,), scan=scan, seconds_per_call=1e-9)[0]))
    digests.add(made.digest(fit_in_parts(made, (13,), scan=scan, callbacks=[train.every(3, lambda *_: None)])[0]))
    assert len(digests) == 1


@pytest.mark.parametrize("scan", [True, False])
def test_fit_equals_a_plain_loop(made, scan):
    state, step = made.state(), jax.jit(made.step)
    for at in range(7):
        epoch, i = divmod(at, made.data.steps_per_epoch)
        state, _ = step(state, made.data.batch(made.data.order(epoch), i))
    got, _ = fit_in_parts(made, (7,), scan=scan)
    assert int(got.step) == 7
    # Dense_0's bias has no gradient but rounding, which Adam makes large.
    state.params["Dense_0"].pop("bias")
    got.params["Dense_0"].pop("bias")
    chex.assert_trees_all_close(got.params, state.params, rtol=1e-4, atol=1e-5)


def test_streamed_batches_take_the_same_steps_wherever_they_begin(made):
    stream, whole = made.stream(), made.stream()
    state, _ = train.fit(made.state(), made.step, stream, steps=4)
    state, _ = train.fit(state, made.step, stream, steps=9)
    want, _ = train.fit(made.state(), made.step, whole, steps=9)
    assert (stream.seeks, whole.seeks) == ([0, 4], [0])
    assert made.digest(state) == made.digest(want)


def test_an_iterable_begins_again_and_one_that_is_empty_is_an_error(made):
    state, _ = train.fit(made.state(), made.step, [made.batch], steps=3)
    assert int(state.step) == 3
    with pytest.raises(ValueError, match="fit: data has no more batches"):
        train.fit(state, made.step, (made.batch for _ in range(2)), steps=9)


def test_the_step_is_traced_once_and_one_program_serves_all(made, compilations):
    @chex.assert_max_traces(n=1)
    def step(state, batch):
        return made.step(state, batch)

    state, _ = train.fit(made.state(), step, made.data, steps=1)
    before = len(compilations)
    for steps in (3, 4, 11):
        state, _ = train.fit(state, step, made.data, steps=steps)
    assert len(compilations) == before


def test_every_runs_at_its_multiples_with_the_means_since(made):
    records, calls = {}, []

    def log(step, state, metrics):
        assert int(state.step) == step
        records[step] = metrics

    state, step = made.state(), jax.jit(made.step)
    sums = []
    for at in range(12):
        epoch, i = divmod(at, 5)
        state, metrics = step(state, made.data.batch(made.data.order(epoch), i))
        sums.append(metrics)
    callbacks = [train.every(4, log), lambda step, state, metrics: calls.append((step, state))]
    _, last = train.fit(made.state(), made.step, made.data, steps=12, callbacks=callbacks, scan=False)
    assert list(records) == [4, 8, 12]
    for end, metrics in records.items():
        want = sums[end - 4]
        for other in sums[end - 3 : end]:
            want = made.add(want, other)
        assert metrics == pytest.approx({name: float(mean.value) for name, mean in want.items()}, rel=1e-5)
    ends = [step for step, _ in calls]
    assert ends == sorted(set(ends))
    assert {4, 8, 12} <= set(ends)
    assert all(state is None for _, state in calls)
    assert set(last) == {"loss", "accuracy"}


def test_every_checks_n():
    with pytest.raises(ValueError, match="every: n must be positive, got 0"):
        train.every(0, lambda *_: None)


def test_metrics_are_read_one_call_late(made, monkeypatch):
    """The call after is on its way before the first is waited for."""
    order = []
    many, get = train.programs._many_steps, jax.device_get
    monkeypatch.setattr(train.programs, "_many_steps", lambda *a: order.append("call") or many(*a))
    monkeypatch.setattr(jax, "device_get", lambda tree: order.append("read") or get(tree))
    train.fit(made.state(), made.step, made.data, steps=7, seconds_per_call=1e-9)
    assert order == ["call", *["call", "read"] * 6, "read"]


def test_a_finished_state_comes_back_as_it_is(made):
    state = made.state().replace(step=jnp.int32(9))
    got, metrics = train.fit(state, made.step, made.data, steps=9)
    assert got is state
    assert metrics == {}


def test_convolutions_run_one_step_at_a_time_on_a_cpu(made, convolved):
    assert train.runs_scanned(made.step, made.state(), made.data)
    assert not train.runs_scanned(convolved.step, convolved.state(), convolved.data)
    assert not train.runs_scanned(made.step, made.state(), made.stream())
    chosen, _ = train.fit(convolved.state(), convolved.step, convolved.data, steps=3)
    single, _ = train.fit(convolved.state(), convolved.step, convolved.data, steps=3, scan=False)
    assert convolved.digest(chosen) == convolved.digest(single)


def test_wrong_data_is_named(made):
    class Unregistered:
        steps_per_epoch, order, batch = 1, made.data.order, made.data.batch

    with pytest.raises(TypeError, match="must be a pytree of its arrays, got Unregistered"):
        train.fit(made.state(), made.step, Unregistered(), steps=1)
    with pytest.raises(TypeError, match="device-resident or an iterable of batches, got int"):
        train.programs.is_resident(3)
    with pytest.raises(ValueError, match="scan=True needs device-resident data"):
        train.fit(made.state(), made.step, made.stream(), steps=1, scan=True)


def test_fit_works_in_another_thread(made):
    results = []
    thread = threading.Thread(target=lambda: results.append(fit_in_parts(made, (3,))))
    thread.start()
    thread.join()
    assert int(results[0][0].step) == 3


@pytest.mark.parametrize("size", [1, 7, 44, 100])
def test_evaluate_is_exact_on_a_ragged_last_batch(made, size):
    x, y = made.arrays["x"], made.arrays["y"]
    batches = [{"x": x[i : i + size], "y": y[i : i + size]} for i in range(0, len(x), size)]
    state = made.state()
    metrics = train.evaluate(made.eval_step, state, batches)
    logits = np.asarray(made.model.apply(state.variables, x), np.float64)
    wanted = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
    assert metrics["loss"] == pytest.approx(wanted.mean(), rel=1e-6)
    assert metrics["accuracy"] == np.mean(logits.argmax(1) == y)


def test_evaluate_needs_a_batch_and_survives_one_of_no_weight(made):
    with pytest.raises(ValueError, match="evaluate: data has no batch"):
        train.evaluate(made.eval_step, made.state(), [])
    empty = train.evaluate(lambda state, batch: {"loss": Mean(jnp.float32(0), jnp.float32(0))}, made.state(), [{}])
    assert np.isnan(empty["loss"])


def test_training_learns(made):
    state, _ = train.fit(made.state(), made.step, made.data, steps=40)
    assert train.evaluate(made.eval_step, state, [made.arrays])["accuracy"] > 0.9


def test_every_can_run_at_the_end_too(made):
    ran = []
    callbacks = [
        train.every(4, lambda step, state, metrics: ran.append((step, metrics)), at_end=True),
        train.every(2, lambda step, state, metrics: ran.append((step, None)), at_end=True),
    ]
    train.fit(made.state(), made.step, made.data, steps=6, callbacks=callbacks)
    assert [step for step, _ in ran] == [2, 4, 4, 6, 6]
    assert set(ran[3][1]) == {"loss", "accuracy"}
