"""The README's examples run as they stand, in order, in one empty folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def examples() -> list[tuple[str, str]]:
    text = (ROOT / "README.md").read_text()
    return re.findall(r"<!-- tested -->\n```(\w+)\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
def test_the_readmes_examples_run(tmp_path):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    found = examples()
    assert [language for language, _ in found] == ["sh", "python"]
    said = []
    for language, code in found:
        command = ["bash", "-euc", code] if language == "sh" else [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout)
    made = {path.name for path in tmp_path.iterdir()}
    assert {"demo.h5", "run", "grid", "scores.csv"} <= made
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["synthetic"] is True
    # Every table says so: of the cache, of both axes' runs, of the grid, of predict and evaluate.
    assert said[0].count("synthetic") >= 5


def test_every_file_that_the_documents_name_is_there():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} names {target}"
