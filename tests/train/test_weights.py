import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import train


@pytest.fixture
def variables():
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    params = {"Dense_0": {"kernel": rows.T, "bias": jnp.ones(2, jnp.bfloat16)}}
    return {"params": params, "batch_stats": {"mean": jnp.float32(3), "none": jnp.zeros((0, 4))}}


def test_weights_come_back_as_they_were(variables, tmp_path):
    train.save_weights(tmp_path / "weights.safetensors", variables, metadata={"model": "made"})
    read = train.load_weights(tmp_path / "weights.safetensors", jax.eval_shape(lambda: variables))
    chex.assert_trees_all_equal_shapes_and_dtypes(read, variables)
    chex.assert_trees_all_equal(read, variables)
    chex.assert_trees_all_equal(train.load_weights(tmp_path / "weights.safetensors"), variables)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_other_libraries_read_rows_that_were_not_contiguous(variables, tmp_path):
    from safetensors import safe_open

    train.save_weights(tmp_path / "weights.safetensors", variables, metadata={"model": "made"})
    with safe_open(tmp_path / "weights.safetensors", framework="numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("params/Dense_0/kernel"), [[0, 3], [1, 4], [2, 5]])
        assert file.metadata() == {"model": "made"}


def test_a_models_weights(made, tmp_path):
    state = made.state()
    train.save_weights(tmp_path / "w", state.variables)
    chex.assert_trees_all_equal(train.load_weights(tmp_path / "w", state.variables), state.variables)


@pytest.mark.parametrize(
    ("path", "leaf", "message"),
    [
        ("kernel", jnp.zeros((3, 5)), r"holds params/Dense_0/kernel float32\[3, 2\], wanted float32\[3, 5\]"),
        ("kernel", jnp.zeros((3, 2), jnp.int8), r"holds params/Dense_0/kernel float32\[3, 2\], wanted int8\[3, 2\]"),
        ("scale", jnp.zeros(3), r"lacks params/Dense_0/scale, wanted float32\[3\]"),
    ],
)
def test_a_difference_is_named(variables, tmp_path, path, leaf, message):
    train.save_weights(tmp_path / "w", variables)
    variables["params"]["Dense_0"][path] = leaf
    with pytest.raises(ValueError, match=message):
        train.load_weights(tmp_path / "w", variables)


@pytest.mark.parametrize("size", [0, 5, 60, -3])
def test_a_file_cut_short_is_named(variables, tmp_path, size):
    train.save_weights(tmp_path / "w", variables)
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:size])
    with pytest.raises(ValueError, match=r"load_weights: .*w is not a whole safetensors file"):
        train.load_weights(tmp_path / "w")


def test_a_missing_file_and_an_unwritable_folder(variables, tmp_path):
    with pytest.raises(FileNotFoundError):
        train.load_weights(tmp_path / "w")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        train.save_weights(tmp_path / "file" / "w", variables)


def test_paths_that_fall_together_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two leaves share a path"):
        train.save_weights(tmp_path / "w", {"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}})
