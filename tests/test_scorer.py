"""`Scorer`: what it takes, what it refuses, its order of clips, and its gradient."""

import copy
import pickle
import re
import threading
from dataclasses import replace

import fake_encoder
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from door_support import make_head, sound

from qamro_cache import Scorer, predict
from qamro_cache.audio.resample import torchaudio_resampled
from qamro_cache.audio.waveform import as_waveform
from qamro_cache.encoders import mel, registry
from qamro_cache.errors import ClipError, OptionError, QamroError
from qamro_cache.heads.file import load_head
from qamro_cache.scoring import live
from qamro_cache.scoring.clips import clips_of

RATE = 16000
#: A hundred-thousandth of the scale from 1 to 5.
NEAR = {"rtol": 0, "atol": 4e-5}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_head(tmp_path_factory.mktemp("scorer"))


@pytest.fixture(scope="module")
def scorer(run):
    return Scorer.from_file(run, device="cpu")


@pytest.fixture
def fake(monkeypatch):
    """An encoder with prompts, beside mel."""
    monkeypatch.setattr(registry, "list_encoders", lambda: [mel.INFO, fake_encoder.INFO])


def clips(count, seconds=1.0, channels=1):
    return [sound(20 + k, seconds, RATE, channels) for k in range(count)]


def test_whatever_holds_the_samples_is_the_same_sound(scorer, tmp_path):
    whole = (sound(3, 1.0, RATE, 2) * 32768).round().clip(-32768, 32767).astype(np.int16)
    soundfile.write(tmp_path / "x.wav", whole, RATE, subtype="PCM_16")
    samples = soundfile.read(tmp_path / "x.wav", dtype="float32")[0]
    expected = scorer.score(tmp_path / "x.wav")["prediction"][0]
    ways = [
        whole, samples, samples.T, samples.astype(np.float64), torch.from_numpy(samples),
        torch.from_numpy(samples.T.copy()), torch.from_numpy(whole), np.asfortranarray(samples),
        whole.astype(np.int32) * 65536, samples[::-1][::-1],
    ]  # fmt: skip
    for way in ways:
        found = scorer.score([way], RATE)
        assert found["prediction"][0] == expected
        assert (found["clip_id"][0], found["axis"][0]) == ("0", "quality")
    several = torch.from_numpy(np.stack([samples.T, samples.T]))
    # A product of two rows may be rounded in another way than one of one row.
    assert scorer.score(several, RATE)["prediction"].tolist() == pytest.approx([expected] * 2, 1e-6)
    assert scorer.score(samples, RATE)["prediction"].tolist() == [expected]
    half = scorer.score(torch.from_numpy(samples).half(), RATE)["prediction"][0]
    assert half == pytest.approx(expected, abs=0.05)


def test_what_datasets_gives_of_a_sound_is_the_file(scorer, tmp_path):
    from test_inputs import Decoder

    samples = sound(5, 1.0, RATE, 2)
    path = tmp_path / "x.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    wanted = scorer.score(path)
    ways = [
        {"bytes": path.read_bytes(), "path": "x.wav"},
        {"bytes": path.read_bytes(), "path": None},
        {"bytes": None, "path": str(path)},
        {"path": path},
        {"array": samples.T, "sampling_rate": RATE, "path": "x.wav"},
        Decoder(samples.T.copy()),
    ]
    found = scorer.score(ways)
    alike = wanted["prediction"].tolist() * len(ways)
    assert found["prediction"].tolist() == pytest.approx(alike, 1e-6)
    assert found["clip_id"].tolist() == ["0", "1", str(path), f"{path} (3)", "4", "5"]
    assert scorer.best_of(ways) is ways[0]
    odd = [{"bytes": b"no sound", "path": "x.wav"}, {"bytes": b"", "path": None}, Decoder(None)]
    failed = scorer.score([*odd, ways[0]])
    assert failed["prediction"].notna().tolist() == [False, False, False, True]
    for words, reason in zip(
        ("not audio that can be read", "no bytes", "cannot be decoded (Could not"),
        failed["reason"],
        strict=False,
    ):
        assert words in reason
    for wrong, words in (
        ({"audio": ways[0], "name": "a"}, "got one of 'audio, name'; of a row give its column"),
        ({"array": samples}, "got one of 'array'"),
        ({"bytes": None, "path": None}, "got one of 'bytes, path'"),
        ({"bytes": "text", "path": None}, "got one of 'bytes, path'"),
        ({"array": [0.0, 0.1], "sampling_rate": RATE}, "an array or a tensor of samples"),
    ):
        with pytest.raises(OptionError, match=re.escape(words)) as caught:
            scorer.score([wrong])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [2, 8, 40])
