"""The house as it is described: doors, walls, sizes, and the promises that tests keep."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "bertd"
LINES_OF_A_FUNCTION = 70
LINES_OF_A_MODULE = 500
# What this release promises, by the ids of its reference checks.
CHECKS = (
    *(f"B{n}" for n in range(1, 13)),
    *(f"D{n}" for n in range(1, 17)),
    "F1",
    "F3",
    "F4",
    "F6",
    "F7",
)
CHECKLIST = (*range(1, 12), 48, *range(54, 59), *range(64, 72), *range(84, 89))


def sources() -> list[Path]:
    """Every hand-written module."""
    return [path for path in PACKAGE.rglob("*.py") if "_pb2" not in path.name]


def docstrings() -> Iterator[str]:
    """The docstring of every test function."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""


@pytest.mark.parametrize("door", sorted(PACKAGE.glob("*/__init__.py")), ids=lambda p: p.parent.name)
def test_the_door_of_a_room_is_its_law(door: Path) -> None:
    """A room's `__init__` is a docstring alone: what it is for and what it may import."""
    body = ast.parse(door.read_text()).body
    assert len(body) == 1
    assert ast.get_docstring(ast.parse(door.read_text()))


def test_the_import_contracts_hold() -> None:
    """Rooms import downward only, and the front reaches no room of the worker."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_front_imports_no_torch() -> None:
    """The whole front can be imported without torch or transformers (checklist 71)."""
    program = (
        "import sys, bertd.daemon, bertd.cli.main\n"
        "assert not {'torch', 'transformers', 'safetensors'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_functions_fit_on_a_screen_and_modules_stay_small() -> None:
    """No function has more than 70 lines, no module more than 500."""
    for path in sources():
        text = path.read_text()
        assert text.count("\n") <= LINES_OF_A_MODULE, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                # From the first statement: a verb's options are declarations, not code.
                lines = (node.end_lineno or 0) - node.body[0].lineno + 1
                assert lines <= LINES_OF_A_FUNCTION, f"{path}:{node.name}"


@pytest.mark.parametrize("check", CHECKS)
def test_a_promised_check_is_named_by_a_test(check: str) -> None:
    """Every promised acceptance check stands in the docstring of a test."""
    assert any(re.search(rf"\b{check}\b", text) for text in docstrings())


def test_the_promised_checklist_is_named_by_tests() -> None:
    """Every promised item of the reliability checklist stands in the docstring of a test."""
    named = {
        int(number)
        for text in docstrings()
        for group in re.findall(r"checklist ([0-9 ,]+)", text)
        for number in re.findall(r"\d+", group)
    }
    assert set(CHECKLIST) - named == set()
