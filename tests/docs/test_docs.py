"""What the documents show is run, and what they link to is there."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from actorhub import Hub, Settings
from actorhub.blocking import Hub as BlockingHub
from actorhub.broker import LocalServer
from tests.conftest import QUICK

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def code(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


EXAMPLES = [
    node.name
    for block in code("docs/tutorial.md")
    for node in ast.parse(block).body
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and [arg.arg for arg in node.args.args] == ["hub"]
]


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The tutorial's code as a module that worker processes can import, too."""
    directory = tmp_path_factory.mktemp("tutorial")
    (directory / "tutorial.py").write_text("\n\n".join(code("docs/tutorial.md")))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(directory)
        patch.setenv("PYTHONPATH", str(directory))
        yield importlib.import_module("tutorial")
        del sys.modules["tutorial"]


@pytest.mark.parametrize("name", EXAMPLES)
async def test_the_tutorial_s_code_does_what_the_text_says(
    tutorial: ModuleType, name: str, broker: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    example: Any = getattr(tutorial, name)
    settings = Settings(url=broker.url, secret="s", prefix="tutorial", **QUICK)  # type: ignore[arg-type]
    if inspect.iscoroutinefunction(example):
        async with Hub.local(workers=2, modules=["tutorial"], settings=settings) as hub:
            await example(hub)
        return
    for variable, value in settings.to_environment().items():
        monkeypatch.setenv(variable, value)
    with BlockingHub.local(workers=2, modules=["tutorial"]) as blocking:
        example(blocking)


def test_the_readme_s_first_actor_is_the_example_in_its_file() -> None:
    shown = code("README.md")[0].strip()
    assert shown in (ROOT / "examples" / "counter.py").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)?(?:#[^)]*)?\)", page.read_text()):
        if target and "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", page.read_text()):
        linked = page.parent / target if target else page
        headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_test_that_the_guarantees_name_is_there() -> None:
    named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", (ROOT / "docs" / "guarantees.md").read_text())
    assert len(named) > 20
    for file, test in named:
        (path,) = (ROOT / "tests").rglob(f"{file}.py")
        text = path.read_text()
        assert re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), f"{file}.py has no {test}"
