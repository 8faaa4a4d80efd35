"""Our Audiobox layers and published head against audiobox-aesthetics 0.0.4 itself.

Random weights in the real architecture; as in test_clap_parity.py, errors are shares of the
median distance between different clips, and each step has a test that switches it off.
"""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("audiobox_aesthetics")
pytest.importorskip("soundfile")

from clap_reference import sound

from qamro_cache.audio.decode import ClipDecoder
from qamro_cache.encoders import wavlm
from qamro_cache.encoders.audiobox import AXES, published_head
from qamro_cache.encoders.protocol import EncoderOptions
from qamro_cache.encoders.registry import load_encoder
from qamro_cache.errors import QamroError
from qamro_cache.heads.network import Architecture, forward

FLOAT32, HALF = 1e-4, 1e-2
CLIPS = ((4.0, 16_000, 1), (10.0, 44_100, 1), (13.2, 48_000, 2))  # seconds, rate, channels


@pytest.fixture(scope="module")
def ours(audiobox_reference):
    return load_encoder("audiobox", EncoderOptions(checkpoint=str(audiobox_reference.file)))


@pytest.fixture(scope="module")
def sounds() -> list[tuple[torch.Tensor, int]]:
    made = []
    for seed, (seconds, rate, channels) in enumerate(CLIPS):
        rows = [sound(10 * seed + c, int(seconds * rate), rate) for c in range(channels)]
        made.append((torch.from_numpy(np.stack(rows)), rate))
    return made


@pytest.fixture(scope="module")
def files(sounds, tmp_path_factory) -> list[Path]:
    import soundfile

    folder = tmp_path_factory.mktemp("clips")
    for index, (samples, rate) in enumerate(sounds):
        soundfile.write(folder / f"{index}.wav", samples.numpy().T, rate, subtype="FLOAT")
    return sorted(folder.iterdir())


def windows_of(files, policy) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Windows [W, samples], valid [W], offsets [C + 1]."""
    clips = [list(ClipDecoder(file, policy).windows()) for file in files]
    offsets = torch.tensor([0, *np.cumsum([len(clip) for clip in clips])])
    windows = [window for clip in clips for window in clip]
    samples = torch.from_numpy(np.stack([window.samples for window in windows]))
    return samples, torch.tensor([window.valid for window in windows]), offsets


@pytest.fixture(scope="module")
def windows(ours, files):
    return windows_of(files, ours.spec.audio)


@pytest.fixture(scope="module")
def theirs(audiobox_reference, sounds):
    """What upstream's predictor cut, what its network made of it, and its scores of the clips."""
    predictor, taken = audiobox_reference.predictor, {}

    def take(module, batch, scores):
        taken["waveform"], taken["mask"] = batch[0]["wav"][:, 0], batch[0]["mask"][:, 0]
        taken["scores"] = torch.stack([scores[axis] for axis in AXES])

    def take_layers(source, padding_mask, **options):
        (x, layers), padding = extract(source=source, padding_mask=padding_mask, **options)
        inside = (~padding).float().T[..., None]
        means = [(layer * inside).sum(0) / inside.sum(0) for layer, _ in layers]
        taken["layers"] = torch.stack(means, 1)
        return (x, layers), padding

    extract = predictor.model.wavlm_model.extract_features
    hook = predictor.model.register_forward_hook(take)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor.model.wavlm_model, "extract_features", take_layers)
        batch = [{"path": samples, "sample_rate": rate} for samples, rate in sounds]
        taken["clips"] = predictor.forward(batch)
    hook.remove()
    return taken


@pytest.fixture(scope="module")
def got(ours, windows):
    return ours.encode(windows[0], windows[1])["layers"]


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest error of the first rows' layers, as a share of the median distance of all rows."""
    errors = []
    for layer in range(expected.shape[1]):
        rows = expected[:, layer].double()
        error = (got[:, layer].double() - rows[: len(got)]).norm(dim=1).max()
        errors.append(float(error / torch.pdist(rows).median()))
    return max(errors)


