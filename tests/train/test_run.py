import json

import pytest

from jaxnets import train

CONFIG = {"data": "digits", "steps": 100, "rate": 1e-3, "shape": (8, 8)}


def test_a_new_run_writes_its_configuration(tmp_path):
    run = train.Run(tmp_path / "deep" / "run", CONFIG)
    run.note(scan=True)
    assert run / "metrics.jsonl" == tmp_path / "deep" / "run" / "metrics.jsonl"
    assert train.read_config(run.directory) == {**CONFIG, "shape": [8, 8], "notes": {"scan": True}}
    assert [path.name for path in run.directory.iterdir()] == ["config.json"]


def test_the_same_configuration_opens_it_again_with_its_notes(tmp_path):
    train.Run(tmp_path, CONFIG).note(scan=False)
    run = train.Run(tmp_path, {**CONFIG, "steps": 200})
    assert run.notes == {"scan": False}
    assert train.read_config(tmp_path)["steps"] == 200


def test_another_configuration_is_refused_and_left_as_it_is(tmp_path):
    train.Run(tmp_path, CONFIG)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r'data was "digits", is now "mnist"; rate was 0.001, is now 0.1$'):
        train.Run(tmp_path, {**CONFIG, "data": "mnist", "rate": 0.1})
    with pytest.raises(ValueError, match=r"rate was 0.001, is now not there; seed was not there, is now 3$"):
        train.Run(tmp_path, {"data": "digits", "shape": [8, 8], "seed": 3})
    assert (tmp_path / "config.json").read_bytes() == before


def test_what_may_change_is_chosen(tmp_path):
    train.Run(tmp_path, CONFIG)
    train.Run(tmp_path, {**CONFIG, "data": "mnist"}, may_change=("data",))
    with pytest.raises(ValueError, match="steps was 100, is now 200"):
        train.Run(tmp_path, {**CONFIG, "data": "mnist", "steps": 200}, may_change=())


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        train.Run(tmp_path / "file", CONFIG)
    with pytest.raises(OSError, match="file"):
        train.Run(tmp_path / "file" / "run", CONFIG)
    with pytest.raises(FileNotFoundError, match=r"is not a run folder: it has no config.json"):
        train.read_config(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_damaged_configuration_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json is damaged"):
        train.Run(tmp_path, CONFIG)


def test_notes_fit_in_json(tmp_path):
    run = train.Run(tmp_path, CONFIG)
    with pytest.raises(TypeError):
        run.note(model=object())
    assert json.loads((tmp_path / "config.json").read_text())["notes"] == {}
