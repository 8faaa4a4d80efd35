"""The resampler named after librosa gives what librosa.load gives, to the last sample."""

import numpy as np
import pytest

librosa = pytest.importorskip("librosa")

from qamro_cache.audio.resample import make_resampler  # noqa: E402


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
@pytest.mark.parametrize("size", [44_101, 216_090, 99_999, 154_350])
def test_equals_librosa(rate, size):
    samples = np.random.default_rng(0).normal(0, 0.1, size).astype(np.float32)
    resampler = make_resampler("librosa-soxr-HQ", rate, 48_000)
    got = np.concatenate([resampler.push(samples), resampler.push(samples[:0], last=True)])
    expected = librosa.resample(samples, orig_sr=rate, target_sr=48_000, res_type="soxr_hq")
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)


def test_some_clip_gets_a_zero_that_soxr_alone_does_not_give():
    samples = np.ones(216_090, np.float32)
    lengths = []
    for name in ("soxr-HQ", "librosa-soxr-HQ"):
        resampler = make_resampler(name, 44_100, 48_000)
        lengths.append(len(resampler.push(samples)) + len(resampler.push(samples[:0], last=True)))
    assert lengths[1] == lengths[0] + 1
