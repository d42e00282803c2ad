"""The object store of a node: what comes back, what is not copied, who dies, and what is full."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from array import array
from collections.abc import Iterator
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from actorhub import ActorHubError, NotSerialisable, ObjectLost, StoreFull, UntrustedPayload
from actorhub.objects import location
from actorhub.objects.location import remove_if_owner_is_gone, sweep
from actorhub.objects.remote_storage import RemoteStorage
from actorhub.objects.store import ALIGNMENT_BYTES, ObjectStore, Usage

ROOT = Path(__file__).parent.parent.parent
MB = 1_000_000
MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None


class Order(BaseModel):
    number: int
    lines: list[str]


class Shape:
    def __init__(self, points: np.ndarray) -> None:
        self.points = points
        self.name = "shape"


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """Where the stores of a test go: in shared memory if there is some."""
    if MEMORY is None:
        yield tmp_path
        return
    directory = MEMORY / f"test-{os.getpid()}-{tmp_path.name}"
    directory.mkdir(0o700)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    directory = tmp_path / "disk"
    directory.mkdir()
    return directory


@pytest.fixture
def store(base: Path, disk: Path) -> Iterator[ObjectStore]:
    made = ObjectStore.create("test", "node", base=base, spill=disk, capacity=200 * MB, spill_capacity=200 * MB)
    yield made
    made.close()


def small_store(base: Path, disk: Path, *, spill_capacity: int = 100 * MB) -> ObjectStore:
    """Three megabytes and a little."""
    return ObjectStore.create("test", "small", base=base, spill=disk, capacity=3_200_000, spill_capacity=spill_capacity)


def megabyte(number: int) -> np.ndarray:
    return np.full(MB // 8, number, dtype=np.int64)


def files(base: Path, disk: Path) -> list[str]:
    """Of objects and drafts, wherever they are."""
    return [
        path.name
        for place in (base, disk)
        for kind in ("objects", "drafts")
        for path in place.glob(f"actorhub-*/{kind}/*")
    ]


def files_of(path: Path) -> set[str]:
    return {found.name for found in path.rglob("*") if found.is_file()}


def in_a_process(code: str, *arguments: object) -> str:
    """What the code prints in an interpreter of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def process(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of that code which has printed its first line; it is to be killed."""
    started = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert started.stdout is not None
    assert started.stdout.readline().strip() == "ready"
    return started


def kill(started: subprocess.Popen[str]) -> None:
    started.kill()
    started.wait()
    assert started.stdout is not None
    started.stdout.close()


def mapping_of(address: int) -> str:
    """The line of this process's map of memory for an address."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            return line
    raise AssertionError("the address is mapped nowhere")


def address_of(value: np.ndarray) -> int:
    return int(value.__array_interface__["data"][0])


# -- what comes back


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.binary(max_size=50)
    | st.binary(min_size=1, max_size=3).map(lambda some: some * 40_000)
    | st.integers(0, 40_000).map(lambda length: np.arange(length, dtype=np.float64))
    | st.integers(0, 30).map(lambda side: np.asfortranarray(np.arange(side * side).reshape(side, side)))
    | st.integers(2, 50).map(lambda length: np.arange(length)[::2]),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5) | st.tuples(inner)
    ),
    max_leaves=10,
)


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(value=VALUES)
def test_what_is_put_comes_back(store: ObjectStore, value: object) -> None:
    object_id, size = store.put(value)
    assert same(store.get(object_id), value)
    assert store.size(object_id) == size == len(store.view(object_id)) == len(store.read(object_id, 0, size + 1))
    assert store.free(object_id)
    assert store.usage() == Usage(0, 0)


@pytest.mark.parametrize(
    "value",
    [
        Order(number=1, lines=["a", "b"]),
        {"layers": [{"weights": np.ones((30, 40)), "bias": np.zeros(40)} for _ in range(3)]},
        {f"array {number}": np.full(3, number) for number in range(3000)},
        bytearray(b"changeable" * 20_000),
        "ä" * 100_000,
        b"",
    ],
    ids=["model", "layers", "more buffers than one system call takes", "bytearray", "text", "empty"],
)
def test_nested_and_large_values_come_back(store: ObjectStore, value: object) -> None:
    assert same(store.get(store.put(value).id), value)


