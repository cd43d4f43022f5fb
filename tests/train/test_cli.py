import dataclasses

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


def test_results_as_json_and_in_words(capsys):
    result = {"test": {"loss": float("nan"), "accuracy": 0.5}, "steps": 3}
    cli.tell(result, True, "run: here")
    assert capsys.readouterr().out == '{"test": {"loss": null, "accuracy": 0.5}, "steps": 3}\n'
    cli.tell(result, False, "run: here")
    assert capsys.readouterr().out == "test: loss nan  accuracy 0.5000\nrun: here\n"
