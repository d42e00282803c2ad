"""Durable mailboxes by seed: no promise is broken, and each shortcut is found out."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.rules import Parts
from tests.simulation.runner import search

SEEDS = 2000
PART = 500


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_each_message_changes_the_state_once_and_what_follows_from_it_is_sent_once(first: int) -> None:
    failure = search(Parts(), range(first, first + PART))
    assert failure is None, failure.report()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_shortcut_is_found_out(name: str) -> None:
    assert search(MUTANTS[name], range(1000)) is not None, "the simulation is too weak to see what is wrong with it"


def test_a_seed_gives_the_same_history_each_time() -> None:
    name = "effects on the confirm"
    first = search(MUTANTS[name], range(1000))
    assert first is not None
    again = search(MUTANTS[name], [first.seed])
    assert again == first
    assert f"--seeds 1 --first {first.seed} --mutant '{name}'" in first.report()