def published_scores(heads, layers, offsets, weights) -> list[dict[str, float]]:
    """Scores of clips from cached layers alone, by the stacked head of qamro-train."""
    scores = {}
    for axis, head in heads.items():
        settings = Architecture(
            kind="audiobox",
            widths=head.widths,
            activation="gelu",
            layer_norm=head.layer_norm,
            pooling="scores",
        )
        params = {name: tensor[None] for name, tensor in head.tensors.items()}
        raw = forward(settings, params, layers, offsets, weights)[0]
        scores[axis] = raw * head.std + head.mean
    return [{axis: float(scores[axis][c]) for axis in AXES} for c in range(len(offsets) - 1)]


def test_windows_and_masks_are_the_same(windows, theirs):
    samples, valid, offsets = windows
    assert offsets.tolist() == [0, 1, 2, 4]
    assert torch.equal(samples[0], theirs["waveform"][0])  # 16 kHz: nothing to resample
    # Blocks, and channels averaged before instead of after, round the last bit otherwise.
    torch.testing.assert_close(samples, theirs["waveform"], atol=3e-7, rtol=0)
    assert torch.equal(valid, theirs["mask"].sum(1))


def test_layer_means_equal_upstream(got, theirs):
    assert got.shape == (4, 13, 768)
    assert relative_error(got, theirs["layers"]) < FLOAT32


def test_published_scores_come_from_the_cache_alone(audiobox_reference, got, windows, theirs):
    heads = published_head(audiobox_reference.file)
    _, valid, offsets = windows
    scores = published_scores(heads, got, offsets, valid / 160_000)
    spread = np.std([list(clip.values()) for clip in theirs["clips"]], axis=0)
    for mine, clip in zip(scores, theirs["clips"], strict=True):
        for axis, width in zip(AXES, spread, strict=True):
            assert abs(mine[axis] - clip[axis]) < 1e-3 * width
    # Windows counted equally, a padded tail moves the score of the third clip.
    equal = published_scores(heads, got, offsets, torch.ones(4))
    assert abs(equal[2]["PQ"] - theirs["clips"][2]["PQ"]) > 1e-3 * spread[3]


def test_window_scores_equal_the_models_own(audiobox_reference, got, theirs):
    heads = published_head(audiobox_reference.file)
    scores = published_scores(heads, got, torch.arange(5), torch.ones(4))
    for index, axis in enumerate(AXES):
        head = heads[axis]
        expected = theirs["scores"][index] * head.std + head.mean
        mine = torch.tensor([window[axis] for window in scores])
        assert (mine - expected).abs().max() < 1e-3 * expected.std()


def test_both_published_forms_are_read_alike(audiobox_reference, ours, got, windows):
    folder = load_encoder("audiobox", EncoderOptions(checkpoint=str(audiobox_reference.folder)))
    layers = folder.encode(windows[0][:1], windows[1][:1])["layers"]
    torch.testing.assert_close(layers, got[:1], atol=1e-5, rtol=1e-5)
    one, other = (published_head(p) for p in (audiobox_reference.file, audiobox_reference.folder))
    for axis in AXES:
        assert replace(one[axis], tensors={}) == replace(other[axis], tensors={})
        assert one[axis].tensors.keys() == other[axis].tensors.keys()
        for name, tensor in one[axis].tensors.items():
            assert torch.equal(tensor, other[axis].tensors[name])


