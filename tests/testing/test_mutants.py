"""Every law notices the layers that are broken in its way, and the exhaustive test, that others do not need to."""

import pytest

import jaxnets as jn
from tests.testing.mutants import CASES, HalfParameters, Mutant, NeedsKey


def broken(layer, laws):
    with pytest.raises(jn.testing.LawError) as caught:
        jn.testing.check_sequence_layer(layer, laws=laws)
    return caught.value


def caught(case, laws):
    """The laws that a mutant breaks: its own is among them, and finds what is wrong, in value or in gradient alone."""
    error = broken(Mutant(tamper=case.tamper), laws)
    found = [finding for finding in error.findings if finding.law == case.law]
    assert found
    values = [finding for finding in found if not finding.leaf.startswith("gradient")]
    if case.kind == "value":
        assert values
    else:
        # Its values are right: nothing but a gradient, or an error on the way to one, is found.
        assert all(finding.leaf == "" and "raised" in finding.message for finding in values)
    return set(error.laws)


# One mutant for each law; all of them are left to the exhaustive stage.
@pytest.mark.parametrize("name", {case.law: name for name, case in reversed(CASES.items())}.values())
def test_a_mutant_is_caught_by_its_law(name):
    caught(CASES[name], [CASES[name].law])


@pytest.mark.parametrize(("layer", "law"), [(NeedsKey(), "export"), (HalfParameters(), "precision")], ids=repr)
def test_other_mutants(layer, law):
    assert broken(layer, [law]).laws == (law,)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_each_mutant_is_caught_and_no_other_law_objects(name):
    case = CASES[name]
    assert caught(case, jn.testing.LAWS) <= {case.law, *case.also}
