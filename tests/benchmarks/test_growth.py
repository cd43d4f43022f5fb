"""How cost grows: sizes that double, slopes of power laws, and the command."""

import json

import pytest

from benchmarks import growth
from benchmarks.__main__ import main


@pytest.fixture
def measured(monkeypatch, make_record):
    """Stands for measuring: a step takes time * batch**2 milliseconds, and time KiB, of the program or the process."""
    shapes = []

    def measure(case, shape, names, protocol):
        shapes.append(shape.name)
        time, batch = (shape.parameters[name] for name in ("time", "batch"))
        program = {"temporaries": 1000 * time, "arguments": 23 * time, "outputs": 2 * time, "aliased": time}
        return [
            make_record(
                name,
                shape=shape.name,
                case=case.name,
                mode=mode,
                parameters=shape.parameters,
                times={"median": 1e-3 * time * batch**2},
                memory={"program": program if name == "jaxnets" else None, "process_peak_bytes": 2048 * time},
                noisy=batch > 200,
            )
            for mode in case.modes
            for name in ("jaxnets", *names)
        ]

    monkeypatch.setattr(growth, "measure", measure)
    return shapes


def test_slopes_are_exponents():
    assert growth.slope([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)
    assert growth.slope([5, 10], [7.0, 7.0]) == pytest.approx(0)


def test_table_and_picture(measured, tmp_path, capsys):
    arguments = ["growth", "lstm", "--along", "time,batch", "--points", "3", "--peers", "flax", "--mode", "gradient"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert measured == ["time=100", "time=200", "time=400", "batch=64", "batch=128"]
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert rows[0][:6] == [
        "lstm, gradient",
        "jaxnets",
        "time 100, 200, 400",
        "1.02e+05, 2.05e+05, 4.1e+05",
        "1.00",
        "1.00",
    ]
    assert rows[1][1:3] == ["flax", "time 100, 200, 400"]
    assert [row[6:] for row in rows[:2]] == [
        ["0.0977, 0.195, 0.391", "1.00", "1.00", ""],
        ["0.195, 0.391, 0.781", "1.00", "1.00", ""],
    ]
    assert [row[4] for row in rows[2:]] == ["2.00", "2.00"]
    assert (tmp_path / "lstm-growth.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "lstm-growth.json").read_text())) == 12


def test_every_number_is_doubled(measured, capsys):
    assert main(["growth", "gru", "--points", "2", "--json"]) == 0
    assert measured == ["batch=32", "batch=64", "time=200", "input=128", "hidden=128"]
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    # The beginning is told with each.
    assert [record["shape"] for record in records if record["mode"] == "forward"] == [
        *("batch=32", "batch=64", "time=100", "time=200"),
        *("input=64", "input=128", "hidden=64", "hidden=128"),
    ]


def test_who_fails_has_no_curve(make_record):
    failed = make_record("flax", parameters={"time": 2}, status="failed", note="too much")
    del failed["times"]
    timed = [make_record(name, parameters={"time": 1}) for name in ("flax", "jaxnets")]
    (curve,) = growth.curves("time", [*timed, failed])
    assert curve.contender == "jaxnets"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nope"], "no case 'nope': there are cnn"),
        (["lstm", "--along", "time,depth"], "lstm has no parameter 'depth', there are batch, time, input, hidden"),
        (["import"], "import has no parameter '', it has none"),
        (["lstm", "--points", "1"], "--points must be 2 or more"),
        (["lstm", "--peers", "nope"], "no peer 'nope'"),
    ],
)
def test_bad_input_is_one_line(arguments, word, capsys):
    assert main(["growth", *arguments]) == 2
    printed = capsys.readouterr()
    assert word in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.exhaustive
def test_growth_is_measured(tmp_path, capsys):
    shape = ["--shape", "batch=1,time=2,features=3", "--along", "time", "--points", "2", "--mode", "forward"]
    arguments = ["growth", "linear_recurrence", *shape, "--rounds", "1", "--seconds", "0.01", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert "time 2, 4" in capsys.readouterr().out
