"""The examples of docs/python.md run as they stand, in order, in a folder with a run."""

import re
import shutil
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from door_support import make_head

from qamro_cache import train

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"


@pytest.mark.slow
def test_the_examples_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("distillmos")
    pytest.importorskip("torchmetrics")
    mpl.use("Agg")
    make_head(tmp_path, ("distillmos",), 6)
    shutil.rmtree(tmp_path / "run")
    quick = {"widths": (8,), "epochs": 2, "seeds": 2, "cv": "2"}
    train(tmp_path / "distillmos.h5", tmp_path / "run", **quick)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"<!-- tested -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert PAGE.read_text().count("```python") == len(blocks) == 6
    names: dict[str, object] = {}
    for place, code in enumerate(blocks):
        exec(compile(code, f"python.md, example {place + 1}", "exec"), names)
    assert "prediction" in capsys.readouterr().out
    assert names["values"].shape == (2, 1)
    assert sorted(names["order"]) == [0, 1]
    assert 0 < names["louder"] < np.inf
    assert names["metric"].count == 5
    assert names["loss"] > 0
