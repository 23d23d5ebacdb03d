"""The package as users get it, built without a network, and machines to install it on."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_COMPILER = {"CC": "/bin/false", "CXX": "/bin/false"}
OFFLINE = (
    "--quiet",
    "--no-deps",
    "--no-index",
    "--no-build-isolation",
    "--disable-pip-version-check",
)


def run(*command: str | Path, directory: Path, env: dict[str, str] | None = None) -> str:
    """What a command prints; fails with what it said otherwise."""
    done = subprocess.run(
        command, cwd=directory, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def wheel_of(source: Path, out: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Builds a wheel of `source` into `out` with `env` on top of the environment."""
    return subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", out, source],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """An environment with bertd's dependencies, but neither bertd nor any program on its PATH."""

    home: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.home / "bin" / "python"

    def install(self, *what: str | Path, **env: str) -> None:
        """Installs there, with the programs of this machine at hand."""
        pip = (sys.executable, "-m", "pip", "--python", self.python, "install", *OFFLINE)
        run(*pip, *what, directory=self.home, env=os.environ | env)

    def ask(self, program: str) -> str:
        """What a Python program prints there."""
        env = {"PATH": str(self.python.parent), "HOME": str(self.home)}
        return run(self.python, "-c", program, directory=self.home, env=env)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A fresh machine without a compiler, which borrows this environment's other packages."""
    home = tmp_path / "machine"
    venv.create(home, with_pip=False, symlinks=True)
    found = Machine(home=home)
    site = Path(found.ask("import sysconfig; print(sysconfig.get_path('purelib'))"))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return found


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of this checkout, unpacked."""
    out = tmp_path_factory.mktemp("sdist")
    program = "import sys, scikit_build_core.build as b; b.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", program, out, directory=ROOT)
    (archive,) = out.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(out, filter="data")
    archive.unlink()
    (unpacked,) = out.iterdir()
    return unpacked


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the source distribution makes on this machine, with its compiler."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("there is no C++ compiler")
    out = tmp_path_factory.mktemp("wheel")
    done = wheel_of(source, out, {"BERTD_REQUIRE_KERNELS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="session")
def wheel_without_kernels(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the source distribution makes on a machine without a compiler."""
    out = tmp_path_factory.mktemp("wheel")
    done = wheel_of(source, out, NO_COMPILER)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.iterdir()
    return built
