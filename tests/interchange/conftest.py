"""One base for the room, saved once, and a fine-tuned twin of it."""

from pathlib import Path
from typing import Any

import pytest

from bertd.engine import session
from bertd.interchange import records
from tests.interchange import making


@pytest.fixture(scope="session")
def model() -> Any:
    """Model T, the base."""
    return making.model_t()


@pytest.fixture(scope="session")
def tuned(model: Any) -> Any:
    """Model T with every bias moved and another head."""
    return making.moved(model, seed=1)


@pytest.fixture(scope="session")
def base_folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base's directory."""
    return making.save(tmp_path_factory.mktemp("base"), model)


@pytest.fixture(scope="session")
def opened(base_folder: Path) -> records.Opened:
    """The base as the importer opens it."""
    return records.open_base(str(base_folder))


@pytest.fixture(scope="session")
def served(base_folder: Path) -> session.Session:
    """The engine with this base."""
    return session.Session.open(str(base_folder))
