"""Labels from another file, and other panels of raters."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qamro_cache.datasets.ids import match_ids
from qamro_cache.datasets.joined import concatenate_labels
from qamro_cache.datasets.labels import load_rated, relabel
from qamro_cache.datasets.raters import subsampled
from qamro_cache.datasets.records import (
    Axis,
    Labels,
    Ratings,
    labels_from_means,
    labels_from_ratings,
)
from qamro_cache.errors import QamroError


def relabeled(path: Path, clip_ids: list[str], *axes: Axis) -> Labels:
    """Return the labels that a file has for clips whose axes are known."""
    old = labels_from_means(axes, np.full((len(clip_ids), len(axes)), np.nan))
    return relabel(path, pd.DataFrame({"clip_id": clip_ids}), old)[1]


def test_in_the_order_of_the_clips(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("clip_id,rater,q\nb,r1,4\na.wav,r1,1\nb,r2,2\nx,r1,5\n")
    with caplog.at_level(logging.WARNING, "qamro_cache"):
        labels = relabeled(path, ["a", "none", "b"], Axis("q", 0, 10))
    assert labels.axes == (Axis("q", 0, 10),)
    np.testing.assert_array_equal(labels.mean[:, 0], [1, np.nan, 3])
    assert labels.count[:, 0].tolist() == [1, 0, 2]
    assert labels.stderr[2, 0] == pytest.approx(1.0)
    assert labels.ratings is not None
    assert labels.ratings.clip.tolist() == [2, 0, 2]
    assert "nothing about 1 of 3 clips" in caplog.text
    assert "1 of its clips are not in the cache" in caplog.text


def test_a_scale_that_does_not_hold_the_scores_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("clip_id,q\na,55\nb,70\n")
    assert relabeled(path, ["a", "b"], Axis("q", 1, 5)).axes == (Axis("q", 0, 100),)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name,q\na,3\n", r"row 1: there is no column 'clip_id'"),
        ("clip_id\na\n", r"row 1: there is nothing to replace"),
        ("clip_id,q\na,three\n", r"row 1: there is nothing to replace"),
        ("clip_id,q\na,\nb,\n", r"no row has a score \(q\), and labels would be lost"),
        ("clip_id,q\nx,3\n", r"names none of the 2 clips .*'x'.*'a'"),
        ("clip_id,q\na,3\na,4\n", r"row 3: clip_id 'a' is already in row 2"),
        ("clip_id,q\na,three\nb,3\n", r"row 2: 'three' in column 'q'"),
    ],
)
def test_one_line_errors(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(content)
    with pytest.raises(QamroError, match=words):
        relabeled(path, ["a", "b"])


def test_labels_alone_need_scores(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("clip_id,system\na,s\n")
    with pytest.raises(QamroError, match="row 1: there is no axis"):
        load_rated(path)


def test_relabel(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    clips = pd.DataFrame(
        {"clip_id": ["a", "b", "c"], "system": ["s", "s", "s"], "split": ["x", "x", "x"]}
    )
    old = labels_from_means((Axis("old", 0, 1),), np.array([[0.1], [0.2], [0.3]]))
    path.write_text("clip_id,split,new\nc,dev,5\na,train,3\n")
    after, labels = relabel(path, clips, old)
    assert list(after["split"]) == ["train", "x", "dev"]
    assert list(after["system"]) == ["s", "s", "s"]
    assert list(clips["split"]) == ["x", "x", "x"]
    assert labels.axes == (Axis("new", 1, 5),)
    np.testing.assert_array_equal(labels.mean[:, 0], [3, np.nan, 5])
    # Splits alone leave the scores as they are.
    path.write_text("clip_id,split\na,train\n")
    assert relabel(path, clips, old)[1] is old
    path.write_text("clip_id\na\n")
    with pytest.raises(QamroError, match="nothing to replace"):
        relabel(path, clips, old)
    path.write_text("clip_id,rater,split,q\na,r1,dev,3\na,r2,train,4\n")
    with pytest.raises(QamroError, match=r"row 3: clip 'a' has split 'train' here and 'dev' in"):
        relabel(path, clips, old)


def test_an_empty_column_says_nothing_and_an_empty_cell_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "labels.csv"
    clips = pd.DataFrame(
        {"clip_id": ["a", "b", "c"], "system": ["s", "s", "t"], "group": ["", "g", "g"]}
    )
    old = labels_from_means((), np.zeros((3, 0)))
    path.write_text("clip_id,system,group,q\na,,,3\nb, ,g,4\nc,,,5\n")
    with caplog.at_level(logging.WARNING, "qamro_cache"):
        after, labels = relabel(path, clips, old)
    assert list(after["system"]) == ["s", "s", "t"]
    assert list(after["group"]) == ["", "g", ""]
    np.testing.assert_array_equal(labels.mean[:, 0], [3, 4, 5])
    (told,) = caplog.messages
    assert "1 clips lose their group, which is empty there (c had 'g')" in told
    path.write_text("clip_id,system\na,\nb,\n")
    with pytest.raises(QamroError, match="nothing to replace"):
        relabel(path, clips, old)


def test_ids_with_and_without_suffix() -> None:
    assert match_ids(
        ["a.wav", "b", "c.wav", "c.flac"], ["a", "b.wav", "c", "c.flac", "d"]
    ).tolist() == [
        0,
        1,
        -1,
        3,
        -1,
    ]


def panel(rows: list[tuple[int, int, int, float]], known: bool, clips: int = 4) -> Labels:
    """Labels of (clip, axis, rater, score) rows."""
    clip, axis, rater, score = (list(column) for column in zip(*rows, strict=True))
    ratings = Ratings(
        np.array(clip, np.int32),
        np.array(axis, np.int16),
        np.array(rater if known else [-1] * len(rows), np.int32),
        np.array(score, np.float64),
        tuple(f"r{i}" for i in range(6)) if known else (),
    )
    return labels_from_ratings((Axis("q", 0, 10), Axis("i", 0, 10)), clips, ratings)


def test_every_rating_is_drawn_equally_often() -> None:
    labels = panel([(0, 0, rater, float(rater)) for rater in range(5)], known=True)
    means = [subsampled(labels, 0, 1, seed).mean[0, 0] for seed in range(2000)]
    counts = np.bincount(np.array(means, int), minlength=5)
    # Each count is binomial(2000, 1/5): mean 400, deviation 17.9.
    assert abs(counts - 400).max() < 5 * 17.9


def test_joined_labels_keep_the_single_ratings_that_are_known() -> None:
    axes = (Axis("quality", 1, 5),)
    one = Ratings(
        np.array([0, 0, 1], np.int32),
        np.zeros(3, np.int16),
        np.array([1, -1, 0], np.int32),
        np.array([1.0, 2.0, 3.0]),
        ("ann", "bob"),
    )
    other = replace(one, raters=("bob", "eve"))
    parts = [
        labels_from_ratings(axes, 2, one),
        labels_from_means(axes, np.array([[4.5]])),
        labels_from_ratings(axes, 2, other),
    ]
    joined = concatenate_labels(parts)
    np.testing.assert_array_equal(joined.mean[:, 0], [1.5, 3, 4.5, 1.5, 3])
    assert joined.ratings is not None
    names = [*joined.ratings.raters, "?"]
    who = [names[rater] for rater in joined.ratings.rater]
    assert list(zip(joined.ratings.clip.tolist(), who, strict=True)) == [
        *((0, "bob"), (0, "?"), (1, "ann")),
        *((3, "eve"), (3, "?"), (4, "bob")),
    ]
    with pytest.raises(QamroError, match="different axes"):
        concatenate_labels([parts[0], replace(parts[1], axes=(Axis("quality", 0, 5),))])
