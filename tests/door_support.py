"""What the tests of every door share: a small synthetic set of sounds, a cache, and a head."""

from dataclasses import replace

import numpy as np
import pandas as pd
import soundfile
import torch

from qamro_cache.datasets.records import Axis
from qamro_cache.extraction.extract import extract
from qamro_cache.features.context import Context, company_of
from qamro_cache.features.expression import parse
from qamro_cache.features.lookup import resolved
from qamro_cache.features.sources import join_caches
from qamro_cache.features.vectors import clip_vectors
from qamro_cache.heads.architecture import CONSTANT, Architecture
from qamro_cache.heads.calibration import Calibration
from qamro_cache.heads.file import load_head, save_head
from qamro_cache.heads.head import AxisHead, Ensemble, Head
from qamro_cache.heads.ood import reference_clips
from qamro_cache.heads.parameters import init_params
from qamro_cache.heads.trained import trained_clips

#: Seconds, rate and channels of the clips, in turn: short and long, mono and stereo, several rates.
KINDS = ((0.7, 16000, 1), (1.3, 22050, 2), (2.1, 16000, 2), (9.0, 16000, 1), (1.0, 44100, 1))


def sound(place, seconds, rate, channels):
    """Noise and a tone [frames, channels] float32: synthetic."""
    rng = np.random.default_rng(place)
    time = np.arange(int(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * (150 + 40 * place) * time)[:, None]
    noise = rng.normal(size=(len(time), channels))
    level = 0.05 + 0.02 * (place % 7)
    return (level * (tone + (0.1 + 0.2 * (place % 3)) * noise)).astype(np.float32)


def make_set(folder, size=12):
    """Write ``size`` float WAV files and ``clips.csv``; return the manifest's table."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for place in range(size):
        seconds, rate, channels = KINDS[place % len(KINDS)]
        path = folder / f"clip{place:02d}.wav"
        soundfile.write(path, sound(place, seconds, rate, channels), rate, subtype="FLOAT")
        rows.append(
            {
                "clip_id": path.name,
                "path": path.name,
                "prompt": f"a sound of kind {place % 3}",
                "group": f"g{place % 4}",
                "reference": f"clip{place % 4:02d}.wav",
                "quality": 1 + (place * 7) % 5 / 1.1,
            }
        )
    table = pd.DataFrame(rows)
    table.to_csv(folder / "clips.csv", index=False)
    return table


def make_head(folder, encoders=("mel",), size=12, feature="", context="none", by="group", text=""):
    """Make a set, a cache an encoder and a head of random weights; return the head's folder.

    Nothing is trained, so that it takes no time; scores differ from clip to clip all the same.
    """
    make_set(folder / "audio", size)
    caches = []
    for name in encoders:
        caches.append(folder / f"{name}.h5")
        extract(manifest=folder / "audio" / "clips.csv", out=caches[-1], encoder=name, device="cpu",
                scale=["quality=1:5"])  # fmt: skip
    sources = join_caches(caches)
    expression = resolved(parse(feature), sources.identities)
    rows = clip_vectors(expression, sources).values({})
    clips, found = sources.clips, None
    if context != "none":
        found = Context(context, by, 1, 3)
        rows = company_of(clips, np.arange(len(clips)), context, by, "the set").seen(rows)
    near = reference_clips(rows)
    if text:
        prompts = sources.read_text(text)
        rows = torch.cat([rows, prompts.embeddings[prompts.index]], 1)
    architecture = Architecture(widths=(8,), inputs="concat" if text else "audio")
    seeds, width = (0, 1, 2), rows.shape[1]
    std = rows.std(0)
    axis = AxisHead(
        Axis("quality", 1.0, 5.0),
        seeds,
        init_params(architecture, (width,), seeds),
        label_mean=3.0,
        label_std=1.0,
        row_mean=rows.mean(0),
        row_std=torch.where(std > CONSTANT * rows.mean(0).abs(), std, 1.0),
    )
    prints = sources.first.fingerprints_of(np.arange(len(clips)))
    trained = trained_clips(clips, np.ones((len(clips), 1), bool), prints)
    head = Head(architecture, (width,), str(expression), text, sources.identities, (axis,), near,
                {"dataset": "made up", "synthetic": True}, trained, found)  # fmt: skip
    (folder / "run").mkdir()
    save_head(folder / "run" / "head.safetensors", head)
    return folder / "run"


#: What `other_kind` makes of a head.
KINDS_OF_HEADS = ("knn", "svr", "line", "steps", "ensemble")


def other_kind(folder, kind):
    """Make another kind of head of that of `make_head`, on the same cache; return its folder."""
    head = load_head(folder / "run")
    (one,) = head.axes
    if kind in ("line", "steps"):
        steps = ((1.0, 2.8, 2.9, 3.1, 5.0), (1.0, 2.5, 2.5, 4.0, 5.0)) if kind == "steps" else None
        found = Calibration(Axis("mine", 1.0, 5.0), 20, 0.8, 0.7, 0.9, 0.5, 0.0, 1.0, steps)
        made = replace(head, calibration={"quality": found.record()})
    elif kind == "ensemble":
        members = [load_head(other_kind(folder, one)) for one in ("knn", "svr")]
        parts = [replace(part, trained=None) for part in (head, *members)]
        found = Calibration(Axis("mine", 1.0, 5.0), 20, 0.8, 0.7, 0.9, 0.5, 0.0, 1.0)
        marks = {"quality": found.record()}
        made = Ensemble(tuple(parts), ((3,), (1,), (2,)), (one.axis,), head.training, head.trained,
                        calibration=marks)  # fmt: skip
    else:
        rows = join_caches([folder / "mel.h5"])
        expression = resolved(parse(head.feature), rows.identities)
        points = (clip_vectors(expression, rows).values({}) - one.row_mean) / one.row_std
        labels = torch.sin(torch.arange(len(points)))[None]
        near = {"shares": torch.full((1, 3), 1 / 3)}
        far = {"gamma": torch.full((1, 1), 1 / points.shape[1]), "bias": torch.full((1, 1), 0.1)}
        params = {"points": points[None], "labels": labels, **(near if kind == "knn" else far)}
        axis = replace(one, seeds=(0,), params=params)
        made = replace(head, architecture=Architecture(kind=kind, widths=()), axes=(axis,))
    out = folder / f"run-{kind}"
    out.mkdir(exist_ok=True)
    save_head(out / "head.safetensors", made)
    return out
