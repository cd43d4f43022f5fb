"""The cases of our own recurrences: each way to run one gives the same values and gradients."""

import pytest

from benchmarks import measure, peers
from benchmarks.case import Problem
from benchmarks.cases import CASES

SIZE = {
    "variants": {"batch": 3, "time": 5, "input": 4, "hidden": 6},
    "linear_recurrence": {"batch": 3, "time": 5, "features": 4},
}


@pytest.mark.parametrize("case", [pytest.param("variants", marks=pytest.mark.exhaustive), "linear_recurrence"])
def test_agree(case):
    case, mode = CASES[case], "gradient"
    for shape in case.shapes:
        parameters = {**shape.parameters, **SIZE[case.name]}
        weights = peers.find("jaxnets").load().weights(Problem(case.name, parameters, case.batch(parameters), {}))
        results = []
        for name in shape.ours:
            peer = peers.find(name)
            problem = Problem(case.name, parameters, case.batch(parameters), weights, options=peer.options, mode=mode)
            results.append(getattr(peer.load(), case.name)(problem).results())
        for other in results[1:]:
            judged = measure._judged(case.agreement, results[0], other, "")
            assert (judged["status"], judged["note"]) == ("measured", "")
            assert set(judged["agreement"]["deviation"]) == {"loss", "x", *weights}
