"""Simulation of durable mailboxes by seed: no promise is broken, and each wrong shortcut is caught."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.rules import Parts
from tests.simulation.runner import search

SEEDS = 2000
SEEDS_PER_TEST = 500


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_each_message_changes_the_state_once_and_its_effects_are_sent_once(first: int) -> None:
    failure = search(Parts(), range(first, first + SEEDS_PER_TEST))
    assert failure is None, failure.report()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_shortcut_is_caught(name: str) -> None:
    assert search(MUTANTS[name], range(1000)) is not None, "the simulation is too weak to catch it"


def test_a_seed_always_gives_the_same_history() -> None:
    name = "effects on the confirm"
    first = search(MUTANTS[name], range(1000))
    assert first is not None
    again = search(MUTANTS[name], [first.seed])
    assert again == first
    assert f"--seeds 1 --first {first.seed} --mutant '{name}'" in first.report()
