"""What a user's `pip install` gives, with a compiler and without; `make packaging` runs this."""

import platform
import shutil
import zipfile
from pathlib import Path

import pytest

from tests.packaging import conftest
from tests.packaging.conftest import Machine

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(1800)]

LIBRARY = "bertd/kernels/libbertd_kernels.so"
OPENED = "from bertd.kernels import native; print(native.open_library() is not None)"
REASON = "from bertd.kernels import native; print(native.reason())"
BORDER = {"libc.so", "libm.so", "libpthread.so", "ld-linux-x86-64.so", "ld-linux-aarch64.so"}


def contents(wheel: Path) -> set[str]:
    """The paths in a wheel."""
    with zipfile.ZipFile(wheel) as packed:
        return set(packed.namelist())


def modules_of(root: Path) -> set[str]:
    """The package's modules below a directory, by path."""
    return {str(path.relative_to(root)) for path in (root / "bertd").rglob("*.py")}


def test_the_source_distribution_holds_the_kernels_sources_and_nothing_built(source: Path) -> None:
    """Every file that the library is made of is there, with the tests, and no library is."""
    made_of = (conftest.ROOT / "bertd" / "kernels" / "native").iterdir()
    held = {str(path.relative_to(source)) for path in source.rglob("*")}
    assert {str(path.relative_to(conftest.ROOT)) for path in made_of} <= held
    assert {"CMakeLists.txt", "LICENSE", "proto", "tests/tiny.py"} <= held
    assert not [path for path in held if path.endswith((".so", ".o", ".pyc"))]


def test_a_wheel_fits_every_python_of_its_platform(wheel: Path) -> None:
    """It is tagged `py3-none-linux_...` and holds all modules and the library, not its sources."""
    assert wheel.name.endswith(f"-py3-none-linux_{platform.machine()}.whl")
    held = contents(wheel)
    assert modules_of(conftest.ROOT) <= held
    assert LIBRARY in held
    assert not [path for path in held if path.startswith("bertd/kernels/native/")]


def test_kernels_answer_where_there_is_no_compiler(wheel: Path, machine: Machine) -> None:
    """Installed on a machine with no program on its PATH, the wheel's library opens."""
    machine.install(wheel)
    assert machine.ask(OPENED) == "True"
    assert machine.ask(REASON) == ""


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
def test_the_library_needs_nothing_but_the_c_library(wheel: Path, tmp_path: Path) -> None:
    """It brings its C++ runtime, and shows the process nothing of it."""
    with zipfile.ZipFile(wheel) as packed:
        library = packed.extract(LIBRARY, tmp_path)
    dynamic = conftest.run("readelf", "--dynamic", library, directory=tmp_path)
    needed = [line.split("[")[1] for line in dynamic.splitlines() if "(NEEDED)" in line]
    assert {name.split(".so")[0] + ".so" for name in needed} <= BORDER
    symbols = conftest.run("readelf", "--dyn-syms", "--wide", library, directory=tmp_path)
    rows = [line.split() for line in symbols.splitlines() if line.strip()[:1].isdigit()]
    shown = [row[7] for row in rows if row[4] != "LOCAL" and row[6] != "UND"]
    assert shown
    assert all(name.startswith("bertd_") for name in shown), shown


def test_no_compiler_gives_a_package_without_kernels(
    wheel_without_kernels: Path, machine: Machine
) -> None:
    """A source install without a compiler succeeds, and the package says what it lacks."""
    assert wheel_without_kernels.name.endswith("-py3-none-any.whl")
    held = contents(wheel_without_kernels)
    assert modules_of(conftest.ROOT) <= held
    assert LIBRARY not in held
    machine.install(wheel_without_kernels)
    assert machine.ask(OPENED) == "False"
    assert "compiler" in machine.ask(REASON)


def test_kernels_may_be_required(source: Path, tmp_path: Path) -> None:
    """With `BERTD_REQUIRE_KERNELS=1` there is no package where there is no compiler."""
    done = conftest.wheel_of(
        source, tmp_path, conftest.NO_COMPILER | {"BERTD_REQUIRE_KERNELS": "1"}
    )
    assert done.returncode != 0
    assert "CMake configuration failed" in done.stdout + done.stderr


def test_kernels_that_do_not_compile_give_a_package_without_them(
    source: Path, tmp_path: Path
) -> None:
    """A compiler too old for the sources is as good as none."""
    copy = Path(shutil.copytree(source, tmp_path / "source"))
    (copy / "bertd" / "kernels" / "native" / "abi.h").write_text("#error too old\n")
    done = conftest.wheel_of(copy, tmp_path / "out", {})
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name[-17:] for path in (tmp_path / "out").iterdir()] == ["-py3-none-any.whl"]


@pytest.mark.parametrize("env", [{}, conftest.NO_COMPILER], ids=["compiler", "no-compiler"])
def test_an_editable_install_is_its_checkout(
    env: dict[str, str], source: Path, machine: Machine, tmp_path: Path
) -> None:
    """The library, if any, lies beside `native.py`; a new module needs no new install."""
    checkout = Path(shutil.copytree(source, tmp_path / "checkout"))
    quickly = ("--config-settings", "cmake.build-type=Debug")
    machine.install("--editable", checkout, *quickly, **env)
    there = machine.ask("from bertd.kernels import native; print(native.__file__)")
    assert there == str(checkout / "bertd" / "kernels" / "native.py")
    assert machine.ask(OPENED) == str((checkout / LIBRARY).exists()) == str(not env)
    (checkout / "bertd" / "newcomer.py").write_text("ANSWER = 42\n")
    assert machine.ask("from bertd import newcomer; print(newcomer.ANSWER)") == "42"