def test_any_batch_and_order_gives_the_same(ours, got, windows):
    samples, valid, _ = windows
    backwards = ours.encode(samples.flip(0)[:2], valid.flip(0)[:2])["layers"]
    torch.testing.assert_close(backwards.flip(0), got[2:], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_half_precision(audiobox_reference, windows, theirs):
    options = EncoderOptions(checkpoint=str(audiobox_reference.file), precision="float16")
    half = load_encoder("audiobox", options)
    layers = half.encode(windows[0][:1], windows[1][:1])["layers"]
    assert layers.dtype == torch.float32
    error = relative_error(layers, theirs["layers"])
    print(f"float16: layers {error:.1e}")
    assert error < HALF


# Each step switched off must be seen.


@pytest.mark.parametrize(
    "change",
    [{"rate_policy": "as-is"}, {"resampler": "soxr-HQ"}, {"tail": "shift"}, {"padding": "repeat"}],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_audio_policy_is_seen_in_the_windows(ours, files, theirs, change):
    samples, valid, _ = windows_of(files, replace(ours.spec.audio, **change))
    same = samples.shape == theirs["waveform"].shape and torch.equal(valid, theirs["mask"].sum(1))
    assert not same or (samples - theirs["waveform"]).abs().max() > 1e-4


def without_mask(network, patch):
    patch.setattr(
        wavlm,
        "valid_frames",
        lambda valid, samples, frames: torch.ones(len(valid), frames, dtype=torch.bool),
    )


def with_loose_mask(network, patch):
    patch.setattr(
        wavlm,
        "valid_frames",
        lambda valid, samples, frames: torch.arange(frames) * 320 + 400 <= valid[:, None],
    )


def without_distances(network, patch):
    network.distances.zero_()


def without_gates(network, patch):
    network.encoder.layers[3].self_attn.grep_a.zero_()


def without_positions(network, patch):
    network.encoder.pos_conv[0].spectrum.zero_()


def without_channel_norm(network, patch):
    patch.setattr(
        wavlm,
        "convolve_normalized",
        lambda windows, weight, norm: wavlm.convolve(windows[:, None], weight[:, None], 5),
    )


@pytest.mark.parametrize(
    "switch_off",
    [
        without_mask,
        with_loose_mask,
        without_distances,
        without_gates,
        without_positions,
        without_channel_norm,
    ],
)
def test_a_changed_network_is_seen_in_the_layers(ours, windows, theirs, monkeypatch, switch_off):
    network = copy.deepcopy(ours.network)
    with torch.inference_mode():
        switch_off(network, monkeypatch)
        layers = network(windows[0][:1], windows[1][:1])
    assert relative_error(layers, theirs["layers"]) > FLOAT32


# What is wrong with a checkpoint.


def test_another_head_than_the_published_one_is_refused(audiobox_reference, tmp_path):
    checkpoint = torch.load(audiobox_reference.file, weights_only=True)
    checkpoint["model_cfg"]["normalize_embed"] = False
    torch.save(checkpoint, tmp_path / "other.pt")
    with pytest.raises(QamroError, match="normalize_embed is False"):
        published_head(tmp_path / "other.pt")


def test_missing_and_unexpected_tensors_are_named(audiobox_reference, tmp_path):
    checkpoint = torch.load(audiobox_reference.file, weights_only=True)
    state = checkpoint["state_dict"]
    state["model.wavlm_model.extra"] = state.pop("model.wavlm_model.encoder.layer_norm.bias")
    torch.save(checkpoint, tmp_path / "broken.pt")
    with pytest.raises(QamroError, match=r"1 tensors missing \(encoder.layer_norm.bias\).*extra"):
        load_encoder("audiobox", EncoderOptions(checkpoint=str(tmp_path / "broken.pt")))


def test_not_audiobox(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "else.pt")
    with pytest.raises(QamroError, match="is not Audiobox-Aesthetics"):
        load_encoder("audiobox", EncoderOptions(checkpoint=str(tmp_path / "else.pt")))
    with pytest.raises(QamroError, match="no checkpoint is named"):
        load_encoder("audiobox")
    with pytest.raises(QamroError, match="is not there"):
        load_encoder("audiobox", EncoderOptions(checkpoint=str(tmp_path / "nothing.pt")))
    with pytest.raises(QamroError, match=r"lacks model.safetensors or config.json"):
        load_encoder("audiobox", EncoderOptions(checkpoint=str(tmp_path)))
