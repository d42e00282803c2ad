"""What the distribution promises: its names, its weight at import, its contents, its layers."""

import inspect
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import actorhub
from actorhub import errors

ROOT = Path(__file__).parent.parent.parent


def python(code: str) -> str:
    """What the code prints in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_exports_what_its_all_names_and_nothing_else() -> None:
    exported = {
        name
        for name, value in vars(actorhub).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert exported == {name for name in actorhub.__all__ if not name.startswith("_")}
    assert len(actorhub.__all__) == len(set(actorhub.__all__))


def test_every_name_in_all_is_there() -> None:
    assert [name for name in actorhub.__all__ if not hasattr(actorhub, name)] == []


def test_public_classes_say_actorhub_as_their_module_and_errors_the_one_on_the_wire() -> None:
    public = {name: getattr(actorhub, name) for name in actorhub.__all__}
    classes = {name: value for name, value in public.items() if isinstance(value, type)}
    assert {name: cls.__module__ for name, cls in classes.items()} == {
        name: "actorhub.errors" if issubclass(cls, Exception) else "actorhub" for name, cls in classes.items()
    }
    for value in (actorhub.Retry(attempts=2), actorhub.ObjectRef("id", 1, "node", "queue")):
        assert b"actorhub\x94" in pickle.dumps(value)
        assert type(pickle.loads(pickle.dumps(value))) is type(value)


def test_the_package_exports_every_error() -> None:
    assert {cls.__name__ for cls in error_classes()} <= set(actorhub.__all__)


def error_classes() -> list[type[Exception]]:
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == errors.__name__
    ]


def drawn_tree(docstring: str) -> dict[str, str | None]:
    """Each class in the drawing, and the class that it hangs from."""
    parents: dict[str, str | None] = {}
    above: list[str] = []  # the last class drawn at each depth
    for line in docstring.splitlines():
        drawn = re.match(r"^    ((?:│   |    )*)(├── |└── )?([A-Z]\w+)", line)
        if drawn is None:
            continue
        depth = len(drawn[1]) // 4 + (1 if drawn[2] else 0)
        parents[drawn[3]] = above[depth - 1] if depth else None
        above[depth:] = [drawn[3]]
    return parents


def test_the_tree_of_errors_is_as_drawn() -> None:
    classes = error_classes()
    ours = {cls.__name__ for cls in classes}
    actual = {
        cls.__name__: next((base.__name__ for base in cls.__bases__ if base.__name__ in ours), None) for cls in classes
    }
    assert drawn_tree(errors.__doc__ or "") == actual


@pytest.mark.parametrize(
    "module",
    ["aio_pika", "aiormq", "pika", "prometheus_client", "typer", "rich", "actorhub_embedded", "actorhub_rabbitmq"],
)
def test_importing_the_package_does_not_import(module: str) -> None:
    assert python(f"import actorhub, sys; print({module!r} in sys.modules)").strip() == "False"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in the wheel, which is built as for a release."""
    directory = tmp_path_factory.mktemp("wheel")
    built = python(
        "from hatchling.builders.wheel import WheelBuilder; "
        f"print(*WheelBuilder({str(ROOT)!r}).build(directory={str(directory)!r}, versions=['standard']))"
    )
    with zipfile.ZipFile(built.strip()) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize("package", ["actorhub", "brokers/actorhub_embedded", "brokers/actorhub_rabbitmq"])
def test_the_wheel_holds_every_module_and_the_mark_of_a_typed_package(wheel: set[str], package: str) -> None:
    source = ROOT / package
    modules = {path.relative_to(source.parent).as_posix() for path in source.rglob("*.py")}
    assert modules
    assert modules <= wheel
    assert f"{source.name}/py.typed" in wheel


def test_the_wheel_holds_nothing_but_the_packages_and_the_license(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "actorhub",
        "actorhub_embedded",
        "actorhub_rabbitmq",
    }
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)


def test_imports_point_down_the_layers() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


LONGEST_FILE_LINES = 400


def test_no_file_holds_two_ideas() -> None:
    """A file of the package above 400 lines is to be split by idea."""
    files = [path for folder in ("actorhub", "brokers") for path in (ROOT / folder).rglob("*.py")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: count for name, count in lines.items() if count > LONGEST_FILE_LINES} == {}
