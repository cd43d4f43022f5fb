"""Scaling on paper: by hand where that can be done, and as benchmarks/README.md shows it."""

from pathlib import Path

import pytest

from benchmarks.scaling import SIZES, Scaling, main

README = Path(__file__).parents[2] / "benchmarks" / "README.md"
KERNELS, TABLE = 12 * 32 * 4096**2, 32768 * 4096  # of the Transformer: its blocks, and its tokens


def test_the_table_is_that_of_the_readme(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out in README.read_text()


def test_a_step_by_hand():
    paper = Scaling(latency=1e-30, overhead=1e-30)
    step = paper.step("transformer", 64, "fsdp")
    products = 6 * (KERNELS + TABLE) + 6 * 32 * 4096 * 1024
    assert step.compute == pytest.approx(products * 512 * 1024 / 64 / (0.4 * 989e12))
    # Three passes of the weights: seven eighths inside a host, then an eighth of them between eight hosts.
    weights = 4 * (KERNELS + TABLE)
    assert step.communication == pytest.approx(3 * (weights * 7 / 8 / 450e9 + weights / 8 * 7 / 8 / 50e9))
    assert step.seconds == step.compute > step.communication


def test_one_chip_has_nothing_to_send():
    for model in SIZES:
        costs = {Scaling(rows=4, memory=1e12).step(model, 1, form) for form in ("data", "fsdp", "tensor")}
        assert len(costs) == 1
        assert costs.pop().communication == 0


def test_a_loop_reads_its_weights_however_few_rows_there_are():
    few, more = (Scaling(rows=rows, overhead=1e-30).step("lstm", 1, "data").compute for rows in (1, 2))
    assert few > 2 * 2 * 128 * 2 * 4 * 2048**2 / 3.35e12
    assert more < 1.1 * few


def test_what_does_not_fit_is_cut_into_passes():
    step = Scaling(memory=60e9).step("transformer", 8, "fsdp")
    whole = Scaling(memory=1e12).step("transformer", 8, "fsdp")
    assert (step.passes, whole.passes) == (1, 1)
    tight = Scaling(memory=40e9).step("transformer", 8, "fsdp")
    assert tight.passes == 2
    assert tight.memory <= 40e9 < step.memory
    assert tight.communication == pytest.approx(2 * step.communication)


@pytest.mark.parametrize(("option", "value"), [("rows", "0"), ("used", "nan")])
def test_bad_input_is_one_line(option, value, capsys):
    assert main([f"--{option}", value]) == 2
    assert capsys.readouterr().err == f"error: --{option} wants to be positive, got {value}\n"


def test_more_chips_than_rows(capsys):
    assert main(["--model", "lstm", "--rows", "4", "--chips", "8"]) == 0
    assert "| lstm | 8 | data | | | more chips than rows | |" in capsys.readouterr().out