def test_channels_and_clips_are_not_taken_for_each_other(scorer, count):
    both = torch.zeros(count, RATE)
    words = rf"\[{count}, 16000\] may be one clip of {count} channels or {count} clips; give"
    calls = [
        scorer.score, scorer.tensor, scorer.rank, scorer.best_of,
        lambda given, rate: list(scorer.stream(given, rate)),
        lambda given, rate: scorer.score([given[0]], rate, references=given),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(OptionError, match=words):
            call(both, RATE)
        with pytest.raises(OptionError, match=words):
            call(both.numpy(), RATE)
    assert len(scorer.tensor(both[:1], RATE)) == 1


def test_samples_in_memory_are_cut_and_resampled_as_a_files_are(tmp_path):
    """Hashes, fingerprints and windows: all that is known of a sound, bit for bit."""
    from qamro_cache.audio import sound as sounds
    from qamro_cache.audio.decode import ClipDecoder
    from qamro_cache.identity import AudioPolicy

    samples = sound(1, 9.0, 44100, 2)
    soundfile.write(tmp_path / "x.wav", samples, 44100, subtype="FLOAT")
    for resampler in ("soxr-HQ", "librosa-soxr-HQ", "torchaudio-sinc-hann-6"):
        policy = AudioPolicy(16000, 48000, 48000, resampler=resampler, padding="repeat", int16=True)
        for block in (sounds.BLOCK, 100_000):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sounds, "BLOCK", block)
                ours = ClipDecoder("memory", policy, as_waveform(samples, 44100))
                theirs = ClipDecoder(tmp_path / "x.wav", policy)
                pairs = list(zip(ours.windows(), theirs.windows(), strict=True))
            assert len(pairs) == 3
            for a, b in pairs:
                assert (a.start, a.valid) == (b.start, b.valid)
                np.testing.assert_array_equal(a.samples, b.samples)
            assert ours.samples_sha256 == theirs.samples_sha256 != ""
            np.testing.assert_array_equal(ours.fingerprint, theirs.fingerprint)
            measured = ("duration", "peak", "mixed_peak")
            assert [getattr(ours, n) for n in measured] == [getattr(theirs, n) for n in measured]


def test_a_clip_that_cannot_be_scored_is_a_row_with_a_reason(scorer, tmp_path):
    (tmp_path / "broken.wav").write_text("this is no sound")
    good = clips(1)[0]
    bad = good.copy()
    bad[5] = np.nan
    asked = [good, bad, np.zeros(0, np.float32), good[:3], tmp_path / "broken.wav", "no/such.wav"]
    table = scorer.score(asked, RATE)
    assert table["prediction"].notna().tolist() == [True] + [False] * 5
    for words, reason in zip(
        ("", "NaN or infinite", "holds no audio", "s of audio", "not audio that", "there is no"),
        table["reason"],
        strict=True,
    ):
        assert words in reason
        assert bool(words) == bool(reason)
    assert table["clip_id"].tolist()[3:] == ["3", str(tmp_path / "broken.wav"), "no/such.wav"]
    values = scorer.tensor(asked, RATE)
    assert values.shape == (6, 1)
    assert values.isfinite()[:, 0].tolist() == [True] + [False] * 5
    # A list without any good one is no error either.
    assert scorer.score(asked[1:3], RATE)["prediction"].isna().all()
    assert scorer.rank(asked, RATE)[0] == 0
    with pytest.raises(QamroError, match="none of 2 clips can be scored"):
        scorer.best_of(asked[1:3], RATE)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (([np.zeros(800)],), "give sample_rate"),
        (([np.zeros(800)], 0), "sample_rate is a whole number of Hz"),
        (([np.zeros(800)], 16000.5), "sample_rate is a whole number of Hz"),
        (([np.zeros(800)], "fast"), "sample_rate is a whole number of Hz"),
        (([np.zeros((16, 800))], RATE), "would have 16 channels; give many clips as a list"),
        (([np.zeros((2, 2, 800))], RATE), r"a clip is \[frames\] or \[channels, frames\], got \[2"),
        (([np.zeros(800, np.uint8)], RATE), "floats from -1 to 1, int16 or int32; got uint8"),
        (([0.1, 0.2], RATE), "a clip is a file's path, an array or a tensor of samples, got 0.1"),
        (([], RATE), "there are no clips to score"),
        ((["a\0.wav"], RATE), r"no file can be called 'a.x00\.wav'"),
        ((clips(2), RATE, ["one"]), "there are 2 clips and 1 prompts; give one for each clip"),
        ((clips(2), RATE, None, ["a", "b", "c"]), "there are 2 clips and 3 groups"),
    ],
)  # fmt: skip
def test_what_is_no_sound_is_one_line(scorer, given, said):
    for call in (scorer.score, scorer.tensor):
        with pytest.raises(OptionError, match=said) as caught:
            call(*given)
        assert "\n" not in str(caught.value)


