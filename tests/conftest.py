"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real audio and label files, which is not part of the project."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("QAMRO_SHARED_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (see data/README.md; set QAMRO_SHARED_DATA)")
    return folder
