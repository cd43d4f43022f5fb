"""Short forms of the campaigns, which are run whole by hand."""

import pytest

from tests.campaigns import compilations, damage, kill, long_run, resume

pytestmark = pytest.mark.exhaustive


def test_what_a_killed_process_leaves_is_restored():
    assert kill.campaign(3, 250_000, seed=1).startswith("3 of 3 kills")


# The libraries tell in their own way of a file that is damaged where there are no checksums of files.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_damage_is_restored_as_if_it_were_none():
    _, wrong = damage.campaign(24, 12, seed=1)
    assert wrong == []


def test_a_stop_and_another_process_change_no_bit():
    sentence, others = resume.campaign(["CNN"], ["EMA"], steps=3)
    assert sentence.startswith("2 of 2 runs")
    assert others == []


def test_a_training_holds_no_more_and_more():
    sentence, good = long_run.campaign(500, 10)
    assert good, sentence


def test_an_epoch_in_buckets_compiles_for_each_once():
    sentence, good = compilations.campaign("docstrings")
    assert good, sentence