def test_clips_are_ranked_and_the_best_is_given_back(scorer):
    asked = [*clips(6), np.zeros(3, np.float32)]
    asked.insert(2, asked[4])
    values = scorer.score(asked, RATE)["prediction"].to_numpy()
    order = scorer.rank(asked, RATE, axis="quality")
    assert sorted(order) == list(range(8))
    assert order[-1] == 7
    assert list(order[:7]) == sorted(range(7), key=lambda k: (-values[k], k))
    assert scorer.best_of(asked, RATE) is asked[order[0]]
    assert scorer.best_of(iter(asked), RATE) is asked[order[0]]
    with pytest.raises(OptionError, match=r"has no axis 'qualty'.*did you mean 'quality'"):
        scorer.rank(asked, RATE, axis="qualty")


def test_a_stream_takes_a_block_at_a_time(scorer):
    taken = []

    def source():
        for one in clips(7):
            taken.append(one)
            yield one

    tables = scorer.stream(source(), RATE, block=3)
    assert taken == []
    first = next(tables)
    assert (len(first), len(taken)) == (3, 3)
    whole = pd.concat([first, *tables], ignore_index=True)
    assert whole["clip_id"].tolist() == [str(k) for k in range(7)]
    expected = scorer.score(clips(7), RATE)["prediction"]
    np.testing.assert_allclose(whole["prediction"], expected, rtol=1e-6)


@pytest.mark.parametrize("block", [0, -1, 1.5, True])
def test_a_block_of_a_stream_is_a_number_of_clips(scorer, block):
    with pytest.raises(OptionError, match="block is how many clips are scored at once"):
        next(scorer.stream(clips(1), RATE, block=block))


def test_samples_in_other_units_are_told_as_those_of_a_file_are(scorer, caplog):
    scorer.score([sound(3, 1.0, RATE, 1), 32768 * sound(3, 1.0, RATE, 1)], RATE)
    assert "1 clips have a peak beyond 100, where full scale is 1" in caplog.text
    assert ": 1\n" in caplog.text


def test_no_two_clips_have_one_id():
    asked = clips_of(["a (2)", "a", "a", "reference 0"], references=["b"])
    ids = asked.table["clip_id"].tolist()
    assert len(set(ids)) == 5
    assert ids[3] == "reference 0"
    assert asked.beside == {ids[4]} == set(asked.table["reference"][:4])


def test_a_rate_that_takes_too_much_memory_is_a_reason_with_a_gradient_too():
    with pytest.raises(ClipError, match="rate of 999983 Hz cannot be changed to 16000 Hz in fair"):
        torchaudio_resampled(torch.zeros(8, requires_grad=True), 999983, 16000, 6)


def test_encoders_are_loaded_once(run, monkeypatch):
    loaded = []

    def counted(*given):
        loaded.append(given)
        return kept(*given)

    kept = live.encoders_of
    monkeypatch.setattr(live, "encoders_of", counted)
    scorer = Scorer.from_file(run, device="cpu")
    for _ in range(3):
        scorer.score(clips(2), RATE)
    assert copy.deepcopy(scorer) is scorer
    assert len(loaded) == 1
    again = pickle.loads(pickle.dumps(scorer))
    assert len(loaded) == 2
    expected = scorer.tensor(clips(2), RATE)
    torch.testing.assert_close(again.tensor(clips(2), RATE), expected, rtol=0, atol=0)


def test_a_name_on_the_hub_is_pulled(run, monkeypatch):
    asked = []

    def pull(*given):
        asked.append(given)
        return run / "head.safetensors"

    monkeypatch.setattr("qamro_cache.scoring.scorer.pull", pull)
    assert Scorer.from_pretrained("owner/name", device="cpu").axes == ("quality",)
    Scorer.from_pretrained("owner/name", revision="v1", device="cpu")
    assert asked == [("owner/name", "main"), ("owner/name", "v1")]
    monkeypatch.undo()
    pytest.importorskip("huggingface_hub")
    with pytest.raises(OptionError, match="is no repository of the hub"):
        Scorer.from_pretrained(None)


