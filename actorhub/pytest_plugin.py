"""Fixtures for users' own tests, on the embedded broker: nothing to install, nothing left behind.

    async def test_counting(hub):
        counter = await hub.spawn(Counter)
        assert await counter.add(1) == 1

- `hub`: a cluster inside the test's process, made anew for each test in some tens of milliseconds.
- `local_hub`: a cluster of a broker, an agent and two worker processes, for each test; its node imports the test's module.
  For tests that kill processes.
- `broker_url`: an embedded broker's URL, one for the whole run.

The hubs need pytest-asyncio. ACTORHUB_URL is not used.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from actorhub import Hub, Settings

async_fixture: Any
try:
    import pytest_asyncio
except ImportError:  # then there are no asynchronous tests
    async_fixture = pytest.fixture
else:
    async_fixture = pytest_asyncio.fixture


@pytest.fixture(scope="session")
def broker_url() -> Iterator[str]:
    """The URL of an embedded broker."""
    from actorhub.broker import open_server

    server = open_server("embedded")
    server.start()
    yield server.url
    server.stop()


def _settings() -> Settings:
    from actorhub import Settings

    return Settings().model_copy(update={"url": None})


@async_fixture  # type: ignore[untyped-decorator]
async def hub() -> AsyncIterator[Hub]:
    """A hub with a whole cluster inside this process."""
    from actorhub import Hub

    async with Hub(settings=_settings()) as hub:
        yield hub


@async_fixture  # type: ignore[untyped-decorator]
async def local_hub(request: pytest.FixtureRequest) -> AsyncIterator[Hub]:
    """A hub of a cluster of two real worker processes."""
    from actorhub import Hub

    modules = [request.module.__name__]
    async with Hub.local(workers=2, broker="embedded", modules=modules, settings=_settings()) as hub:
        yield hub
