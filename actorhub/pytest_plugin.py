"""pytest fixtures for tests of actors and tasks, on the embedded broker: they need no installation and leave nothing behind.

    async def test_counting(hub):
        counter = await hub.spawn(Counter)
        assert await counter.add(1) == 1

- `hub`: a new cluster for each test, inside the test's process. It starts in some tens of milliseconds.
- `local_hub`: a new cluster for each test, with a node and two worker processes. Its node imports the test's module. For tests
  that kill processes.
- `broker_url`: the URL of an embedded broker, one for the whole run.

`hub` and `local_hub` need pytest-asyncio. The fixtures ignore ACTORHUB_URL.
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
except ImportError:  # without it there are no asynchronous tests
    async_fixture = pytest.fixture
else:
    async_fixture = pytest_asyncio.fixture


@pytest.fixture(scope="session")
def broker_url() -> Iterator[str]:
    """URL of an embedded broker."""
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
    """Hub with a cluster inside this process."""
    from actorhub import Hub

    async with Hub(settings=_settings()) as hub:
        yield hub


@async_fixture  # type: ignore[untyped-decorator]
async def local_hub(request: pytest.FixtureRequest) -> AsyncIterator[Hub]:
    """Hub with a cluster of one node and two worker processes."""
    from actorhub import Hub

    modules = [request.module.__name__]
    async with Hub.local(workers=2, broker="embedded", modules=modules, settings=_settings()) as hub:
        yield hub
