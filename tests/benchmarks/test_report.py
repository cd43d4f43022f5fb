import dataclasses
import json

import pytest

from benchmarks import report
from benchmarks.case import Target
from benchmarks.cases import CASES


def test_table_judges_the_targets(make_record):
    text = report.table(
        [
            make_record("torch", 0.6),
            make_record("flax", 0.5),
            make_record("keras", 0.39, noisy=True),
            make_record("torch", 0.5, "batch 128", ours="jaxnets_tuned"),
        ]
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    verdicts = {(*row[1:4],): row[4:] for row in rows if len(row) == 6 and row[0] == "cnn"}
    assert verdicts["jaxnets / torch, cpu", "batch 32", "0.65"] == ["0.60", "pass"]
    assert verdicts["jaxnets / flax, cpu", "batch 32", "0.45"] == ["0.50", "shortfall"]
    assert verdicts["jaxnets / keras, cpu", "batch 32", "0.4"] == ["0.39", "pass, noisy"]
    assert verdicts["jaxnets_tuned / torch, cpu", "batch 128", "0.65"] == ["0.50", "pass"]
    assert verdicts["jaxnets / torch, cpu", "batch 32", "0.5 (then)"] == ["0.60", "shortfall"]
    assert verdicts["jaxnets / torch, cpu", "batch 128", "0.5 (then)"] == ["", "not measured"]
    assert "too noisy to rely on the ratios of these: cnn, batch 32: keras" in text
    assert "a processor, 2 cores, 16 GiB" in text
    assert "jaxnets / flax, gpu" not in text
    assert "Targets on a gpu, not measured here: 2; python -m benchmarks all --device gpu judges them" in text
    assert "torch 1.0" in text


def test_targets_over_shapes_are_geometric_means(make_record):
    target = Target("torch", 0.5, ("batch 32", "batch 128"))
    records = [make_record(ratio=0.2), make_record(ratio=0.8, shape="batch 128", noisy=True)]
    assert report.reached(target, CASES["cnn"], records) == (pytest.approx(0.4), True)
    assert report.reached(target, CASES["cnn"], records[:1]) is None


def test_targets_for_each_shape_take_the_worst(make_record):
    target = Target("torch", 0.5, ("batch 32", "batch 128"), each=True)
    records = [make_record(ratio=0.2), make_record(ratio=0.8, shape="batch 128")]
    assert report.reached(target, CASES["cnn"], records) == (0.8, False)


def test_targets_on_temporaries(make_record):
    def record(contender, temporaries):
        return make_record(contender, noisy=True, memory={"program": temporaries and {"temporaries": temporaries}})

    target = Target("flax", 1.1, ("batch 32",), quantity="temporaries")
    records = [record("jaxnets", 3000), record("flax", 2000), record("torch", None)]
    assert report.reached(target, CASES["cnn"], records) == (1.5, False)
    assert report.reached(target, CASES["cnn"], records[:1]) is None
    assert report.reached(dataclasses.replace(target, peer="torch"), CASES["cnn"], records) is None


def test_ratios_over_many_shapes_are_summed_up(make_record, tmp_path):
    names = [shape.name for shape in CASES["gru"].shapes]
    records = [
        make_record(ratio=ratio, shape=name, case="gru", mode="gradient", differs="resets early")
        for name, ratio in zip(names, (0.25, 1.0, 0.5, 0.5, 0.25, 1.0), strict=True)
    ]
    (mean,) = report.means(report.ratios(records))
    assert (mean.place, mean.spread["median"]) == ("all 6, gradient", pytest.approx(0.5))
    assert (mean.spread["min"], mean.spread["max"]) == (0.25, 1.0)
    text = report.table(records)
    assert "gru: torch resets early" in text
    assert any(line.split()[-2:] == ["pass", "|"] and "jaxnets / torch" in line for line in text.splitlines())
    report.plot(records, tmp_path / "gru.png")
    assert report.means(report.ratios(records[:2])) == []


def test_every_target_is_about_something_measured():
    for case in CASES.values():
        ours = {shape.name: shape.ours for shape in case.shapes}
        for target in case.targets:
            assert target.mode in case.modes
            assert all(target.peer in (*case.peers, *ours[shape]) for shape in target.shapes)
            assert all(target.ours in ours[shape] for shape in target.shapes)


def test_on_a_gpu_nothing_is_behind(make_record):
    text = report.table([make_record("flax", 1.1, shape, device="gpu") for shape in ("batch 32", "batch 128")])
    (row,) = [line for line in text.splitlines() if "jaxnets / flax, gpu" in line]
    assert [cell.strip() for cell in row.split("|")][3:-1] == ["each of batch 32, batch 128", "1", "1.10", "shortfall"]
    assert "jaxnets / torch, cpu" not in text
    assert "Targets on a cpu, not measured here: 8; python -m" in text


def test_what_was_left_out_is_said(make_record, tmp_path):
    absent = make_record(status="missing", note="not installed: torch")
    del absent["times"], absent["ratio"]
    assert "cnn, batch 32: torch was not timed: not installed: torch" in report.table([absent])
    with pytest.raises(ValueError, match="no ratio was measured"):
        report.plot([absent], tmp_path / "cnn.png")


def test_limits_and_rates_stand_in_the_tables(make_record):
    hardware = {**make_record()["hardware"], "matmul_flops": 195e9, "memory_bandwidth": 21e9}
    work = {"peak_fraction": 0.4, "bandwidth_fraction": 0.25, "per_second": {"tokens": 12345.6}}
    text = report.table([make_record(hardware=hardware, **work)])
    assert "| 12,346 tokens | 40%     | 25%" in text
    assert "Peak: 195 GFLOP/s in one large product of matrices\nPeak: 21 GB/s of memory" in text


def test_plot(make_record, tmp_path):
    report.plot([make_record(), make_record("flax", 12.0, noisy=True)], tmp_path / "cnn.png")
    assert [path.name for path in tmp_path.iterdir()] == ["cnn.png"]


def test_round_trip_and_damage(make_record, tmp_path):
    report.write([make_record()], tmp_path / "cnn.json")
    assert report.read(tmp_path) == [make_record()]
    assert [path.name for path in tmp_path.iterdir()] == ["cnn.json"]
    (tmp_path / "cnn.json").write_text(json.dumps([make_record()])[:-9])
    with pytest.raises(ValueError, match=r"cnn\.json is damaged"):
        report.read(tmp_path)
