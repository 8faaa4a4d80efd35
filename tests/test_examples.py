"""The examples of docs/integrations.md run as they stand, in order, in one folder."""

import re
from pathlib import Path

import pytest
from synthetic_cache import write_synthetic

from qamro_cache import ablate, train

ROOT = Path(__file__).resolve().parents[1]
#: What each section's examples need beside the package.
NEEDED = {
    "scikit-learn": ("sklearn",),
    "Without this package: ONNX and torch.export": ("onnx", "onnxscript", "onnxruntime"),
    "Trackers": ("tensorboard",),
}
QUICK = {"cv": "3", "seeds": 2, "epochs": 1, "widths": [4]}


def blocks() -> dict[str, str]:
    """Return the tested examples by the title that each stands under."""
    text = (ROOT / "docs" / "integrations.md").read_text()
    return {
        section.split("\n")[0]: code
        for section in text.split("\n## ")[1:]
        for code in re.findall(r"<!-- tested -->\n```python\n(.*?)```", section, re.DOTALL)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what examples start from: a cache, a run and a grid, all SYNTHETIC."""
    folder = tmp_path_factory.mktemp("examples")
    write_synthetic(folder / "emb.h5")
    train(folder / "emb.h5", folder / "run", **QUICK)
    ablate(folder / "emb.h5", folder / "grid", alpha=[0.1, 0.5], resamples=0, **QUICK)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("title", blocks())
def test_the_examples_run(title, folder, monkeypatch):
    for package in NEEDED[title]:
        pytest.importorskip(package)
    monkeypatch.chdir(folder)
    exec(compile(blocks()[title], f"docs/integrations.md, {title}", "exec"), {})
