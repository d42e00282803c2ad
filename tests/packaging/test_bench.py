"""The benchmark's table against the peers; the peers themselves are run by `make bench` only."""

from __future__ import annotations

import json

import pytest

from bench.peers import comparison, runner
from bench.peers.comparison import Line, Peer, compare, table
from bench.peers.works import UNITS, Work


def printed(version: str, how: str, figures: dict[Work, float]) -> str:
    return json.dumps({"version": version, "how": how, "figures": figures})


def test_a_peer_is_what_its_scripts_print_last() -> None:
    peer = Peer("Ray").with_output("a notice\n" + printed("2.60.0", "1 processor", {Work.TASKS: 1200}))
    peer = peer.with_output(printed("2.60.0", "2 processors", {Work.CALL: 1000.5}))
    assert peer == Peer("Ray", "2.60.0", "1 processor; 2 processors", {Work.TASKS: 1200.0, Work.CALL: 1000.5})


@pytest.mark.parametrize("output", ["", "no JSON\n", printed("1", "", {}).replace("{}", '{"juggling": 1}')])
def test_a_script_that_prints_no_report_is_an_error(output: str) -> None:
    with pytest.raises(ValueError):
        Peer("Ray").with_output(output)


def test_a_ratio_above_one_is_in_our_favour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "TARGETS", {(Work.CALLS, "Ray"): 5.0})
    peer = Peer("Ray", "2.60.0", figures={Work.CALLS: 2000.0, Work.GET: 0.5, Work.PUT: 2.0})
    ours = {Work.CALLS: 30_000.0, Work.GET: 0.25, Work.PUT: 1.0}
    assert compare(ours, [peer]) == [
        Line(Work.CALLS, "30,000 /s", "Ray 2.60.0: 2,000 /s", "15.00 x", "5 x", True),
        Line(Work.PUT, "1.00 GB/s", "Ray 2.60.0: 2.00 GB/s", "0.50 x"),
        Line(Work.GET, "0.25 ms", "Ray 2.60.0: 0.50 ms", "2.00 x"),
    ]


def test_a_target_that_is_missed_says_so() -> None:
    (line,) = compare({Work.CALLS: 2000.0}, [Peer("Ray", "2.60.0", figures={Work.CALLS: 2000.0})])
    assert str(line) == f"| {Work.CALLS} | 2,000 /s | Ray 2.60.0: 2,000 /s | 1.00 x | 5 x | **missed** |"


def test_what_is_not_measured_or_not_installed_stands_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "TARGETS", {})
    peers = [Peer("Celery", "5.7.0", "1 worker", {Work.TASKS: 400.0}), Peer("Ray", problem="not installed")]
    assert table({}, peers).splitlines()[2:] == [
        f"| {Work.TASKS} | not measured | Celery 5.7.0: 400 /s |  |  |  |",
        "| Ray |  | not installed |  |  |  |",
        "",
        "- Celery 5.7.0: 1 worker",
    ]


def test_every_kind_of_work_has_a_unit() -> None:
    assert set(UNITS) == set(Work)


def test_a_peer_without_its_environment_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr(runner, "ENVIRONMENTS", tmp_path)
    problems = {peer.problem for peer in runner.run_peers("amqp://127.0.0.1/", 1.0)}
    assert problems == {"not installed: make bench-peers"}
