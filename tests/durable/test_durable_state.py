"""The state of durable actors: it comes back exactly as it was, and a state that cannot be kept is refused."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from actorhub import CallTimeout, Hub, NotSerialisable, actor, deadline
from actorhub.actors.spec import spec_of
from actorhub.durable.protocol.records import StateRecord
from actorhub.durable.snapshot import StateSnapshots
from actorhub.wire.signer import Signer
from tests.durable.actors import kill_worker


@actor(durable=True)
class Odd:
    """An actor with attributes that JSON does not give back."""

    def __init__(self) -> None:
        self.count = 0
        self.seen: list[int] = []
        self.same = self.seen
        self.value: Any = None
        self.refuses = False

    def __getstate__(self) -> dict[str, Any]:
        if self.refuses:
            raise ValueError("not now")
        return vars(self)

    async def next(self) -> tuple[int, list[int]]:
        self.count += 1
        self.seen.append(self.count)
        return self.count, self.same

    async def keep(self, what: str) -> None:
        self.value = {"a lone surrogate": "\ud800", "a large number": 10**5000}.get(what)
        if what == "a circle":
            self.value = [1]
            self.value.append(self.value)
        for _ in range(300 if what == "a deep list" else 0):
            self.value = [self.value]

    async def kept(self) -> str:
        value = self.value
        if isinstance(value, list) and value[-1] is value:
            return "a circle"
        depth = 0
        while isinstance(value, list):
            value, depth = value[0], depth + 1
        return {"\ud800": "a lone surrogate", 10**5000: "a large number"}.get(
            value, "a deep list" if depth == 300 else "nothing"
        )

    async def refuse(self) -> None:
        self.refuses = True

    async def pid(self) -> int:
        return os.getpid()


@actor(durable=True)
class Model(BaseModel):
    """A model with an alias for a field, and with fields that JSON does not give back."""

    model_config = ConfigDict(strict=True, ser_json_bytes="base64", val_json_bytes="base64")

    count: int = Field(0, alias="howMany")
    limit: float = 1.0
    secret: SecretStr = SecretStr("")
    raw: bytes = b""
    days: set[date] = set()

    async def next(self) -> int:
        self.count += 1
        self.raw += b"\xff"
        self.days.add(date(2026, 1, self.count))
        return self.count

    async def rest(self) -> tuple[bytes, set[date]]:
        return self.raw, self.days

    async def mistype(self) -> None:
        self.count = "many"  # type: ignore[assignment]

    async def unbound(self) -> None:
        self.limit = float("inf")

    async def keep_secret(self) -> None:
        self.secret = SecretStr("hush")

    async def show(self) -> tuple[int, float, str]:
        return self.count, self.limit, self.secret.get_secret_value()

    async def pid(self) -> int:
        return os.getpid()


async def test_an_object_that_a_state_holds_twice_is_one_object_again(hub: Hub) -> None:
    """Two attributes that are the same list are the same list for the next owner, too."""
    odd = await hub.spawn(Odd)
    assert await odd.next() == (1, [1])
    await kill_worker(odd)
    assert await odd.next() == (2, [1, 2])


@pytest.mark.parametrize("what", ["a lone surrogate", "a large number", "a circle", "a deep list"])
async def test_a_state_that_json_cannot_express_comes_back_the_same(hub: Hub, what: str) -> None:
    odd = await hub.spawn(Odd)
    async with asyncio.timeout(30):
        await odd.keep(what)
    await kill_worker(odd)
    assert await odd.kept() == what


async def test_a_getstate_that_raises_fails_the_call_and_the_actor_goes_on(hub: Hub) -> None:
    odd = await hub.spawn(Odd)
    assert await odd.next() == (1, [1])
    async with asyncio.timeout(30):
        with pytest.raises(NotSerialisable, match=r"Odd\.__getstate__ raised ValueError: not now"):
            await odd.refuse()
    assert await odd.next() == (2, [1, 2])


async def test_a_model_comes_back_whatever_aliases_and_encodings_its_fields_have(hub: Hub) -> None:
    model = await hub.spawn(Model)
    assert await model.next() == 1
    await kill_worker(model)
    assert await model.next() == 2
    assert await model.rest() == (b"\xff\xff", {date(2026, 1, 1), date(2026, 1, 2)})


async def test_a_field_that_could_not_be_read_back_fails_the_call_and_the_actor_goes_on(hub: Hub) -> None:
    """The next owner has the state from before the call."""
    model = await hub.spawn(Model)
    assert await model.next() == 1
    for method, field in ((model.mistype, "count"), (model.unbound, "limit"), (model.keep_secret, "secret")):
        async with asyncio.timeout(30):
            with pytest.raises(NotSerialisable, match=f"Model.{field} cannot be kept"):
                await method()
    await kill_worker(model)
    assert await model.show() == (1, 1.0, "")


def test_a_class_that_would_lose_part_of_its_state_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Slotted would lose \['count'\]"):

        @actor(durable=True)
        class Slotted:
            __slots__ = ("count",)

            async def ping(self) -> None: ...

    with pytest.raises(TypeError, match=r"Hiding would lose the fields \['count'\]"):

        @actor(durable=True)
        class Hiding(BaseModel):
            count: int = Field(0, exclude=True)

            async def ping(self) -> None: ...

    with pytest.raises(TypeError, match="Open would lose fields that it does not name"):

        @actor(durable=True)
        class Open(BaseModel):
            model_config = ConfigDict(extra="allow")

            async def ping(self) -> None: ...


@actor(durable=True)
class Grown:
    state_version: ClassVar[int] = 2

    @classmethod
    def migrate(cls, state: dict[str, Any], from_version: int) -> dict[str, Any]:
        return {**state, "lock": threading.Lock()}

    async def ping(self) -> None: ...


def test_an_owner_whose_migrated_state_cannot_be_kept_does_not_take_over() -> None:
    """Otherwise the commit with the next checkpoint would have no state, and the state before it would be lost."""
    snapshots = StateSnapshots(spec_of(Grown), Signer("s"), 1000)
    with pytest.raises(NotSerialisable, match=r"Grown\['lock'\]"):
        snapshots.create([StateRecord(body=b'{"count":7}', size=11)], Grown)


def _new(path: str) -> str:
    if Path(path).exists():
        raise ValueError(f"{path} exists already")
    return path


@actor(durable=True)
class Aged:
    """An actor whose constructor accepts less now than when it was created."""

    def __init__(self, path: Annotated[str, AfterValidator(_new)]) -> None:
        self.path = path
        self.count = 0

    async def next(self) -> int:
        self.count += 1
        return self.count

    async def pid(self) -> int:
        return os.getpid()


async def test_an_actor_is_restored_from_its_journal_without_its_constructor(hub: Hub, tmp_path: Path) -> None:
    """A class may change its constructor: an actor with a state is neither constructed again nor dead."""
    aged = await hub.spawn(Aged, str(tmp_path / "made"))
    assert await aged.next() == 1
    (tmp_path / "made").touch()
    await kill_worker(aged)
    assert await aged.next() == 2


def _absent(path: str) -> str:
    if Path(path).exists():
        raise ImportError(f"there is no module {path} here")
    return path


class _Needed:
    """Cannot be unpickled while there is a file at its path."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return _absent, (self.path,)


async def test_an_actor_with_a_state_survives_a_worker_that_cannot_load_its_class(hub: Hub, tmp_path: Path) -> None:
    """It waits until a worker can load its class, and has its state then."""

    @actor(durable=True)
    class ByValue:
        needed: Any = _Needed(str(tmp_path / "missing"))

        def __init__(self) -> None:
            self.count = 0

        async def next(self) -> int:
            self.count += 1
            return self.count

        async def pid(self) -> int:
            return os.getpid()

    by_value = await hub.spawn(ByValue)
    assert await by_value.next() == 1
    pid = await by_value.pid()
    (tmp_path / "missing").touch()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(CallTimeout), deadline(3.0):
        await by_value.next()
    (tmp_path / "missing").unlink()
    assert await by_value.pid() != pid
    assert await by_value.next() == 2