def test_threads_do_not_disturb_each_other(scorer):
    asked = clips(8)
    expected = [scorer.tensor(one, RATE).item() for one in asked]
    found = [0.0] * len(asked)

    def work(k):
        found[k] = scorer.tensor(asked[k], RATE).item()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_prompts_reach_a_head_that_takes_them(fake, tmp_path):
    run = make_head(tmp_path, ("fake",), text="text")
    table = pd.read_csv(tmp_path / "audio" / "clips.csv")
    expected = predict(run, manifest=tmp_path / "audio" / "clips.csv")["prediction"].to_numpy()
    scorer = Scorer.from_file(run, device="cpu")
    paths = [tmp_path / "audio" / name for name in table["path"]]
    found = scorer.score(paths, prompts=table["prompt"])["prediction"]
    np.testing.assert_allclose(found, expected, **NEAR)
    streamed = pd.concat(scorer.stream(iter(paths), prompts=iter(table["prompt"]), block=5))
    np.testing.assert_allclose(streamed["prediction"], expected, **NEAR)
    one = scorer.score(paths[:2], prompts="a sound of kind 0")
    assert one["prediction"][0] == pytest.approx(expected[0], abs=4e-5)
    assert abs(one["prediction"][1] - expected[1]) > 1e-4, "its own prompt is another one"
    streamed = pd.concat(scorer.stream(paths[:2], prompts="a sound of kind 0", block=1))
    np.testing.assert_allclose(streamed["prediction"], one["prediction"], **NEAR)
    with pytest.raises(OptionError, match="this head takes the prompt too; give prompts"):
        scorer.score(paths)
    missing = scorer.score(paths[:2], prompts=["a sound of kind 0", ""])
    assert missing["reason"].tolist() == ["", "no prompt"]


@pytest.mark.parametrize("context", ["group", "reference", "both"])
def test_a_head_that_compares_is_told_with_what(fake, tmp_path, context):
    run = make_head(tmp_path, ("fake",), context=context)
    table = pd.read_csv(tmp_path / "audio" / "clips.csv")
    expected = predict(run, manifest=tmp_path / "audio" / "clips.csv")["prediction"].to_numpy()
    scorer = Scorer.from_file(run, device="cpu")
    paths = [str(tmp_path / "audio" / name) for name in table["path"]]
    references = [str(tmp_path / "audio" / name) for name in table["reference"]]
    about = {"groups": table["group"], "references": references}
    np.testing.assert_allclose(scorer.score(paths, **about)["prediction"], expected, **NEAR)
    # In memory, too, where a reference is told by being the same object.
    sounds = [soundfile.read(path, dtype="float32") for path in paths]
    held = [{"array": samples, "sampling_rate": rate} for samples, rate in sounds]
    about["references"] = [held[paths.index(path)] for path in references]
    found = scorer.tensor(held, **about)[:, 0]
    np.testing.assert_allclose(found, expected, **NEAR)
    if context == "reference":
        # References that are no clips have no rows.
        outside = scorer.score(paths[4:], references=references[4:])
        np.testing.assert_allclose(outside["prediction"], expected[4:], **NEAR)
        assert len(outside) == len(scorer.tensor(paths[4:], references=references[4:])) == 8
        # One for all.
        for_all = scorer.score(paths[4:], references=references[4])["prediction"]
        assert for_all[0] == pytest.approx(expected[4], abs=4e-5)
        with pytest.raises(QamroError, match="no clip names a reference"):
            scorer.score(paths)
    elif context == "group":
        with pytest.raises(QamroError, match="no clip has a group"):
            scorer.score(paths)
    with pytest.raises(OptionError, match="compares clips with each other"):
        next(scorer.stream(paths))


def test_another_encoder_than_the_heads_is_refused(run):
    head = load_head(run)
    other = replace(head, identities=({**head.identities[0], "precision": "tf32"},))
    with pytest.raises(QamroError, match="tf32"):
        Scorer(other, "cpu")


