"""The examples of docs/heads.md and docs/datasets.md run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heads", "datasets"])
def test_the_examples_run(tmp_path, name):
    pytest.importorskip("distillmos")
    (tmp_path / "sounds").mkdir()
    rng = np.random.default_rng(0)
    for k in range(3):
        soundfile.write(tmp_path / "sounds" / f"{k}.wav", 0.1 * rng.standard_normal(16000), 16000)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    text = (ROOT / "docs" / f"{name}.md").read_text()
    found = re.findall(r"<!-- tested -->\n```(\w+)\n(.*?)```", text, re.DOTALL)
    assert found
    for language, code in found:
        command = ["bash", "-euc", code] if language == "sh" else [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout
