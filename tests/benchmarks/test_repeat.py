import pytest

from benchmarks import report
from benchmarks.__main__ import main


@pytest.fixture
def folders(tmp_path, make_record):
    """Two runs; the ratios of the second to torch and flax are given."""

    def write(torch, flax, noisy=False):
        runs = {"first": {"torch": 0.5, "flax": 0.4}, "second": {"torch": torch, "flax": flax}}
        for name, ratios in runs.items():
            (tmp_path / name).mkdir()
            records = [make_record(peer, ratio, noisy=noisy and peer == "flax") for peer, ratio in ratios.items()]
            report.write(records, tmp_path / name / "cnn.json")
        return [str(tmp_path / name) for name in runs]

    return write


@pytest.mark.parametrize(
    ("second", "code", "verdicts"),
    [
        ((0.54, 0.37), 0, ["the same", "the same"]),
        ((0.54, 0.45), 1, ["the same", "apart"]),
        ((0.54, 0.45, True), 0, ["the same", "noisy"]),
    ],
)
def test_two_runs(folders, second, code, verdicts, capsys):
    if code:
        with pytest.raises(SystemExit, match="1"):
            main(["compare", *folders(*second)])
    else:
        assert main(["compare", *folders(*second)]) == 0
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")] for line in printed.splitlines() if line.startswith("| cnn")]
    assert rows[0][3:] == ["jaxnets / torch", "0.50", "0.54", "+8%", "the same", ""]
    assert [row[-2] for row in rows] == verdicts
    assert ("10% apart on a quiet machine: cnn, batch 32: jaxnets / flax" in printed) == bool(code)


def test_nothing_in_common(folders, tmp_path, make_record, capsys):
    first, second = folders(0.5, 0.4)
    report.write([make_record("torch", shape="batch 128")], tmp_path / "second" / "cnn.json")
    assert main(["compare", first, second]) == 2
    assert capsys.readouterr().err.count("\n") == 1
