"""Batches by other libraries: the same bits as by NumPy, and a run that goes on where it stopped."""

import jax
import numpy as np
import pytest

from jaxnets import data, train


@pytest.fixture
def rows(made):
    """The examples one by one."""
    return [{name: array[i] for name, array in made.arrays.items()} for i in range(len(made.arrays["y"]))]


@pytest.fixture
def grain():
    return pytest.importorskip("grain", reason="grain is not installed: pip install jaxnets[grain]")


@pytest.fixture
def dataset(grain, rows):
    """Batches for ever, in another order each epoch."""
    return grain.MapDataset.source(rows).seed(0).shuffle().batch(8, drop_remainder=True).repeat()


def trained(made, batches, steps, state=None, callbacks=()):
    return train.fit(made.state() if state is None else state, made.step, batches, steps=steps, callbacks=callbacks)[0]


def test_grain_datasets_are_iterables_of_batches(made, dataset):
    plain = [jax.tree.map(np.array, dataset[i]) for i in range(7)]
    assert len({batch["x"].tobytes() for batch in plain}) == 7
    want = made.digest(trained(made, plain, 7))
    for batches in (dataset, dataset.to_iter_dataset(), iter(dataset), data.ByStep(dataset)):
        assert made.digest(trained(made, batches, 7)) == want
    assert train.evaluate(made.eval_step, made.state(), plain[:2]) == train.evaluate(
        made.eval_step, made.state(), [dataset[0], dataset[1]]
    )


def test_a_grain_dataset_goes_on_by_its_steps(made, dataset):
    want = made.digest(trained(made, data.ByStep(dataset), 7))
    state = trained(made, data.ByStep(dataset), 4)
    assert made.digest(trained(made, data.ByStep(dataset), 7, state)) == want


def test_the_position_of_a_grain_iterator_goes_with_the_checkpoints(made, dataset, tmp_path):
    batches = iter(dataset.to_iter_dataset())
    want = made.digest(trained(made, batches, 7))

    batches = iter(dataset.to_iter_dataset())
    with train.Checkpoints(tmp_path, extra=lambda: {"data": batches.get_state()}) as checkpoints:
        trained(made, batches, 5, callbacks=[train.every(3, checkpoints)])  # two steps more than are saved

    batches = iter(dataset.to_iter_dataset())
    state, extra = train.Checkpoints(tmp_path).restore(made.state())
    batches.set_state(extra["data"])
    assert int(state.step) == 3
    assert made.digest(trained(made, batches, 7, state)) == want


@pytest.mark.exhaustive  # PyTorch takes seconds to import
def test_a_torch_data_loader_is_an_iterable_of_batches(made, rows):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    loader = torch.utils.data.DataLoader(rows, batch_size=8, drop_last=True)
    plain = [{name: array[i : i + 8] for name, array in made.arrays.items()} for i in range(0, 40, 8)]
    assert made.digest(trained(made, loader, 7)) == made.digest(trained(made, plain, 7))
    assert train.evaluate(made.eval_step, made.state(), loader) == train.evaluate(made.eval_step, made.state(), plain)
    pairs = torch.utils.data.DataLoader([(row["x"], row["y"]) for row in rows], batch_size=8)
    with pytest.raises(TypeError, match=r'fit: a batch must be a mapping, such as {"x": ..., "y": ...}, got list'):
        trained(made, pairs, 1)


def test_what_is_kept_beside_is_asked_for_unless_it_is_told(made, tmp_path):
    with train.Checkpoints(tmp_path, extra=lambda: {"asked": True}) as checkpoints:
        checkpoints.save(made.state())
        checkpoints.save(made.state().replace(step=jax.numpy.int32(1)), {"told": True})
    assert checkpoints.restore(made.state())[1] == {"told": True}
    (tmp_path / "1").rename(tmp_path / "elsewhere")
    assert checkpoints.restore(made.state())[1] == {"asked": True}
