"""The benchmark of a GPU, on tiny sizes: no typo may spoil the day on which there is one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import gpu  # noqa: E402


@pytest.mark.slow
def test_every_part_runs_to_its_end(tmp_path):
    run = subprocess.run(
        ["make", "gpu", "SMALL=1", f"PYTHON={sys.executable}", "VENV=none", f"GPU_OUT={tmp_path}"],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert {path.stem for path in tmp_path.glob("*.done")} == {part.name for part in gpu.PARTS}
    for part in gpu.PARTS:
        assert "date" in json.loads((tmp_path / f"{part.name}.json").read_text())
    # What is whole is not run again.
    again = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--small", "--out", tmp_path],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert again.stdout.count("done before") == len(gpu.PARTS)


def test_goals_read_what_the_parts_write(tmp_path):
    records = {
        "tests": {"failed": {"a": "b"}},
        "grid": {"stacked": [
            {"heads": 1000, "precision": "float32", "seconds": 4.0, "srcc": 0.8},
            {"heads": 1000, "precision": "tf32", "seconds": 2.0, "srcc": 0.799},
            {"heads": 1000, "precision": "bf16", "seconds": 1.0, "srcc": 0.7},
        ]},
        "loss": {"rows": [{"form": "fused", "heads": 1000, "n": 256, "median_seconds": 8e-5}]},
        "encode": {"results": [
            {"encoder": "clap", "precision": "float16", "windows_per_second": 2500.0},
            {"encoder": "clap", "precision": "float16", "windows_per_second": None},
        ]},
        "extract": {"runs": [
            {"what": "decoding", "windows_per_second": 300.0},
            {"what": "clap", "windows_per_second": 270.0},
        ]},
    }  # fmt: skip
    for name, record in records.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    cells = [line.split()[-2:] for line in gpu.table(tmp_path)[1:]]
    assert cells == [
        ["1", "--"], ["2", "1.25"], ["--", "--"], ["0.08", "1.00"], ["--", "--"],
        ["2.5e+03", "0.50"], ["--", "--"], ["0.9", "1.00"],
    ]  # fmt: skip