def test_a_gradient_where_there_is_none_is_one_line(scorer):
    wave = torch.zeros(RATE, requires_grad=True)
    with pytest.raises(OptionError, match="encoder mel has no gradient by the samples"):
        scorer.tensor(wave, RATE)
    with torch.no_grad():
        assert scorer.tensor(wave, RATE).shape == (1, 1)


@pytest.fixture(scope="module")
def through_distillmos(tmp_path_factory):
    pytest.importorskip("distillmos")
    run = make_head(tmp_path_factory.mktemp("gradient"), ("distillmos",), 6)
    return Scorer.from_file(run)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["short", "long", "stereo", "resampled", "silence"])
def test_the_gradient_is_that_of_finite_differences(through_distillmos, kind):
    scorer, rate = through_distillmos, 24000 if kind == "resampled" else RATE
    seconds, channels = 9.0 if kind == "long" else 1.0, 2 if kind == "stereo" else 1
    samples = torch.from_numpy(sound(2, seconds, rate, channels).T.copy())
    if kind == "silence":
        samples[:, 4000:8000] = 0
    wave = samples.clone().requires_grad_()
    value = scorer.tensor([wave], rate)
    assert value.item() == pytest.approx(scorer.score([samples], rate)["prediction"][0], abs=4e-5)
    (grad,) = torch.autograd.grad(value.sum(), wave)
    assert grad.shape == samples.shape
    assert grad.isfinite().all()
    loud = samples.abs() > 0
    generator = torch.Generator().manual_seed(1)
    ways = [grad * loud, grad * loud * torch.rand(samples.shape, generator=generator)]
    for way in ways:
        way = way / way.norm()
        # Small, since the encoder takes roots; the score moves a thousand times its rounding.
        step = 1e-5 * samples.norm()
        up, down = (scorer.tensor([samples + s * step * way], rate).double() for s in (1, -1))
        measured = ((up - down) / (2 * step)).item()
        assert measured == pytest.approx((grad * way).sum().item(), rel=0.015)
        assert abs(up - down) > 1e-4


@pytest.mark.slow
def test_a_gradient_is_of_its_own_clip_and_of_nothing_broken(through_distillmos):
    scorer = through_distillmos
    waves = [torch.from_numpy(one[:, 0].copy()).requires_grad_() for one in clips(3)]
    short = torch.zeros(10, requires_grad=True)
    values = scorer.tensor([*waves, short], RATE)
    assert values.isfinite()[:, 0].tolist() == [True] * 3 + [False]
    grads = torch.autograd.grad(values[1, 0], waves, allow_unused=True, retain_graph=True)
    assert grads[1].abs().sum() > 0
    assert all(grad is None or not grad.any() for grad in (grads[0], grads[2]))
    alone = scorer.tensor(waves[1], RATE)
    (grad,) = torch.autograd.grad(alone.sum(), waves[1])
    assert (grad - grads[1]).norm() < 1e-3 * grad.norm()
    with pytest.raises(OptionError, match="all are tensors or arrays of floats"):
        scorer.tensor([waves[0], "a.wav"], RATE)
    # Climbing it raises the score.
    wave, start = waves[0].detach().clone(), values[0, 0].item()
    for _ in range(5):
        wave.requires_grad_()
        (grad,) = torch.autograd.grad(scorer.tensor(wave, RATE).sum(), wave)
        wave = (wave + 0.02 * wave.norm() * grad / grad.norm()).detach()
    assert scorer.tensor(wave, RATE).item() > start + 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_says_the_same_in_batches_and_has_the_gradient(through_distillmos):
    on_gpu = through_distillmos
    assert on_gpu.device.startswith("cuda")
    on_cpu = Scorer(on_gpu.head, "cpu")
    asked = [torch.from_numpy(one.T.copy()) for one in (*clips(9), sound(3, 9.0, RATE, 2))]
    expected = on_cpu.tensor(asked, RATE)
    found = on_gpu.tensor([one.cuda() for one in asked], RATE)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=4e-3)
    table = on_gpu.score(asked, RATE)
    np.testing.assert_allclose(table["prediction"], found[:, 0].cpu(), rtol=0, atol=4e-5)
    for wave in (asked[0], asked[-1]):
        ways = []
        for scorer, device in ((on_gpu, "cuda"), (on_cpu, "cpu")):
            here = wave.to(device).requires_grad_()
            (grad,) = torch.autograd.grad(scorer.tensor([here], RATE).sum(), here)
            ways.append(grad.cpu())
        assert torch.nn.functional.cosine_similarity(*(w.flatten() for w in ways), dim=0) > 0.999
