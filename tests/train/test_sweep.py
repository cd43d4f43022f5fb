"""Members of a sweep against runs of their own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import train
from jaxnets.typing import Mean

HYPER = {"learning_rate": [0.02, 0.1], "weight_decay": [0.0, 0.1], "smoothing": [0.0, 0.2]}
OPTIONS = {"metrics": {"accuracy": train.accuracy}, "guard": train.Guard(limit=3), "ema": 0.9}


def make_optimizer(hyper):
    scheduled = {"schedule": "cosine", "steps": 20, "weight_decay": hyper["weight_decay"]}
    return train.optimizer("nesterov", hyper["learning_rate"], **scheduled)


def smoothed(outputs, batch):
    targets = optax.smooth_labels(jax.nn.one_hot(batch["y"], 3), batch["hyper"]["smoothing"])
    return Mean(optax.softmax_cross_entropy(outputs, targets).sum(), jnp.float32(len(outputs)))


def test_each_member_is_its_own_run_and_one_that_diverges_disturbs_none(made, tmp_path):
    keys, hyper = train.grid(jax.random.split(jax.random.key(3), 2), {"learning_rate": [0.02, 1e30]})
    hyper |= {"weight_decay": np.array([0.05, 0.1, 0.05, 0.1]), "smoothing": np.array([0.0, 0.2, 0.0, 0.2])}
    states, metrics = train.sweep(
        made.model, make_optimizer, smoothed, made.data, steps=10, keys=keys, hyper=hyper, record_every=4, **OPTIONS
    )
    assert metrics["step"].tolist() == [4, 8, 10]
    assert metrics["loss"].shape == (3, 4)
    assert metrics["nonfinite"][:, :2].sum() == 0 < metrics["nonfinite"][:, 2:].sum()
    assert states.guard.stopped.tolist() == [False, False, True, True]
    own = {name: values[1].item() for name, values in hyper.items()}

    def loss(outputs, batch):
        return smoothed(outputs, {**batch, "hyper": own})

    kept = {name: OPTIONS[name] for name in ("guard", "ema")}
    state = train.create(made.model, make_optimizer(own), made.batch, key=keys[1], **kept)
    step = train.make_step(made.model, make_optimizer(own), loss, **OPTIONS)
    state, _ = train.fit(state, step, made.data, steps=10)
    mine = train.member(states, 1)
    assert jnp.all(mine.key == state.key)
    chex.assert_trees_all_close(mine.replace(key=0), state.replace(key=0), rtol=1e-6, atol=1e-6)

    evaluated = train.evaluate(train.swept(made.eval_step), states, [made.batch])
    alone = train.evaluate(made.eval_step, train.member(states, 1), [made.batch])
    assert evaluated["accuracy"][1] == alone["accuracy"]

    table = train.sweep_table(hyper, metrics).splitlines()
    assert table[0].split()[:3] == ["member", "learning_rate", "weight_decay"]
    assert [row.split()[0] for row in table[1:3]] == ["0", "1"]
    train.plots.sweep(hyper, metrics, tmp_path / "sweep.png", title="made")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.exhaustive
def test_a_sweep_goes_through_checkpoints_and_data_from_the_host(made, tmp_path):
    arguments = (made.model, make_optimizer, smoothed, made.batch)
    options = {"keys": jax.random.split(jax.random.key(0), 2), "hyper": HYPER}
    state, step = train.make_sweep(*arguments, **options)
    whole, _ = train.fit(state, step, made.stream(), steps=5)
    state, _ = train.make_sweep(*arguments, **options)
    with train.Checkpoints(tmp_path) as checkpoints:
        lines = train.JsonLines(tmp_path / "metrics.jsonl")
        train.fit(state, step, made.stream(), steps=3, callbacks=[train.every(3, checkpoints), train.every(1, lines)])
    state, _ = train.Checkpoints(tmp_path).restore(train.make_sweep(*arguments, **options)[0])
    state, _ = train.fit(state, step, made.stream(), steps=5)
    assert made.digest(state) == made.digest(whole)
    assert np.shape(train.read_json_lines(tmp_path / "metrics.jsonl")[0]["loss"]) == (2,)


def test_wrong_sweeps_are_named(made):
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(
        ValueError, match=r"hyper wants a value for each of 2 keys, got shapes {'learning_rate': \(3,\)}"
    ):
        train.make_sweep(
            made.model, make_optimizer, smoothed, made.batch, keys=keys, hyper={"learning_rate": [0.1, 0.2, 0.3]}
        )
    with pytest.raises(ValueError, match="sweep: data has no batch"):
        train.sweep(made.model, make_optimizer, smoothed, [], steps=1, keys=keys)
