"""Plain honest layers pass every law, those that cannot do something too."""

import jax
import jax.numpy as jnp
import pytest

from jaxnets import testing
from tests.testing import honest

LAYERS = {
    "tokens": (honest.Tokens(), ((3, 5), "int32"), {"vocabulary": 7}),
    "pairs": (honest.Pairs(), ((3, 8, 3), "float32"), {"block": 2}),
    "frames": (honest.Frames(), ((2, 5, 2, 3), "float32"), {"starts": False}),
    "whole": (honest.Whole(), ((3, 4, 2), "float32"), {"starts": False, "carry": False}),
    "complex": (honest.Linear(), ((3, 6, 2), "float32"), {}),
    "reverse": (honest.Linear(reverse=True), ((4, 6, 2), "float32"), {}),
    "one row": (honest.GRU(), ((1, 4, 1), "float32"), {}),
    "attention": (
        honest.Attention(),
        ((3, 5, 3), "float32"),
        {"initial_carry": lambda variables, spec: honest.Attention().empty(*spec.shape[:2], spec.dtype)},
    ),
}


@pytest.fixture
def any_promotion():
    """The laws of a layer that leaves promotion to JAX."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("law", testing.LAWS)
def test_a_scanned_gru_obeys(law):
    getattr(testing, f"check_{law}")(honest.GRU())


@pytest.mark.parametrize(
    ("layer", "spec", "options"),
    [
        pytest.param(*case, id=name, marks=() if name == "attention" else pytest.mark.exhaustive)
        for name, case in LAYERS.items()
    ],
)
def test_other_layers_obey(layer, spec, options, any_promotion):
    testing.check_sequence_layer(layer, jax.ShapeDtypeStruct(*spec), **options)


def test_a_layer_that_takes_what_it_cannot_use_is_caught():
    layer = honest.Whole(refuse=False)
    with pytest.raises(testing.LawError, match="takes carry without an error") as caught:
        testing.check_sequence_layer(layer, laws=["chunks", "packing"], carry=False, starts=False)
    assert caught.value.laws == ("chunks", "packing")


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (None, {"laws": ["chunk"]}, r"laws has \['chunk'\]; the laws are"),
        (((3, 3, 2), "float32"), {}, r"at least four; it is \(3, 3, 2\)"),
        (((3, 9, 2), "float32"), {"block": 2}, "multiple of block=2"),
        (((3,), "float32"), {}, r"spec must be \[B, T, ...\]"),
        (((3, 5), "int32"), {}, "vocabulary=None does not go with x of type int32"),
        (((3, 5), "float32"), {"vocabulary": 5}, "vocabulary=5 does not go with x of type float32"),
    ],
)
def test_what_cannot_be_is_refused(spec, options, message):
    with pytest.raises(ValueError, match=message):
        testing.check_sequence_layer(honest.GRU(), spec and jax.ShapeDtypeStruct(*spec), **options)


def test_a_cache_needs_room(any_promotion):
    with pytest.raises(ValueError, match=r"the carry of Attention grows with T .* pass initial_carry="):
        testing.check_sequence_layer(honest.Attention())


def test_an_error_names_law_place_and_amount():
    class Off(honest.GRU):
        def __call__(self, x, **arguments):
            y, carry = super().__call__(x, **arguments)
            late = jnp.zeros_like(y).at[1:2, 2:3, 2].set(0.5)
            return jnp.where((y != 0) & (x.shape[1] > 4), y + late, y), carry

    with pytest.raises(testing.LawError) as caught:
        testing.check_chunks(Off())
    text = str(caught.value)
    assert "Off breaks chunks\n" in text
    assert "chunks: chunks of [1, 1, 1, 1, 1]: y: is " in text
    assert "at row 1, step 2, [2]: off by " in text
    assert "1e-05 is allowed (and in " in text
    finding = caught.value.findings[0]
    assert (finding.law, finding.leaf) == ("chunks", "y")
