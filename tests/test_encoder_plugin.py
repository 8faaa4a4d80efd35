"""The complete encoder of docs/encoders.md, installed from a folder and used."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

DOC = Path(__file__).parents[1] / "docs" / "encoders.md"


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """Install the documented files into a folder as pip would: the module and its metadata.

    pip itself would fetch a build backend, for which there may be no network.
    """
    target = tmp_path_factory.mktemp("site-packages")
    blocks = re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)^```", DOC.read_text(), re.M | re.S)
    files = dict(blocks)
    assert list(files) == ["pyproject.toml", "loudness_encoder.py"]
    (target / "loudness_encoder.py").write_text(files["loudness_encoder.py"])
    project = tomllib.loads(files["pyproject.toml"])["project"]
    metadata = target / f"loudness_encoder-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return target


def run(package: Path, code: str) -> str:
    path = os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    ).stdout


def test_it_has_fewer_than_40_lines():
    code = re.search(r"`loudness_encoder.py`\n\n```python\n(.*?)^```", DOC.read_text(), re.M | re.S)
    assert code.group(1).count("\n") < 40


def test_it_is_listed_and_passes_the_doctor(package):
    out = run(
        package,
        "from qamro_cache.encoders.registry import list_encoders\n"
        "from qamro_cache.encoders.doctor import check_encoder\n"
        "print(*[info.name for info in list_encoders()])\n"
        "print(all(check.ok for check in check_encoder('loudness')))\n",
    )
    assert out.splitlines()[0].split()[-1] == "loudness"
    assert out.splitlines()[1] == "True"


def test_it_extracts(package, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.wav", np.full(160_000, 0.1, np.float32), 16_000)
    (tmp_path / "clips.csv").write_text("clip_id,path\na,a.wav\n")
    out = run(
        package,
        "from pathlib import Path\n"
        "from qamro_cache.datasets.manifest import load_manifest\n"
        "from qamro_cache.extraction.extract import extract\n"
        "from qamro_cache.cache.reader import open_cache\n"
        "from qamro_cache.encoders.registry import load_encoder\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "clips = load_manifest(folder / 'clips.csv')\n"
        "extract(clips, folder / 'emb.h5', load_encoder('loudness'))\n"
        "print(float(open_cache(folder / 'emb.h5').read('levels').windows.mean()))\n",
    )
    assert float(out.splitlines()[-1]) == pytest.approx(-20, abs=0.01)
