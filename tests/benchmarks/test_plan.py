"""What `all` measures: every target, every case, within the time that it says."""

import pytest

from benchmarks import plan
from benchmarks.__main__ import main
from benchmarks.case import Case, Shape, Target
from benchmarks.cases import CASES


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_headline_has_what_every_target_is_about(device):
    parts = {(part.case.name, part.shape.name): part for part in plan.headline(device)}
    for case in CASES.values():
        assert parts[case.name, case.shapes[0].name] == plan.Part(case, case.shapes[0], case.peers)
        for target in case.targets:
            for shape in target.shapes if target.device == device else ():
                part = parts[case.name, shape]
                assert target.mode in part.case.modes
                assert {target.ours, target.peer} <= {*part.shape.ours, *part.peers}


def test_headline_leaves_out_the_rest(monkeypatch):
    case = Case(
        name="fake",
        summary="a fake",
        shapes=tuple(Shape(name, {}, ours=("jaxnets", "jaxnets_xla", "jaxnets_tuned")) for name in "abc"),
        peers=("flax", "torch"),
        agreement={},
        batch=lambda parameters: {},
        targets=(Target("torch", 1.0, ("b",), ours="jaxnets_tuned", mode="forward"),),
        modes=("forward", "gradient"),
    )
    monkeypatch.setattr(plan, "CASES", {"fake": case})
    first, second = plan.headline()
    assert first == plan.Part(case, case.shapes[0], case.peers)
    assert (second.shape.name, second.shape.ours) == ("b", ("jaxnets", "jaxnets_tuned"))
    assert (second.case.modes, second.peers) == (("forward",), ("torch",))
    assert plan.by_case([first, second]) == {"fake": [first, second]}
    # Five contenders in two modes and three in one, six seconds to begin, and seven turns of half a second.
    assert plan.minutes([first, second], rounds=4, seconds=0.5) == pytest.approx((5 * (6 + 7) + 3 * (6 + 3.5)) / 60)


def test_all_is_done_in_forty_minutes():
    assert plan.minutes(plan.headline(), rounds=10) < 38


def test_all_measures_the_plan(monkeypatch, capsys):
    measured = []

    def note(case, shape, names, protocol):
        measured.append((case.name, shape.name, protocol.rounds))
        return []

    monkeypatch.setattr("benchmarks.commands.measure", note)
    assert main(["all", "--json"]) == 0
    assert measured == [(part.case.name, part.shape.name, 10) for part in plan.headline()]
    assert f"{len(CASES)} cases at {len(measured)} shapes: about" in capsys.readouterr().err
    measured.clear()
    assert main(["all", "--full", "--rounds", "3", "--json"]) == 0
    assert measured == [(case.name, shape.name, 3) for case in CASES.values() for shape in case.shapes]
