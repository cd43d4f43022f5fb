"""Ctrl-C and resume: the same bits as a run that nothing stopped."""

import contextlib
import signal

import jax
import pytest

from jaxnets import train

STEPS = 14


def uninterrupted(problem, data, scan):
    return problem.digest(train.fit(problem.state(), problem.step, data, steps=STEPS, scan=scan)[0])


@pytest.mark.parametrize("at", [1, 5, 7])
@pytest.mark.parametrize("way", ["scan", "single", "convolved", "stream"])
def test_ctrl_c_leaves_a_checkpoint_that_resumes_to_the_same_bits(request, tmp_path, way, at):
    problem = request.getfixturevalue("convolved" if way == "convolved" else "made")
    data, scan = (problem.stream(), None) if way == "stream" else (problem.data, way == "scan")
    before = signal.getsignal(signal.SIGINT)

    pressed = []

    def interrupt(step, state, metrics):
        if step >= at and not pressed:
            pressed.append(step)
            signal.raise_signal(signal.SIGINT)

    with train.Checkpoints(tmp_path) as checkpoints:
        options = {"callbacks": [train.every(3, checkpoints), interrupt], "seconds_per_call": 1e-9, "scan": scan}
        with pytest.raises(KeyboardInterrupt):
            train.fit(problem.state(), problem.step, data, steps=STEPS, **options)
    assert signal.getsignal(signal.SIGINT) is before

    state, _ = train.Checkpoints(tmp_path).restore(problem.state())
    assert at <= int(state.step) <= at + 2
    state, _ = train.fit(state, problem.step, data, steps=STEPS, scan=scan)
    assert problem.digest(state) == uninterrupted(problem, data, scan)


def test_a_second_ctrl_c_raises_at_once(made):
    after = []

    def interrupt(step, state, metrics):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        after.append(step)

    with pytest.raises(KeyboardInterrupt):
        train.fit(made.state(), made.step, made.data, steps=STEPS, callbacks=[interrupt])
    assert after == []


@pytest.mark.parametrize("wrap", [lambda callback: callback, lambda callback: train.every(3, callback)])
def test_ctrl_c_in_the_last_call_is_raised_too(made, wrap):
    interrupt = wrap(lambda step, *_: step == 3 and signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train.fit(made.state(), made.step, made.data, steps=3, callbacks=[interrupt])


def test_only_marked_callbacks_run_on_interruption_and_none_twice(made):
    ran = []

    def interrupt(step, state, metrics):
        ran.append(("plain", step))
        signal.raise_signal(signal.SIGINT)

    def logged(name):
        return lambda step, state, metrics: ran.append((name, step))

    callbacks = [
        train.every(4, interrupt),
        train.every(4, logged("due"), on_interrupt=True),
        train.every(3, logged("marked"), on_interrupt=True),
        train.every(100, logged("unmarked")),
    ]
    with pytest.raises(KeyboardInterrupt):
        train.fit(made.state(), made.step, made.data, steps=STEPS, callbacks=callbacks)
    assert ran == [("marked", 3), ("plain", 4), ("due", 4), ("marked", 4)]


def test_ignored_signals_stay_ignored(made):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        callbacks = [lambda step, state, metrics: signal.raise_signal(signal.SIGINT)]
        state, _ = train.fit(made.state(), made.step, made.data, steps=3, callbacks=callbacks)
        assert int(state.step) == 3
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_handler_is_given_back_after_an_error(made):
    before = signal.getsignal(signal.SIGINT)

    def fail(step, state, metrics):
        raise RuntimeError("in a callback")

    with pytest.raises(RuntimeError, match="in a callback"):
        train.fit(made.state(), made.step, made.data, steps=3, callbacks=[fail])
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_ends_as_ctrl_c_does(made, tmp_path, caplog):
    before = signal.getsignal(signal.SIGTERM)
    with train.Checkpoints(tmp_path) as checkpoints:
        terminate = lambda step, *_: step == 1 and signal.raise_signal(signal.SIGTERM)  # noqa: E731
        callbacks = [train.every(100, checkpoints), terminate]
        with pytest.raises(train.Terminated):
            train.fit(made.state(), made.step, made.data, steps=STEPS, callbacks=callbacks, seconds_per_call=1e-9)
    assert checkpoints.steps() == [2]
    assert signal.getsignal(signal.SIGTERM) is before
    assert caplog.messages == ["stopping after this call"]


def test_a_handler_of_ones_own_for_sigterm_is_kept(made):
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        callbacks = [train.every(3, lambda *_: signal.raise_signal(signal.SIGTERM))]
        state, _ = train.fit(made.state(), made.step, made.data, steps=3, callbacks=callbacks)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (int(state.step), came) == (3, [signal.SIGTERM])


def test_no_step_taken_means_nothing_to_save(made, monkeypatch):
    ran = []
    pressed_already = train.interruption.Interruption()
    pressed_already.first = KeyboardInterrupt()
    monkeypatch.setattr(train.loop, "interruption", lambda save: contextlib.nullcontext(pressed_already))
    state, callbacks = made.state(), [train.every(3, lambda *_: ran.append(1), on_interrupt=True)]
    with pytest.raises(KeyboardInterrupt):
        train.fit(state, made.step, made.data, steps=STEPS, callbacks=callbacks)
    assert ran == []


def test_everything_at_once_resumes_to_the_same_bits(made, tmp_path):
    kept = {"ema": 0.9, "guard": train.Guard(spikes=3.0), "precision": train.Precision("float16", growth_every=3)}
    step = train.make_step(made.model, made.optimizer, made.loss, accumulate=3, **kept)

    def begun():
        return train.create(made.model, made.optimizer, made.batch, key=jax.random.key(0), **kept)

    whole, _ = train.fit(begun(), step, made.data, steps=STEPS)
    assert float(whole.loss_scale.factor) != 2**15  # the scale has moved
    with train.Checkpoints(tmp_path) as checkpoints:
        train.fit(begun(), step, made.data, steps=7, callbacks=[train.every(7, checkpoints)])
    state, _ = train.Checkpoints(tmp_path).restore(begun())
    state, _ = train.fit(state, step, made.data, steps=STEPS)
    assert made.digest(state) == made.digest(whole)
