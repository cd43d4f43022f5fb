"""Augmentation: exact properties of each, and what all have in common."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import data
from tests.reference.tolerance import tolerance

B, H, W, C, CLASSES = 64, 6, 7, 3, 4
PIXELS = np.random.default_rng(0).integers(1, 256, (B, H, W, C), dtype=np.uint8)
LABELS = np.arange(B, dtype=np.int32) % CLASSES

AUGMENTS = {
    "normalise": data.normalise((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)),
    "crop": data.random_crop(2),
    "flip": data.random_flip(),
    "affine": data.random_affine(degrees=10.0, translate_pixels=1.5, scale=(0.8, 1.25)),
    "cutout": data.cutout(3),
    "mixup": data.mixup(0.4, CLASSES),
    "cutmix": data.cutmix(1.0, CLASSES),
    "chain": data.chain(data.random_crop(1), data.random_flip(), data.normalise(0.5, 0.5)),
}
COMPILED = {name: jax.jit(augment) for name, augment in AUGMENTS.items()}
KEPT = [name for name in AUGMENTS if name not in ("normalise", "chain")]


@pytest.fixture
def batch():
    return {"x": jnp.asarray(PIXELS), "y": jnp.asarray(LABELS), "id": jnp.arange(B)}


@pytest.fixture
def key():
    return jax.random.key(3)


def floats(array):
    return np.asarray(array, np.float32)


@pytest.mark.parametrize("name", AUGMENTS)
def test_what_all_have_in_common(name, batch, key):
    got, again, plain = COMPILED[name](key, batch), COMPILED[name](key, batch), AUGMENTS[name](key, batch)
    assert got["x"].shape == (B, H, W, C)
    np.testing.assert_array_equal(got["id"], batch["id"])
    if got["y"].ndim == 1:
        np.testing.assert_array_equal(got["y"], LABELS)
    for part in got:
        np.testing.assert_array_equal(got[part], again[part])
        assert got[part].dtype == plain[part].dtype
        np.testing.assert_allclose(floats(got[part]), floats(plain[part]), **tolerance("float32"))


@pytest.mark.parametrize("name", [name for name in AUGMENTS if name != "normalise"])
def test_another_key_and_another_image_draw_anew(name, batch, key):
    augment = COMPILED[name]
    same = {**batch, "x": jnp.broadcast_to(batch["x"][:1], batch["x"].shape), "y": jnp.zeros(B, int)}
    first, second = augment(key, batch), augment(jax.random.key(4), batch)
    assert (first["x"] != second["x"]).any()
    if name not in ("mixup", "cutmix"):
        drawn = np.asarray(augment(key, same)["x"])
        assert len({image.tobytes() for image in drawn}) > 1


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
def test_types_are_kept(name, dtype, batch, key):
    shapes = jax.eval_shape(AUGMENTS[name], key, {**batch, "x": batch["x"].astype(dtype)})
    assert shapes["x"].dtype == dtype


@pytest.mark.parametrize("name", KEPT)
def test_vmap_equals_the_loop(name, batch, key):
    keys = jax.random.split(key, 2)
    got = jax.jit(jax.vmap(AUGMENTS[name], (0, None)))(keys, batch)
    for i in range(2):
        want = COMPILED[name](keys[i], batch)
        for part in got:
            np.testing.assert_allclose(floats(got[part][i]), floats(want[part]), **tolerance("float32"))


def test_chain_gives_each_a_key_of_its_own(batch, key):
    def noise(key, batch):
        return {**batch, "drawn": (*batch.get("drawn", ()), jax.random.bits(key).item())}

    assert len(set(data.chain(noise, noise, noise)(key, batch)["drawn"])) == 3
    assert data.chain()(key, batch) == batch


def test_normalise(batch, key):
    mean, std = data.channel_statistics(PIXELS)
    np.testing.assert_allclose(mean, PIXELS.mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, PIXELS.std((0, 1, 2)) / 255, rtol=1e-12)
    got = data.normalise(mean, std)(key, batch)["x"]
    assert got.dtype == np.float32
    want = (PIXELS / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(got, want, **tolerance("float32"))
    floats = data.normalise(mean, std)(key, {"x": jnp.asarray(PIXELS / 255, jnp.float32)})["x"]
    np.testing.assert_allclose(floats, want, **tolerance("float32"))


def test_statistics_of_many_and_of_float_images():
    x = np.random.default_rng(1).normal(2, 3, (2500, 2, 2, 2))
    mean, std = data.channel_statistics(x)
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, x.std((0, 1, 2)), rtol=1e-12)


@pytest.mark.parametrize(("fill", "mode"), [("zeros", "constant"), ("reflect", "reflect"), ("edge", "edge")])
def test_crop_equals_a_slice_of_the_padded_image(fill, mode, batch, key):
    got = data.random_crop(2, fill=fill)(key, batch)["x"]
    padded = np.pad(PIXELS, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=mode)
    offsets = jax.random.randint(key, (B, 2), 0, 5)
    for image, whole, (i, j) in zip(got, padded, offsets.tolist(), strict=True):
        np.testing.assert_array_equal(image, whole[i : i + H, j : j + W])
    assert set(map(tuple, offsets.tolist())) <= set(itertools.product(range(5), repeat=2))
    assert set(offsets.ravel().tolist()) == set(range(5))


def test_no_padding_is_no_crop(batch, key):
    np.testing.assert_array_equal(data.random_crop(0)(key, batch)["x"], PIXELS)


def test_flip(batch, key):
    flip = data.random_flip(1.0)
    np.testing.assert_array_equal(flip(key, batch)["x"], PIXELS[:, :, ::-1])
    np.testing.assert_array_equal(flip(key, flip(key, batch))["x"], PIXELS)
    np.testing.assert_array_equal(data.random_flip(0.0)(key, batch)["x"], PIXELS)
    half = data.random_flip()
    flipped = (np.asarray(half(key, batch)["x"]) == PIXELS[:, :, ::-1]).all((1, 2, 3))
    assert 0.25 * B < flipped.sum() < 0.75 * B
    np.testing.assert_array_equal(half(key, half(key, batch))["x"], PIXELS)


def affine_reference(image, angle, factor, shift):
    """Bilinear sampling, a pixel at a time."""
    h, w = image.shape[:2]
    want = np.zeros(image.shape)
    for row, column in itertools.product(range(h), range(w)):
        r, q = row - (h - 1) / 2 - shift[0], column - (w - 1) / 2 - shift[1]
        y = (math.cos(angle) * r + math.sin(angle) * q) / factor + (h - 1) / 2
        x = (-math.sin(angle) * r + math.cos(angle) * q) / factor + (w - 1) / 2
        for i, j in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
            if 0 <= i < h and 0 <= j < w:
                want[row, column] += image[i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return want


def test_affine_matches_the_reference():
    random = np.random.default_rng(2)
    images = random.uniform(0, 1, (35, H, W, C)).astype(np.float32)
    angle = random.uniform(-4, 4, 35).astype(np.float32)
    factor = random.uniform(0.3, 3, 35).astype(np.float32)
    shift = random.uniform(-9, 9, (35, 2)).astype(np.float32)
    got = data.affine(jnp.asarray(images), jnp.asarray(angle), jnp.asarray(factor), jnp.asarray(shift))
    want = np.stack([affine_reference(*case) for case in zip(images, angle, factor, shift, strict=True)])
    np.testing.assert_allclose(got, want, **tolerance("float32"))


def test_affine_turns_anticlockwise_enlarges_and_shifts():
    x = jnp.asarray(PIXELS[:, :, :6])
    none, zero = jnp.ones(B), jnp.zeros(B)
    still = jnp.zeros((B, 2))
    np.testing.assert_array_equal(data.affine(x, zero, none, still), x)
    np.testing.assert_array_equal(data.affine(x, zero + math.pi / 2, none, still), np.rot90(x, axes=(1, 2)))
    shifted = np.asarray(data.affine(x, zero, none, still + jnp.array([1.0, -2.0])))
    np.testing.assert_array_equal(shifted[:, 1:, :-2], x[:, :-1, 2:])
    assert not shifted[:, 0].any()
    assert not shifted[:, :, -2:].any()
    dot = jnp.zeros((1, 5, 5, 1)).at[0, 2, 3].set(1)
    enlarged = data.affine(dot, zero[:1], none[:1] * 2, still[:1])
    assert np.unravel_index(int(jnp.argmax(enlarged)), (5, 5)) == (2, 4)


def test_no_angle_is_the_identity(batch, key):
    np.testing.assert_array_equal(data.random_rotation(0.0)(key, batch)["x"], PIXELS)


def test_affine_stays_in_its_ranges(key):
    """A bright centre on black: how far it moves is bounded by the shift, and a rotation leaves it where it is."""
    dot = {"x": jnp.zeros((B, 9, 9, 1)).at[:, 4, 4].set(1)}
    np.testing.assert_allclose(data.random_rotation(180.0)(key, dot)["x"][:, 4, 4], 1, **tolerance("float32"))
    moved = data.random_affine(translate_pixels=2.0)(key, dot)["x"][..., 0]
    np.testing.assert_allclose(moved.sum((1, 2)), 1, **tolerance("float32"))
    rows = moved.sum(2) @ jnp.arange(9) - 4
    assert 1.5 < abs(rows).max() <= 2


def test_cutout(batch, key):
    black = np.asarray(data.cutout(3)(key, batch)["x"]) == 0
    assert (black == black[..., :1]).all()
    for mask in black[..., 0]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(columns)
        assert 2 <= len(rows) <= 3
        assert 2 <= len(columns) <= 3
    assert (black.any(0)).all()


def test_mixup(batch, key):
    got = data.mixup(0.4, CLASSES)(key, batch)
    assert got["y"].dtype == np.float32
    np.testing.assert_allclose(got["y"].sum(1), 1, **tolerance("float32"))
    share_key, partner_key = jax.random.split(key)
    gammas = np.exp(np.asarray(jax.random.loggamma(share_key, 0.4, (2, B)), np.float64))
    share = (gammas[0] / gammas.sum(0))[:, None, None, None]
    partner = np.asarray(jax.random.permutation(partner_key, B))
    want = share * PIXELS + (1 - share) * PIXELS[partner]
    assert np.abs(np.asarray(got["x"], np.float64) - want).max() <= 0.501
    labels = np.eye(CLASSES)[LABELS]
    np.testing.assert_allclose(
        got["y"], share[:, :, 0, 0] * labels + (1 - share[:, :, 0, 0]) * labels[partner], **tolerance("float32")
    )


def test_cutmix(batch, key):
    """Each image has its value everywhere, so that the shares can be read from the pixels."""
    x = jnp.broadcast_to(jnp.arange(B, dtype=jnp.uint8)[:, None, None, None], (B, H, W, C))
    got = data.cutmix(1.0, B)(key, {"x": x, "y": jnp.arange(B)})
    pasted = 0
    for i, (image, label) in enumerate(zip(np.asarray(got["x"]), np.asarray(got["y"]), strict=True)):
        np.testing.assert_allclose(label, np.bincount(image.ravel(), minlength=B) / image.size, **tolerance("float32"))
        mask = image[..., 0] != i
        assert mask.sum() == mask.any(1).sum() * mask.any(0).sum()
        pasted += mask.any()
    assert pasted > B / 2


def test_soft_labels_are_blended_as_they_are(batch, key):
    soft = jax.nn.softmax(jax.random.normal(key, (B, CLASSES)))
    for blend in (data.mixup(1.0, CLASSES), data.cutmix(1.0, CLASSES)):
        hard = blend(key, batch)["y"]
        np.testing.assert_array_equal(blend(key, {**batch, "y": jax.nn.one_hot(LABELS, CLASSES)})["y"], hard)
        np.testing.assert_allclose(blend(key, {**batch, "y": soft})["y"].sum(1), 1, **tolerance("float32"))
        with pytest.raises(ValueError, match=r"wants integers \[B\] or soft labels \[B, 4\]"):
            blend(key, {**batch, "y": soft[:, :3]})


def test_bad_arguments(batch, key):
    with pytest.raises(ValueError, match="is a channel constant"):
        data.normalise(0.5, (0.2, 0.0, 0.1))
    with pytest.raises(ValueError, match="mean has 2 values but x has 3 channels"):
        data.normalise((0.5, 0.5), 0.5)(key, batch)
    with pytest.raises(TypeError, match="x is int32 but wants uint8 or floats"):
        data.normalise(0.5, 0.5)(key, {"x": batch["x"].astype(int)})
    with pytest.raises(ValueError, match="padding is -1"):
        data.random_crop(-1)
    with pytest.raises(ValueError, match="0 < smallest <= largest"):
        data.random_affine(scale=(1.2, 0.8))
    with pytest.raises(ValueError, match="cutmix: alpha is 0"):
        data.cutmix(0.0, CLASSES)
    with pytest.raises(ValueError, match="mixup: alpha is -1"):
        data.mixup(-1.0, CLASSES)
