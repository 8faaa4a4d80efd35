"""A small synthetic cache whose ratings depend on its embeddings: for tests of stage 2."""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd

from qamro_cache.cache.content import CacheContent, Header, clip_table
from qamro_cache.cache.writer import write_cache
from qamro_cache.datasets.records import Axis, Ratings, labels_from_ratings
from qamro_cache.identity import AudioPolicy, EncoderSpec, identity_of

AXES = (Axis("quality", 0.0, 100.0), Axis("match", 1.0, 5.0))
SPEC = EncoderSpec(
    "fake", "1", AudioPolicy(16000, 16000, 16000), {"embedding": (6,), "layers": (3, 6)},
    {"text": (6,)},
)  # fmt: skip


def write_synthetic(path, clips=40, seed=0, split=False, name="fake", factor=1.0, prefix="clip",
                    own_score=False, dataset="tiny", promptless=()):  # fmt: skip
    """Write it: one to three windows a clip, 5 systems, 8 groups, 4 raters, one failed clip.

    ``own_score``: with a feature ``mos`` of one number, which says something of the quality.
    ``promptless``: clips without a prompt.
    """
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 4, clips)
    status, reason = np.full(clips, "ok", object), np.full(clips, "", object)
    counts[3], status[3], reason[3] = 0, "unreadable", "not a sound file"
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    total = int(offsets[-1])
    latent = rng.standard_normal((clips, 6))
    of_window = np.repeat(np.arange(clips), counts)
    windows = latent[of_window] + 0.2 * rng.standard_normal((total, 6))
    prompts = ("a dog barks", "rain on a roof", "a slow waltz")
    frame = pd.DataFrame(
        {
            "clip_id": [f"{prefix}{k:03d}" for k in range(clips)],
            "path": [f"/sounds/{k}.wav" for k in range(clips)],
            "system": [f"S{k % 5}" for k in range(clips)],
            "group": [f"G{k // 5}" for k in range(clips)],
            "split": (["train"] * (clips - 10) + ["dev"] * 10) if split else "",
            "prompt": ["" if k in promptless else prompts[k % 3] for k in range(clips)],
            "status": status,
            "reason": reason,
            "audio_sha256": [
                hashlib.sha256(f"{seed} {k}".encode()).hexdigest() for k in range(clips)
            ],
            "duration": 1.0,
            "audio_bytes": 1,
            "audio_mtime_ns": 1,
        }
    )
    truth = np.stack([50 + 18 * np.tanh(latent[:, 0] + latent[:, 1]), 3 + 0.5 * latent[:, 2]], 1)
    noise = rng.standard_normal((clips, 2, 4)) * np.array([6.0, 0.3])[:, None]
    scores = np.clip(truth[:, :, None] + noise, [[0], [1]], [[100], [5]])
    clip, axis, rater = (index.ravel() for index in np.indices(scores.shape))
    ratings = Ratings(
        clip.astype(np.int32), axis.astype(np.int16), rater.astype(np.int32), scores.ravel(),
        ("ann", "bo", "cy", "di"),
    )  # fmt: skip
    layers = rng.standard_normal((total, 3, 6)) * 0.3 + windows[:, None]
    features = {"embedding": windows * factor, "layers": layers}
    spec = replace(SPEC, name=name)
    if own_score:
        features["mos"] = 3 + windows[:, :1] + windows[:, 2:3]
        spec = replace(spec, features={**SPEC.features, "mos": (1,)})
    features = {name: values.astype(np.float32) for name, values in features.items()}
    content = CacheContent(
        clip_table(frame),
        labels_from_ratings(AXES, clips, ratings),
        offsets,
        (rng.random(total) * 0.9 + 0.1).astype(np.float32),
        np.arange(total, dtype=np.int64) * 16000,
        features,
        prompts,
        {"text": rng.standard_normal((3, 6)).astype(np.float32)},
    )
    write_cache(path, content, Header(identity_of(spec), dataset, True))
    return path
