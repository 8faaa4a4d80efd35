"""Fixtures that several test files share."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import hypothesis
import pandas as pd
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# As the commands have it: beside pyarrow, pandas would refuse names that are not UTF-8.
pd.set_option("mode.string_storage", "python")

# On a busy machine any example may take long.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Give each of several workers a run of neighbors, and at the end half of what is left.

    Neighbors share what a module or the session makes once: tests dealt out one by one would make
    it in every worker.
    """
    if config.getoption("numprocesses", None) and config.getoption("dist") == "no":
        config.option.dist = "worksteal"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make what a test has logged or printed text that one worker can send to another process."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real audio and label files, which is not part of the project."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("QAMRO_SHARED_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (see data/README.md; set QAMRO_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def clap_reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """laion_clap's own module with random weights, and its checkpoint (takes some seconds)."""
    pytest.importorskip("torchlibrosa", reason="laion-clap is not installed")
    from clap_reference import make_reference

    return make_reference(tmp_path_factory.mktemp("clap"))


@pytest.fixture(scope="session")
def audiobox_reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """audiobox-aesthetics' own predictor with random weights, and both forms of checkpoint."""
    pytest.importorskip("audiobox_aesthetics")
    from audiobox_reference import make_reference

    return make_reference(tmp_path_factory.mktemp("audiobox"))


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The heads of each stack that is trained, as they are made."""
    from qamro_cache.training import fit

    made: list[int] = []

    class Counted(fit.Stack):
        def __init__(self, inputs: Any, jobs: Any, *args: Any, **more: Any) -> None:
            made.append(len(jobs))
            super().__init__(inputs, jobs, *args, **more)

    monkeypatch.setattr(fit, "Stack", Counted)
    return made