def test_an_object_s_attributes_come_back(store: ObjectStore) -> None:
    back = store.get(store.put(Shape(np.arange(100_000))).id)
    assert back.name == "shape"
    assert np.array_equal(back.points, np.arange(100_000))


def test_another_process_reads_what_this_one_wrote(store: ObjectStore) -> None:
    object_id = store.put({"matrix": np.arange(100_000)}).id
    code = """if True:
        import sys
        from pathlib import Path
        from actorhub.objects.store import ObjectStore
        matrix = ObjectStore.open(Path(sys.argv[1])).get(sys.argv[2])["matrix"]
        print(int(matrix.sum()), matrix.flags.writeable)
    """
    assert in_a_process(code, store.path, object_id) == "4999950000 False"


def test_arrays_are_read_only_and_begin_at_a_cache_line(store: ObjectStore) -> None:
    for value in ([np.arange(3), np.arange(50_000)], [np.arange(3), np.ones(5)]):
        for back in store.get(store.put(value).id):
            assert not back.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                back[0] = 7
    first, second = store.get(store.put([np.arange(3), np.arange(50_000)]).id)
    assert address_of(first) % ALIGNMENT_BYTES == address_of(second) % ALIGNMENT_BYTES == 0


# -- what is not copied


def test_an_array_that_is_read_lies_in_the_store_s_own_file(store: ObjectStore) -> None:
    object_id = store.put({"array": np.arange(10 * MB)}).id
    tracemalloc.start()
    back = store.get(object_id)["array"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MB
    line = mapping_of(address_of(back))
    assert line.endswith(f"{store.path}/objects/{object_id}")
    assert line.split()[1] == "r--s", "shared, and only to be read"


@pytest.mark.parametrize(
    "value",
    [np.arange(4 * MB), bytes(32 * MB), [np.arange(MB) for _ in range(4)], bytearray(32 * MB)],
    ids=["array", "bytes", "arrays", "bytearray"],
)
def test_a_value_that_is_put_is_not_copied_on_its_way(store: ObjectStore, value: object) -> None:
    store.put(1)  # what is imported at first use
    tracemalloc.start()
    store.put(value)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MB


def test_a_view_lives_on_when_its_object_is_freed(store: ObjectStore) -> None:
    object_id = store.put(np.arange(MB)).id
    back = store.get(object_id)[10:]
    assert store.free(object_id)
    assert not store.free(object_id)
    gc.collect()
    assert "(deleted)" in mapping_of(address_of(back))
    assert int(back.sum()) == sum(range(10, MB))
    with pytest.raises(ObjectLost):
        store.get(object_id)


def test_a_view_lives_on_when_its_store_is_gone(store: ObjectStore) -> None:
    back = store.get(store.put(np.arange(MB)).id)
    store.close()
    assert int(back.sum()) == sum(range(MB))


def test_a_mapping_ends_with_the_last_view_of_it(store: ObjectStore) -> None:
    object_id = store.put([np.arange(MB), np.arange(MB)]).id
    first, second = store.get(object_id)
    del first
    assert str(store.path) in Path("/proc/self/maps").read_text()
    del second
    assert str(store.path) not in Path("/proc/self/maps").read_text()


# -- objects that arrive in pieces


def test_an_object_is_written_in_pieces_in_any_order(base: Path, disk: Path, store: ObjectStore) -> None:
    object_id, size = store.put({"array": np.arange(MB)})
    other = ObjectStore.create("test", "other", base=base, spill=disk, capacity=200 * MB, spill_capacity=200 * MB)
    with other.begin(object_id, size) as writer:
        for offset in reversed(range(0, size, 70_001)):
            assert not other.contains(object_id), "nobody sees it before it is whole"
            writer.write(offset, memoryview(store.read(object_id, offset, 70_001)))
        writer.commit()
    assert np.array_equal(other.get(object_id)["array"], np.arange(MB))
    assert other.ids() == [object_id]
    other.close()


def test_what_is_aborted_or_fails_leaves_nothing(base: Path, disk: Path, store: ObjectStore) -> None:
    store.begin("one", 5000).abort()
    with store.begin("two", 5000) as writer:
        writer.write(0, memoryview(b"x" * 5000))
    with pytest.raises(ValueError, match="bytes 4,999 to 5,001 are not within object three of 5,000 bytes"):  # noqa: SIM117
        with store.begin("three", 5000) as writer:
            writer.write(4999, memoryview(b"xx"))
    assert files(base, disk) == []
    assert store.usage() == Usage(0, 0)


def test_a_writer_ends_once(store: ObjectStore) -> None:
    writer = store.begin("one", 1)
    writer.write(0, memoryview(b"x"))
    writer.commit()
    writer.abort()
    assert store.contains("one")
    for call in (writer.commit, lambda: writer.write(0, memoryview(b"x"))):
        with pytest.raises(ValueError, match="object one was committed or aborted already; begin it again"):
            call()


def test_an_object_that_two_bring_at_once_is_kept_once(store: ObjectStore) -> None:
    data = memoryview(bytes(store.view(store.put(np.arange(9000)).id)))
    taken = store.usage().memory
    one, two = store.begin("same", len(data)), store.begin("same", len(data))
    for writer in (one, two):
        writer.write(0, data)
        writer.commit()
    assert np.array_equal(store.get("same"), np.arange(9000))
    assert store.usage().memory == 2 * taken


@pytest.mark.parametrize("bad", ["", "../escape", "a/b", ".", "x" * 101])
def test_an_id_cannot_lead_out_of_the_store(store: ObjectStore, bad: str) -> None:
    for call in (store.get, store.free, store.size, store.contains, lambda name: store.begin(name, 1)):
        with pytest.raises(ValueError, match=r"the object id .* is not a valid name"):
            call(bad)


def test_an_object_has_a_size(store: ObjectStore) -> None:
    with pytest.raises(ValueError, match="object x cannot have 0 bytes"):
        store.begin("x", 0)


# -- several processes


def write_and_read(path: Path, seed: int) -> dict[str, int]:
    """Puts, reads and frees; what is left, and what it holds."""
    store = ObjectStore.open(path)
    left: dict[str, int] = {}
    for number in range(60):
        value = seed * 1000 + number
        object_id = store.put(np.full(500 * (1 + number % 40), value)).id
        assert (store.get(object_id) == value).all()
        if number % 3:
            left[object_id] = value
        else:
            assert store.free(object_id)
    return left


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with multiprocessing.get_context("spawn").Pool(4) as made:
        yield made


@pytest.mark.parametrize("capacity", [200 * MB, 2 * MB], ids=["in memory", "spilling all the time"])
def test_many_processes_write_read_and_free_at_once(base: Path, disk: Path, pool: Pool, capacity: int) -> None:
    store = ObjectStore.create("test", "busy", base=base, spill=disk, capacity=capacity, spill_capacity=200 * MB)
    expected: dict[str, int] = {}
    for left in pool.starmap(write_and_read, [(store.path, seed) for seed in range(8)]):
        expected |= left
    assert set(store.ids()) == set(expected)
    assert all((store.get(object_id) == value).all() for object_id, value in expected.items())
    kept = store.usage()
    assert kept.memory <= capacity
    assert (kept.disk > 0) == (capacity < 200 * MB)
    store.collect()
    assert store.usage() == kept, "what they kept count of is what there is"
    for object_id in expected:
        assert store.free(object_id)
    assert store.usage() == Usage(0, 0)
    store.close()


def test_threads_write_at_once(store: ObjectStore) -> None:
    found: list[dict[str, int]] = []
    threads = [threading.Thread(target=lambda: found.append(write_and_read(store.path, 1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.ids()) == sum(map(len, found)) == 4 * 40


WRITER = """if True:
    import signal, sys
    from pathlib import Path
    from actorhub.objects.store import ObjectStore
    writer = ObjectStore.open(Path(sys.argv[1])).begin("half", 50_000_000)
    writer.write(0, memoryview(bytes(20_000_000)))
    print("ready", flush=True)
    signal.pause()
"""


def test_a_writer_that_is_killed_leaves_nothing_that_counts(base: Path, disk: Path, store: ObjectStore) -> None:
    writer = process(WRITER, store.path)
    assert store.usage().memory > 50 * MB
    store.collect()
    assert store.usage().memory > 50 * MB, "it lives"
    kill(writer)
    assert not store.contains("half")
    store.collect()
    assert store.usage() == Usage(0, 0)
    assert files(base, disk) == []


def test_a_killed_writer_s_bytes_are_there_for_the_next(base: Path, disk: Path) -> None:
    store = ObjectStore.create("test", "node", base=base, spill=disk, capacity=60 * MB, spill_capacity=0)
    kill(process(WRITER, store.path))
    assert store.contains(store.put(bytes(50 * MB)).id)
    store.close()


LOCK_HOLDER = """if True:
    import signal, sys
    from pathlib import Path
    from actorhub.objects.store import ObjectStore
    store = ObjectStore.open(Path(sys.argv[1]))
    with store._room._ledger.open() as taken:
        for shelf in taken:
            taken[shelf] = 12345
        print("ready", flush=True)
        signal.pause()
"""


def test_the_count_is_right_after_a_process_was_killed_while_it_changed_it(store: ObjectStore) -> None:
    store.put(bytes(100_000))
    before = store.usage()
    kill(process(LOCK_HOLDER, store.path))
    assert store.usage() == before


# -- the owner


OWNER = """if True:
    import signal, sys
    from pathlib import Path
    from actorhub.objects.store import ObjectStore
    base, disk = map(Path, sys.argv[1:])
    store = ObjectStore.create("test", "killed", base=base, spill=disk, capacity=1_000_000, spill_capacity=100_000_000)
    store.put(bytes(900_000))
    store.put(bytes(900_000))
    assert store.usage().disk > 900_000
    print("ready", flush=True)
    signal.pause()
"""


@pytest.fixture
def owner(base: Path, disk: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with a store of its own, and an object of it on disk."""
    started = process(OWNER, base, disk)
    yield started
    kill(started)


def test_a_store_whose_owner_was_killed_is_swept(
    base: Path, disk: Path, store: ObjectStore, owner: subprocess.Popen[str]
) -> None:
    assert sweep(base, disk) == [], "both owners live"
    kept = store.put(1).id
    kill(owner)
    assert {path.name for path in sweep(base, disk)} == {"actorhub-test-killed", "actorhub-test-killed.spilled"}
    assert sorted(os.listdir(base)) == ["actorhub-test-node"]
    assert sorted(os.listdir(disk)) == ["actorhub-test-node.spilled"]
    assert store.get(kept) == 1


def test_workers_remove_the_store_of_an_agent_that_is_gone(
    base: Path, disk: Path, owner: subprocess.Popen[str]
) -> None:
    path = base / "actorhub-test-killed"
    worker = ObjectStore.open(path)
    assert not remove_if_owner_is_gone(path), "it lives"
    kill(owner)
    assert remove_if_owner_is_gone(path)
    assert not remove_if_owner_is_gone(path), "another worker did so"
    assert os.listdir(base) == os.listdir(disk) == []
    with pytest.raises(ObjectLost, match=r"the object store .*actorhub-test-killed is gone"):
        worker.put(1)
    with pytest.raises(ObjectLost, match="is gone"):
        ObjectStore.open(path)
    with pytest.raises(ObjectLost, match="object x is not on node killed"):
        worker.get("x")
    assert not worker.free("x")
    assert not worker.contains("x")


def test_a_node_that_starts_again_under_its_name_takes_the_place_of_a_killed_one(
    base: Path, disk: Path, owner: subprocess.Popen[str]
) -> None:
    with pytest.raises(ActorHubError, match=r"actorhub-test-killed.* belongs to a living process; stop that one"):
        ObjectStore.create("test", "killed", base=base, spill=disk)
    assert len(ObjectStore.open(base / "actorhub-test-killed").ids()) == 2
    kill(owner)
    again = ObjectStore.create("test", "killed", base=base, spill=disk)
    assert again.ids() == []
    again.close()
    assert os.listdir(base) == os.listdir(disk) == []


def test_what_is_left_of_one_killed_while_it_made_or_removed_a_store_is_swept_later(base: Path, disk: Path) -> None:
    left, new = base / ".actorhub-test-left.abc", base / ".actorhub-test-new.abc"
    left.mkdir(0o700)
    new.mkdir(0o700)
    (left / "objects").mkdir()
    os.utime(left, (time.time() - 3600,) * 2)
    sweep(base, disk)
    assert os.listdir(base) == [new.name]


def test_sweeping_leaves_alone_what_is_no_store(base: Path, disk: Path) -> None:
    (base / "actorhub-notes").mkdir(0o700)
    (base / "actorhub-file").write_text("x")
    (base / "actorhub-link").symlink_to(disk)
    assert sweep(base, disk) == []
    assert len(os.listdir(base)) == 3


def test_a_child_that_was_forked_from_the_owner_does_not_remove_the_store(store: ObjectStore) -> None:
    code = """if True:
        import os, sys
        from pathlib import Path
        from actorhub.objects.store import ObjectStore
        base, disk = map(Path, sys.argv[1:])
        store = ObjectStore.create("test", "forking", base=base, spill=disk)
        child = os.fork()
        if not child:
            store.close()
            os._exit(0)
        os.waitpid(child, 0)
        print(store.path.exists())
        store.close()
        print(store.path.exists())
    """
    assert in_a_process(code, store.path.parent, store._site.disk.parent).split() == ["True", "False"]


def test_only_the_user_can_enter_a_store(store: ObjectStore) -> None:
    object_id = store.put(bytes(100_000)).id
    for path in (store.path, store._site.disk):
        assert path.stat().st_mode & 0o777 == 0o700
    assert (store.path / "objects" / object_id).stat().st_mode & 0o777 == 0o600


def test_a_store_that_others_could_write_is_refused(store: ObjectStore) -> None:
    store.path.chmod(0o755)
    with pytest.raises(UntrustedPayload, match=r"drwxr-xr-x\); run all processes of a node as one user"):
        ObjectStore.open(store.path)
    store.path.chmod(0o700)
    store._site.disk.chmod(0o777)
    with pytest.raises(UntrustedPayload, match=r"\.spilled is not a directory that only user"):
        ObjectStore.open(store.path)


def test_the_names_of_a_store_are_words(base: Path, disk: Path) -> None:
    with pytest.raises(ValueError, match=r"the node '\.\./other' is not a valid name"):
        ObjectStore.create("test", "../other", base=base, spill=disk)


# -- capacity


def test_the_least_recently_used_objects_go_to_disk(base: Path, disk: Path) -> None:
    store = small_store(base, disk)
    first, second, third = (store.put(megabyte(number)).id for number in range(3))
    assert files_of(disk) == {"actorhub-owner.lock"}
    store.get(first)
    store.size(second)
    assert store.contains(second), "to ask about an object is not to use it"
    fourth = store.put(megabyte(3)).id
    assert files_of(disk) == {"actorhub-owner.lock", second}
    store.read(third, 0, 1)
    store.put(megabyte(4))
    assert files_of(disk) == {"actorhub-owner.lock", second, first}
    assert [store.get(object_id)[0] for object_id in (first, second, third, fourth)] == [0, 1, 2, 3]
    assert len(store.ids()) == 5
    assert store.usage() == Usage(3 * 1_003_520, 2 * 1_003_520)
    assert all(store.free(object_id) for object_id in store.ids())
    assert files(base, disk) == []
    store.close()


def test_a_spilled_object_is_mapped_from_disk_and_those_who_read_it_in_memory_go_on(base: Path, disk: Path) -> None:
    store = small_store(base, disk)
    first = store.put(megabyte(7)).id
    before = store.get(first)
    for number in range(3):
        store.put(megabyte(number))
    after = store.get(first)
    assert "(deleted)" in mapping_of(address_of(before))
    assert mapping_of(address_of(after)).endswith(f"{disk}/actorhub-test-small.spilled/objects/{first}")
    assert np.array_equal(before, after)
    assert not after.flags.writeable
    store.close()


def test_an_object_larger_than_memory_s_share_goes_to_disk_at_once_and_moves_nothing(base: Path, disk: Path) -> None:
    store = small_store(base, disk)
    small = store.put(megabyte(1)).id
    large = store.put(bytes(5 * MB)).id
    assert files_of(disk) == {"actorhub-owner.lock", large}
    assert store.get(large) == bytes(5 * MB)
    assert store.get(small)[0] == 1
    store.close()


def test_a_full_store_says_what_is_taken_and_leaves_nothing_behind(base: Path, disk: Path) -> None:
    store = small_store(base, disk, spill_capacity=2_100_000)
    kept = [store.put(megabyte(number)).id for number in range(5)]
    with pytest.raises(StoreFull) as caught:
        store.put(megabyte(5))
    assert str(caught.value) == (
        "1,000,192 bytes do not fit the object store of node small: 3,010,560 of 3,200,000 bytes are taken in memory, and "
        "2,007,040 of 2,100,000 on disk, or the disk itself is full; free objects, or start the node with a larger capacity "
        "or spill_capacity"
    )
    assert sorted(files(base, disk)) == sorted(kept)
    assert [store.get(object_id)[0] for object_id in kept] == list(range(5))
    store.free(kept[0])
    store.put(megabyte(5))
    store.close()


def full(monkeypatch: pytest.MonkeyPatch, place: Path, code: int = errno.ENOSPC) -> None:
    """From now on the file system of `place` is full."""
    allocate = os.posix_fallocate

    def refuse(file: int, offset: int, length: int) -> None:
        if os.readlink(f"/proc/self/fd/{file}").startswith(str(place)):
            raise OSError(code, os.strerror(code))
        allocate(file, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", refuse)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.ENOMEM])
def test_a_shared_memory_that_others_have_filled_sends_objects_to_disk(
    base: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store = small_store(base, disk)
    full(monkeypatch, base, code)
    object_id = store.put(megabyte(1)).id
    assert files_of(disk) == {"actorhub-owner.lock", object_id}
    assert store.usage() == Usage(0, 1_003_520)
    full(monkeypatch, disk, code)
    with pytest.raises(StoreFull, match="or the disk itself is full"):
        store.put(megabyte(2))
    assert files(base, disk) == [object_id]
    assert store.usage() == Usage(0, 1_003_520)
    store.close()


def test_another_failure_of_the_file_system_is_not_taken_for_a_full_one(
    base: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = small_store(base, disk)
    full(monkeypatch, base, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        store.put(megabyte(1))
    assert files(base, disk) == []
    assert store.usage() == Usage(0, 0)
    store.close()


def test_a_really_full_shared_memory_is_an_error_and_not_a_signal(tmp_path: Path) -> None:
    code = """if True:
        import os, sys
        from pathlib import Path
        from actorhub import StoreFull
        from actorhub.objects.store import ObjectStore
        base = Path(sys.argv[1])
        (base / "disk").mkdir()
        store = ObjectStore.create("test", "tiny", base=base, spill=base / "disk", capacity=10**9, spill_capacity=10**9)
        kept = [store.put(bytes(1_000_000)).id for _ in range(3)]
        try:
            store.put(bytes(2_000_000))
        except StoreFull:
            print("full")
        print(len(store.ids()) == 3 and all(store.get(each) == bytes(1_000_000) for each in kept))
    """
    shell = 'mount -t tmpfs -o size=4m tmpfs "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "-Urm", "sh", "-c", shell, "sh", str(tmp_path), sys.executable, code]
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", "true"], check=False).returncode:
        pytest.skip("this system lets us mount nothing; run as root, or allow user namespaces")
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["full", "True"]), done.stderr


def test_the_default_capacity_is_a_share_of_what_the_container_may_use(
    base: Path, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "limit").write_text("100000000\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(location, "_LIMITS", [str(tmp_path / name) for name in ("limit", "none", "missing")])
    store = ObjectStore.create("test", "contained", base=base, spill=disk)
    assert store._site.capacity == 30 * MB
    assert store._site.spill_capacity > 0
    store.close()


# -- what cannot be


def test_what_cannot_be_pickled_is_named_and_leaves_nothing(base: Path, disk: Path, store: ObjectStore) -> None:
    with pytest.raises(NotSerialisable, match=r"^the model\['layers'\]\[1\] cannot be sent: lock is not picklable"):
        store.put({"layers": [np.ones(3), threading.Lock()]}, "the model")
    assert files(base, disk) == []


def test_a_lost_object_names_the_node_and_itself(store: ObjectStore) -> None:
    for call in (store.get, store.view, store.size, lambda name: store.read(name, 0, 1)):
        with pytest.raises(
            ObjectLost, match=r"^object gone is not on node node: it was freed, or the node has started anew"
        ):
            call("gone")


def test_an_object_whose_class_is_unknown_here_is_an_error_that_says_so(store: ObjectStore) -> None:
    data = bytes(store.view(store.put(Order(number=1, lines=[])).id)).replace(b"Order", b"Xrder")
    with store.begin("renamed", len(data)) as writer:
        writer.write(0, memoryview(data))
        writer.commit()
    with pytest.raises(NotSerialisable, match="object renamed cannot be unpickled here: AttributeError"):
        store.get("renamed")


def test_standard_arrays_and_buffers_come_back_as_views(store: ObjectStore) -> None:
    back = store.get(store.put(pickle.PickleBuffer(array("d", [1.5] * 50_000))).id)
    assert back.readonly
    assert back.cast("B").cast("d")[49_999] == 1.5


# -- a URL


@pytest.fixture(params=["file", "memory"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> RemoteStorage:
    return RemoteStorage(f"{request.param}://{tmp_path}/remote")


def test_an_object_goes_to_a_url_and_comes_back(store: ObjectStore, remote: RemoteStorage) -> None:
    object_id, size = store.put({"array": np.arange(50_000)})
    view = store.view(object_id)
    assert remote.write(object_id, (view[start : start + 100_000] for start in range(0, size, 100_000))) == size
    store.free(object_id)
    assert remote.size(object_id) == size
    assert remote.read(object_id, 10, 100) == view[10:110]
    with store.begin(object_id, size) as writer:
        for start in range(0, size, 150_000):
            writer.write(start, memoryview(remote.read(object_id, start, 150_000)))
        writer.commit()
    assert np.array_equal(store.get(object_id)["array"], np.arange(50_000))
    assert remote.read(object_id) == store.view(object_id)
    remote.delete(object_id)
    remote.delete(object_id)
    for call in (remote.read, remote.size):
        with pytest.raises(ObjectLost, match=rf"object {object_id} is not at {re.escape(remote.url)}"):
            call(object_id)


def test_what_fails_on_its_way_to_a_url_is_not_there(remote: RemoteStorage) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise ObjectLost("freed in the midst of it")

    with pytest.raises(ObjectLost, match="in the midst"):
        remote.write("half", pieces())
    with pytest.raises(ObjectLost, match="object half is not at"):
        remote.read("half")
    assert remote._files.find(remote._root) == []


def test_a_url_that_nothing_speaks_is_an_error_that_hides_the_password() -> None:
    with pytest.raises(ValueError, match=r"objects cannot be kept at nothing://\*\*\*@host/x: .*; fsspec knows s3://"):
        RemoteStorage("nothing://user:password@host/x")


def test_without_fsspec_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "fsspec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ActorHubError, match=r"pip install 'actorhub-mq\[remote\]'"):
        RemoteStorage("memory://x")
