"""A tokenizer file."""

from pathlib import Path

import pytest

from tests import checkpoints


@pytest.fixture(name="tokenizer", scope="session")
def _tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    checkpoints.write(folder)
    return folder / "tokenizer.json"
