"""Every law notices the layers that are broken in its way, and the exhaustive test, that others do not need to."""

import pytest

import jaxnets as jn
from tests.testing.mutants import CASES, HalfParameters, Mutant, NeedsKey

QUICK = jn.testing.quick_compile()


def broken(layer, laws):
    with pytest.raises(jn.testing.LawError) as caught:
        jn.testing.check_sequence_layer(layer, laws=laws, compiler_options=QUICK)
    return caught.value


# One mutant for each law; the others are left to the exhaustive stage.
FIRST = {case.law: name for name, case in reversed(CASES.items())}.values()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FIRST else pytest.mark.exhaustive) for name in CASES]
)
def test_a_mutant_is_caught_by_its_law(name):
    case = CASES[name]
    error = broken(Mutant(tamper=case.tamper), [case.law])
    assert error.laws == (case.law,)
    values = [finding for finding in error.findings if not finding.leaf.startswith("gradient")]
    if case.kind == "value":
        assert values
    else:
        # Its values are right: nothing but a gradient, or an error on the way to one, is found.
        assert all(finding.leaf == "" and "raised" in finding.message for finding in values)


@pytest.mark.parametrize(("layer", "law"), [(NeedsKey(), "export"), (HalfParameters(), "precision")], ids=repr)
def test_other_mutants(layer, law):
    assert broken(layer, [law]).laws == (law,)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_no_other_law_objects(name):
    case = CASES[name]
    laws = set(broken(Mutant(tamper=case.tamper), jn.testing.LAWS).laws)
    assert {case.law} <= laws <= {case.law, *case.also}
