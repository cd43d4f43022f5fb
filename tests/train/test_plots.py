import builtins

import numpy as np
import pytest
from PIL import Image

from jaxnets import train

RNG = np.random.default_rng(0)
CLASSES = ("cat", "dog", "a long name")


def opened(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        image.load()
        assert np.asarray(image).std() > 1
        return image.size


def test_curves(tmp_path):
    log = train.JsonLines(tmp_path / "metrics.jsonl")
    for step in range(0, 50, 10):
        log(step, None, {"loss": 1 / (step + 1), "accuracy": step / 50, "test_accuracy": step / 60})
    log(50, None, {"loss": float("nan"), "test": {"accuracy": 0.5}, "test_loss": 0.3})
    train.plots.curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png", title="made")
    width, height = opened(tmp_path / "curves.png")
    assert width > 2 * height
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]


def test_curves_need_a_number():
    with pytest.raises(ValueError, match="no record holds a step and a metric"):
        train.plots.curves([{"loss": 1.0}, {"step": 1}], "unwritten.png")


@pytest.mark.parametrize("classes", [2, 10, 31])
def test_confusion(tmp_path, classes):
    matrix = RNG.integers(0, 20, (classes, classes)) + 90 * np.eye(classes, dtype=int)
    matrix[1] = 0
    train.plots.confusion(matrix, [str(i) for i in range(classes)], tmp_path / "confusion.png")
    opened(tmp_path / "confusion.png")
    with pytest.raises(ValueError, match=f"confusion: 1 names for a matrix of {classes} classes"):
        train.plots.confusion(matrix, ["one"], tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.float32)])
def test_wrong(tmp_path, channels, dtype):
    images = RNG.integers(0, 255, (20, 8, 8, channels)).astype(dtype)
    probabilities = RNG.dirichlet(np.ones(3), 20)
    labels = RNG.integers(0, 3, 20)
    train.plots.wrong(images, labels, probabilities, CLASSES, tmp_path / "wrong.png")
    opened(tmp_path / "wrong.png")
    train.plots.wrong(images, probabilities.argmax(1), probabilities, CLASSES, tmp_path / "none.png")
    opened(tmp_path / "none.png")


def test_a_failed_drawing_leaves_the_old_picture(tmp_path, monkeypatch):
    (tmp_path / "confusion.png").write_text("old")

    def fail(self, path, **options):
        path.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        train.plots.confusion(np.eye(2, dtype=int), "ab", tmp_path / "confusion.png")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'jaxnets\[examples\]'"):
        train.plots.confusion(np.eye(2, dtype=int), "ab", "unwritten.png")


def test_gradient_flow(tmp_path):
    reports = {
        "rnn": {"norms": {"state": [1.0, 0.1, 0.0]}, "memory_length": 2, "saturation": {}},
        "lstm": {
            "norms": {"state": [1.0, 0.9, 0.8]},
            "memory_length": 3,
            "saturation": {"input": {"below": 0.5, "above": 0.1}},
        },
        "still": {"norms": {"state": [0.0, 0.0]}, "memory_length": 0, "saturation": {}},
    }
    train.plots.gradient_flow(reports, tmp_path / "flow.png", title="made")
    width, height = opened(tmp_path / "flow.png")
    assert width > 2 * height
    train.plots.gradient_flow({"still": reports["still"]}, tmp_path / "still.png")
    opened(tmp_path / "still.png")
    with pytest.raises(ValueError, match="no report to draw"):
        train.plots.gradient_flow({}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    ("columns", "times"),
    [
        (3, np.arange("2020", "2050", dtype="datetime64[Y]")),
        pytest.param(1, np.arange(30), marks=pytest.mark.exhaustive),
    ],
)
def test_forecast(tmp_path, columns, times):
    values = RNG.normal(size=(30, columns)).cumsum(0)
    forecast = values[-10:] + 0.3
    names = [f"column {i}" for i in range(columns)]
    bounds = (times, values, forecast, forecast - 1, forecast + 1)
    train.plots.forecast(*bounds, names, tmp_path / "a.png", title="made")
    width, height = opened(tmp_path / "a.png")
    assert width > height
    with pytest.raises(ValueError, match=r"forecast: 10 steps and 0 names do not fit values of shape"):
        train.plots.forecast(*bounds, [], tmp_path / "unwritten.png")
