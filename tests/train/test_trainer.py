"""A run as a trainer makes it: its files and result, going on, and what is refused before anything is written."""

import json
import signal
from pathlib import Path

import jax
import pytest
from matplotlib.figure import Figure

from jaxnets import train
from jaxnets.train import trainer
from jaxnets.train.interruption import terminable

CONFIG = {"rate": 0.01, "steps": 6, "checkpoint_every": 4}


@pytest.fixture
def trained(made, tmp_path, monkeypatch):
    """Trains in `here`: (run, state, result)."""
    monkeypatch.chdir(tmp_path)

    def measured(state, arrays):
        return train.evaluate(made.eval_step, state, [arrays])

    def call(resumed=False, step=made.step, evaluate=measured, **changes):
        return trainer.train(
            Path("here"),
            {**CONFIG, **changes},
            step,
            made.state(),
            made.data,
            evaluate=evaluate,
            validation=made.batch,
            test=made.arrays,
            resumed=resumed,
            clock=train.CompileClock(),
        )

    return call


def lines():
    return [json.loads(line) for line in Path("here/metrics.jsonl").read_text().splitlines()]


def test_a_run_is_kept_whole(made, trained):
    run, state, result = trained()
    assert {path.name for path in Path("here").iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "weights.safetensors",
    }
    assert train.read_config("here") == {**CONFIG, "notes": {"scan": True}}
    assert [record.get("step") for record in lines()] == [4, 6, None]
    assert lines()[-1] == result
    assert set(result) == {"test", "validation", "parameters", "steps", "seconds", "compile_seconds"}
    assert result["validation"] == {
        name.removeprefix("validation_"): value for name, value in lines()[1].items() if name.startswith("validation_")
    }
    assert result["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(state.params))
    loaded = train.load_weights(trainer.weights_of(Path("here")), state.variables)
    assert made.digest(loaded) == made.digest(state.variables)
    trainer.draw_curves(run, "made")
    assert Path("here/curves.png").read_bytes().startswith(b"\x89PNG")


def test_it_goes_on_as_if_it_had_not_stopped(made, trained, capsys):
    _, state, _ = trained(steps=9)
    whole = made.digest(state)
    for path in Path("here/checkpoints").iterdir():
        assert path.name in ("8", "9")
    Path("here").rename("whole")
    trained()
    capsys.readouterr()
    _, state, result = trained(resumed=True, steps=9)
    assert "going on from step 6 of here" in capsys.readouterr().err
    assert (made.digest(state), result["steps"]) == (whole, 9)
    assert [record.get("step") for record in lines()] == [4, 6, 8, 9, None]
    with pytest.raises(ValueError, match="here is at step 9 already: --steps 8 wants to be that or more"):
        trained(resumed=True, steps=8)
    with pytest.raises(ValueError, match=r"rate was 0.01, is now 0.5"):
        trained(resumed=True, steps=10, rate=0.5)


def test_what_does_not_fit_leaves_nothing(trained):
    def step(state, batch):
        raise ValueError("the batch is of another kind")

    with pytest.raises(ValueError, match="of another kind"):
        trained(step=step)
    assert not Path("here").exists()


@pytest.mark.parametrize("when", ["testing", "drawing"])
def test_an_interruption_after_training_says_how_to_go_on(trained, when):
    measured = []

    def evaluate(*arguments):
        measured.append(arguments)
        if len(measured) == 3:  # after the two checkpoints
            signal.raise_signal(signal.SIGTERM)
        return {"loss": 0.0}

    def savefig(figure, path, **options):
        Path(path).write_text("half")
        signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patched, terminable():
        if when == "testing":
            patched.setattr(train, "evaluate", evaluate)
        patched.setattr(Figure, "savefig", savefig)
        with pytest.raises(train.Terminated, match=r"^interrupted; go on with: train --resume --run here$"):
            trainer.draw_curves(trained()[0], "made")
    names = {path.name for path in Path("here").iterdir()}
    assert names == {"config.json", "metrics.jsonl", "checkpoints", "weights.safetensors"}
    _, _, result = trained(resumed=True)
    assert lines()[-1] == result


LOSSES = {2: 0.9, 4: 0.5, 6: 0.7, 8: 0.6, 10: 0.5, 12: 0.4}
BEST = {"keep": "best", "checkpoint_every": 2, "steps": 12}


def by_step(state, arrays):
    """A loss that is the best at step 4, and again at 12."""
    return {"loss": LOSSES[int(state.step)]}


def interrupted_at(step):
    """The same, and Ctrl-C after some steps."""

    def evaluate(state, arrays):
        if int(state.step) == step:
            raise KeyboardInterrupt
        return by_step(state, arrays)

    return evaluate


def weights_at(trained, made, steps):
    """The variables after so many steps of a run that keeps the last."""
    _, state, result = trained(steps=steps, evaluate=by_step, checkpoint_every=2)
    assert "best_step" not in result
    assert not Path("here/best.safetensors").exists()
    Path("here").rename(f"last-{steps}")
    return made.digest(state.variables)


def test_the_best_weights_are_kept_where_asked_for(made, trained):
    at_4 = weights_at(trained, made, 4)
    run, state, result = trained(evaluate=by_step, **{**BEST, "steps": 10})
    assert (result["best_step"], result["steps"]) == (4, 10)  # the earlier of equals
    assert made.digest(state.variables) == at_4
    assert made.digest(train.load_weights(run / "weights.safetensors", state.variables)) == at_4
    _, state, result = trained(resumed=True, evaluate=by_step, **BEST)  # from the last step on, not from the best
    assert (result["best_step"], result["steps"]) == (12, 12)
    last, _ = train.Checkpoints("here/checkpoints").restore(made.state())
    assert made.digest(state.variables) == made.digest(last.variables)


@pytest.mark.parametrize("step", [4, 6, 8])
def test_patience_ends_a_run_that_was_interrupted_where_it_ends_the_whole(made, trained, capsys, step):
    _, state, result = trained(evaluate=by_step, patience=4, **BEST)
    assert (result["best_step"], result["steps"]) == (4, 8)
    assert "ended at step 8: loss was the best at step 4" in capsys.readouterr().err
    whole = made.digest(state)
    Path("here").rename("whole")
    with pytest.raises(KeyboardInterrupt, match="go on with: train --resume --run here"):
        trained(evaluate=interrupted_at(step), patience=4, **BEST)
    _, state, result = trained(resumed=True, evaluate=by_step, patience=4, **BEST)
    assert (result["best_step"], result["steps"], made.digest(state)) == (4, 8, whole)
    # It has ended, and says the same again; with more patience it goes on.
    _, state, result = trained(resumed=True, evaluate=by_step, patience=4, **BEST)
    assert (result["best_step"], result["steps"], made.digest(state)) == (4, 8, whole)
    _, _, result = trained(resumed=True, evaluate=by_step, patience=8, **BEST)
    assert (result["best_step"], result["steps"]) == (12, 12)


def test_patience_alone_keeps_the_last(made, trained):
    at_8 = weights_at(trained, made, 8)
    _, state, result = trained(evaluate=by_step, patience=4, **{**BEST, "keep": "last"})
    assert result["steps"] == 8
    assert "best_step" not in result
    assert made.digest(state.variables) == at_8


def test_a_best_that_fits_nothing_is_refused_before_anything_is_written(made, trained):
    with pytest.raises(ValueError, match="patience must be positive, got 0"):
        trained(patience=0, **BEST)
    assert not Path("here").exists()
    Path("here").mkdir()
    Path("here/best.safetensors").touch()
    with pytest.raises(ValueError, match=r"best\.safetensors is of a run that is not there: remove it, or name"):
        trained(**BEST)
    assert [path.name for path in Path("here").iterdir()] == ["best.safetensors"]
    Path("here/best.safetensors").unlink()
    trained(evaluate=by_step, **{**BEST, "steps": 4})
    with pytest.raises(ValueError, match='keep was "best", is now "last"'):
        trained(resumed=True, **{**BEST, "keep": "last"})
    Path("here/best.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"best\.safetensors is not a whole safetensors file .*: put a good copy"):
        trained(resumed=True, **BEST)


def test_without_a_number_to_go_by_the_last_are_kept(made, trained):
    _, _, result = trained(evaluate=lambda state, arrays: {"loss": float("nan")}, **{**BEST, "steps": 4})
    assert result["steps"] == 4
    assert "best_step" not in result


def test_earlier_runs_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    find = lambda folder=None, name=None, resume=True: trainer.earlier(  # noqa: E731
        folder, name, resume=resume, read=train.read_config
    )
    assert find() == find(resume=False) == (None, {})
    assert find(Path("new")) == find(Path("new"), resume=False) == (Path("new"), {})
    train.Run("runs/digits", CONFIG)
    assert find(name="mnist") == (None, {})
    assert find() == find(name="digits") == (Path("runs/digits"), {**CONFIG, "notes": {}})
    with pytest.raises(ValueError, match="digits holds a run already: add --resume to go on with it, or name another"):
        find(Path("runs/digits"), resume=False)
    with pytest.raises(ValueError, match="digits is unfinished: go on with train --resume --run runs/digits"):
        trainer.weights_of(Path("runs/digits"))


def test_a_run_without_records_has_no_curves(tmp_path):
    trainer.draw_curves(train.Run(tmp_path, CONFIG), "none")
    assert not (tmp_path / "curves.png").exists()
