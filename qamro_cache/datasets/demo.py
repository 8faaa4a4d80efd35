"""The demo set: synthetic clips, synthetic degradations, simulated raters.

It shows that the machine runs from end to end; its figures say nothing about any real system.
"""

import csv
import hashlib
import json
import os
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np

from qamro_cache.datasets.demo_sounds import CONTENTS, RATE, SYSTEMS, Wave
from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.datasets.records import Axis, Dataset
from qamro_cache.errors import QamroError
from qamro_cache.files import replace_folder

RATERS = 12
_AXES = ("quality", "enjoyment")
#: A folder made by another version is not taken for this one.
VERSION = 1


def default_folder() -> Path:
    """Where the demo set is made when no folder is named: the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "qamro-cache" / "demo"


def load_demo(folder: Path | None = None) -> Dataset:
    """Make the demo set in ``folder`` unless it is there already, and load it.

    120 clips of 3 s at 16 kHz: 10 systems times 12 contents, 12 simulated raters, the axes
    ``quality`` (how damaged) and ``enjoyment`` (also how pleasant the content is), both 1 to 5.
    The splits share the systems and no content.

    Args:
        folder: where to make it; None: ``default_folder()``.

    Raises:
        QamroError: the folder holds something else.
    """
    folder = folder or default_folder()
    if not _complete(folder):
        if folder.exists() and any(folder.iterdir()):
            raise QamroError(
                f"{folder} holds something that is not this version's demo set; "
                "remove it or name another --data-dir"
            )
        try:
            make_demo(folder)
        except QamroError:
            if not _complete(folder):  # another process may have been faster
                raise
    dataset = load_manifest(folder / "clips.csv")
    labels = replace(
        dataset.labels, axes=tuple(Axis(axis.name, 1.0, 5.0) for axis in dataset.labels.axes)
    )
    return Dataset(
        "demo",
        dataset.clips,
        labels,
        synthetic=True,
        license="MIT, made by this program",
        source=str(folder),
        notes=("synthetic: sounds, degradations and raters are made by a program",),
    )


def make_demo(folder: Path, seed: int = 0) -> None:
    """Write ``wav/*.wav``, ``clips.csv``, ``README.txt`` and, last, ``demo.json``."""
    with replace_folder(folder, ()) as work:
        (work / "wav").mkdir()
        rows = _write_clips(work, seed)
        with (work / "clips.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(
                ("clip_id", "path", "system", "prompt", "split", "group", "rater", *_AXES)
            )
            writer.writerows(rows)
        (work / "README.txt").write_text(
            "SYNTHETIC: the sounds, the degradations and the raters are made by a program.\n"
            "Figures from this set say nothing about any real system.\n",
            encoding="utf-8",
        )
        record = {"version": VERSION, "synthetic": True, "clips_sha256": _sha256(work)}
        (work / "demo.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


def _complete(folder: Path) -> bool:
    try:
        record = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
        return bool(record["version"] == VERSION and record["clips_sha256"] == _sha256(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "clips.csv").read_bytes()).hexdigest()


def _write_clips(folder: Path, seed: int) -> list[list[str]]:
    """Write the audio; return the manifest's rows, a row a clip and rater."""
    rng = np.random.default_rng(seed)
    bias = rng.normal(0.0, 0.35, RATERS)
    stretch = rng.uniform(0.8, 1.2, RATERS)
    rows = []
    for number, (content, prompt, make, pleasant) in enumerate(CONTENTS):
        clean = make(np.random.default_rng([seed, 1, number]))
        split = "train" if number < 8 else "dev" if number < 10 else "test"
        for system, (name, degrade, worst) in enumerate(SYSTEMS):
            own = np.random.default_rng([seed, 2, number, system])
            # Every system has good and bad days, so that clips differ within a system.
            severity = own.uniform(0.4, 1.0)
            clip_id = f"{name}_{content}"
            _write_wav(folder / "wav" / f"{clip_id}.wav", degrade(clean, severity, own))
            quality = 4.7 - worst * severity
            enjoyment = 0.6 * quality + 0.4 * pleasant
            for rater in range(RATERS):
                scores = [
                    3 + stretch[rater] * (truth - 3) + bias[rater] + own.normal(0.0, 0.5)
                    for truth in (quality, enjoyment)
                ]
                rows.append(
                    [clip_id, f"wav/{clip_id}.wav", name, prompt, split, content]
                    + [f"simulated{rater + 1:02d}"]
                    + [str(int(np.clip(np.rint(score), 1, 5))) for score in scores]
                )
    return rows


def _write_wav(path: Path, samples: Wave) -> None:
    """Write 16-bit mono; louder clips are scaled down to full scale, never clipped here."""
    peak = float(np.abs(samples).max())
    samples = samples / max(1.0, peak / 0.99)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
