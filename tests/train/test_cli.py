import dataclasses
from typing import Literal

import pytest

from jaxnets import train
from jaxnets.train import cli


@pytest.fixture
def ended():
    """Runs a command that raises: (exit code)."""

    def call(error):
        @dataclasses.dataclass(frozen=True)
        class Command:
            debug: bool = False

            def __call__(self):
                raise error

        return cli.main({"go": Command, "other": Command}, ["go"])

    return call


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("go on with: it"), 130, "go on with: it"),
        (train.Terminated("go on with: it"), 143, "go on with: it"),
        (ValueError("two\nlines"), 2, "error: two lines"),
    ],
)
def test_how_a_command_ends(ended, capsys, error, code, line):
    assert ended(error) == code
    assert capsys.readouterr() == ("", line + "\n")


def test_choices_are_told_in_order(capsys):
    @dataclasses.dataclass(frozen=True)
    class Command:
        model: Literal["b", "a"] | None = None

    assert cli.main({"go": Command, "other": Command}, ["go", "--model", "c"]) == 2
    assert "Expected one of a, b." in capsys.readouterr().err


def test_results_as_json_and_in_words(capsys):
    result = {"test": {"loss": float("nan"), "accuracy": 0.5}, "steps": 3}
    cli.tell(result, True, "run: here")
    assert capsys.readouterr().out == '{"test": {"loss": null, "accuracy": 0.5}, "steps": 3}\n'
    cli.tell(result, False, "run: here")
    assert capsys.readouterr().out == "test: loss nan  accuracy 0.5000\nrun: here\n"


@dataclasses.dataclass(frozen=True)
class Train(cli.Options):
    hidden: int | None = None
    steps: int | None = None
    schedule_steps: int | None = None
    checkpoint_every: int | None = None
    run: str | None = None
    resume: bool = False


COUNTS = ("hidden", "steps", "checkpoint_every")


def test_an_option_given_goes_before_that_of_the_run_and_that_before_a_default():
    defaults, old = {"hidden": 3, "steps": 4}, {"steps": 40, "schedule_steps": 20, "data_sha256": "0"}
    assert cli.resolved(Train(), defaults, {}, counts=COUNTS) == Train(3, 4, 4, 1)
    assert cli.resolved(Train(resume=True), defaults, old, counts=COUNTS) == Train(3, 40, 20, 4, resume=True)
    assert cli.resolved(Train(steps=60, checkpoint_every=9), defaults, old, counts=COUNTS) == Train(3, 60, 20, 9)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=r"^train: --hidden, --steps and --checkpoint-every want to be at least 1$"):
        cli.resolved(Train(**{name: 0}), {"hidden": 3, "steps": 4}, {}, counts=COUNTS)


def test_what_config_json_holds_of_the_options():
    wanted = {"hidden": 3, "steps": 4, "schedule_steps": 5, "checkpoint_every": None}
    assert cli.saved_options(Train(3, 4, 5, run="here", json=True)) == wanted


def test_answers_as_json_and_in_lines(capsys):
    answers = {"a": 0.25, "b": float("inf")}
    cli.tell_each(answers, True)
    cli.tell_each(answers, False)
    cli.tell_each(answers, False, lambda name, answer: f"{name}: {answer:.1%}")
    assert capsys.readouterr().out == '{"a": 0.25, "b": null}\na 0.25\nb inf\na: 25.0%\nb: inf%\n'
