"""What CLAP refuses: checkpoints that do not fit, code in pickles, wrong vocabularies."""

import datetime
import functools
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from clap_reference import write_vocabulary

from qamro_cache.encoders import clap
from qamro_cache.encoders.clap import load_network
from qamro_cache.encoders.prompts import refuse_alike
from qamro_cache.encoders.protocol import EncoderOptions, WeightsOptions
from qamro_cache.encoders.registry import load_encoder, options_of
from qamro_cache.encoders.roberta import (
    find_tokenizer,
    load_tokenizer,
    tokenizer_sha256,
)
from qamro_cache.encoders.weights import read_checkpoint, state_dict_of
from qamro_cache.errors import QamroError
from qamro_cache.identity import identity_of

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed"
)


@pytest.fixture(scope="module")
def state(clap_reference) -> dict[str, torch.Tensor]:
    return state_dict_of(read_checkpoint(clap_reference.checkpoint), clap_reference.checkpoint)


@pytest.fixture(scope="module")
def network():
    """Return what makes the network of a size, once: what is refused is not loaded into it."""
    return functools.cache(clap.ClapNetwork)


def load(monkeypatch, state, **changes):
    """Load a changed state as if it stood in a file, which would be 600 MB."""
    changed = {name: value for name, value in (state | changes).items() if value is not None}
    monkeypatch.setattr(clap, "read_checkpoint", lambda path, allow: {"state_dict": changed})
    return load_network(Path("changed.pt"))


NORM = "audio_branch.norm.bias"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({NORM: None}, r"1 tensors missing \(audio_branch.norm.bias\)"),
        ({"extra": torch.zeros(1)}, r"1 tensors unexpected \(extra\)"),
        ({NORM: torch.zeros(5)}, r"shapes differ \(audio_branch.norm.bias is \[5\], not \[1024\]"),
        ({"logit_scale_a": None}, "logit_scale_a is missing"),
        (
            {"audio_branch.layers.0.blocks.1.attn_mask": torch.zeros(64, 64, 64)},
            "attn_mask is not what HTSAT-base computes with",
        ),
        (
            {"audio_branch.spectrogram_extractor.stft.conv_real.weight": torch.ones(513, 1, 1024)},
            "conv_real.weight is not what",
        ),
        ({"audio_branch.patch_embed.mel_conv2d.weight": torch.zeros(1)}, "is a fusion model"),
        (
            {"audio_branch.patch_embed.proj.weight": torch.zeros(64, 1, 4, 4)},
            r"no CLAP that we know \(width 64, blocks \(2, 2, 12, 2\)\)",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(monkeypatch, state, network, changes, message):
    monkeypatch.setattr(clap, "ClapNetwork", network)
    with pytest.raises(QamroError, match=message):
        load(monkeypatch, state, **changes)


def test_position_ids_and_the_wrappers_prefix_may_be_there_or_not(monkeypatch, state):
    bare = {n: v for n, v in state.items() if not n.endswith("position_ids")}
    network, size = load(monkeypatch, bare)
    assert size.name == "HTSAT-base"
    assert torch.equal(network.audio_branch.norm.bias, state[NORM])


class Evil:
    def __reduce__(self):
        return os.system, ("echo ran > ran.txt",)


def test_code_in_a_checkpoint_does_not_run_unless_allowed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "x": Evil()}, "evil.pt")
    with pytest.raises(QamroError, match=r"could run code: (posix|nt).system"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran.txt").exists()


def test_unknown_types_are_named_and_can_be_allowed(tmp_path):
    torch.save({"when": datetime.date(2024, 1, 1)}, tmp_path / "dated.pt")
    with pytest.raises(QamroError, match=r"datetime.date; if you trust"):
        read_checkpoint(tmp_path / "dated.pt")
    assert read_checkpoint(tmp_path / "dated.pt", allow_pickle=True)["when"].year == 2024


def test_what_is_no_checkpoint(tmp_path):
    (tmp_path / "text.pt").write_text("<html>404</html>")
    with pytest.raises(QamroError, match="cannot be read"):
        read_checkpoint(tmp_path / "text.pt")
    with pytest.raises(QamroError, match="is not a file"):
        read_checkpoint(tmp_path / "nothing.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(QamroError, match="no state_dict"):
        state_dict_of(read_checkpoint(tmp_path / "tensor.pt"), tmp_path / "tensor.pt")


def test_a_truncated_checkpoint_is_one_line(tmp_path, clap_reference):
    whole = clap_reference.checkpoint.read_bytes()[:1_000_000]
    (tmp_path / "cut.pt").write_bytes(whole)
    with pytest.raises(QamroError, match="fetch it again"):
        read_checkpoint(tmp_path / "cut.pt")


def test_an_empty_or_wrong_vocabulary_is_refused(tmp_path, clap_reference):
    assert len(load_tokenizer(clap_reference.tokenizer).get_vocab()) == 50_265
    small = write_vocabulary(tmp_path / "small", tokens=1000)
    with pytest.raises(QamroError, match="has 1,000 tokens, not RoBERTa's 50,265"):
        load_tokenizer(small)
    (tmp_path / "empty").mkdir()
    options = EncoderOptions(
        checkpoint=str(clap_reference.checkpoint), tokenizer=str(tmp_path / "empty")
    )
    with pytest.raises(QamroError, match="has no roberta-base vocabulary"):
        load_encoder("clap", options)
    with pytest.raises(QamroError, match=r"cannot be read|tokens, not"):
        load_tokenizer(tmp_path / "empty")


def test_without_a_vocabulary_nothing_is_silently_left_out(clap_reference, monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    options = EncoderOptions(checkpoint=str(clap_reference.checkpoint))
    with pytest.raises(QamroError, match="the local hub cache has no roberta-base vocabulary"):
        load_encoder("clap", options)


def test_the_vocabulary_is_found_in_the_local_hub_cache(clap_reference, monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert find_tokenizer("") is None
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--FacebookAI--roberta-base"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    shutil.copytree(clap_reference.tokenizer, repository / "snapshots" / revision)
    assert find_tokenizer("") == repository / "snapshots" / revision


def test_special_tokens_out_of_place_are_refused(tmp_path):
    folder = write_vocabulary(tmp_path / "moved")
    text = (folder / "vocab.json").read_text()
    (folder / "vocab.json").write_text(text.replace('"<pad>": 1,', '"<pod>": 1,'))
    with pytest.raises(QamroError, match=r"not in place|tokens, not"):
        load_tokenizer(folder)


def test_the_tokenizers_hash_does_not_depend_on_its_files(tmp_path, clap_reference):
    tokenizer = load_tokenizer(clap_reference.tokenizer)
    tokenizer.save_pretrained(tmp_path / "other")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "other" / name).unlink(missing_ok=True)
    again = load_tokenizer(tmp_path / "other")
    assert tokenizer_sha256(again) == tokenizer_sha256(tokenizer)


def test_prompts_that_come_out_alike_are_refused():
    tokens = torch.tensor([[0, 5, 2, 1], [0, 6, 2, 1], [0, 5, 2, 1]])
    text = torch.eye(3)
    with pytest.raises(QamroError, match="'a' and 'c' get the same tokens"):
        refuse_alike(["a", "b", "c"], tokens, text, 1)
    refuse_alike(["a", "b", "a"], tokens, text, 1)
    tokens[2, 1] = 7
    refuse_alike(["a", "b", "c"], tokens, text, 1)
    text[2] = text[0] + 1e-8
    with pytest.raises(QamroError, match="get the same embedding"):
        refuse_alike(["a", "b", "c"], tokens, text, 1)


def test_prompts_that_differ_beyond_the_cut_are_let_through():
    tokens = torch.tensor([[0, 5, 6, 2], [0, 5, 6, 2]])
    refuse_alike(["a b c", "a b d"], tokens, torch.ones(2, 3), 1)


def test_an_identity_is_made_again_by_its_options(clap_reference):
    checkpoint = str(clap_reference.checkpoint)
    options = EncoderOptions(
        checkpoint=checkpoint,
        tokenizer="none",
        precision="float32",
        rate_policy="as-is",
        int16=False,
    )
    identity = identity_of(load_encoder("clap", options).spec)
    assert options_of(identity, WeightsOptions(checkpoint)) == options
    for name in ("mel", "clap"):
        whole = EncoderOptions(
            checkpoint=checkpoint if name == "clap" else "",
            tokenizer=str(clap_reference.tokenizer) if name == "clap" else "",
            precision="float32" if name == "clap" else "auto",
        )
        identity = identity_of(load_encoder(name, whole).spec)
        assert options_of(identity, WeightsOptions(whole.checkpoint, whole.tokenizer)) == whole
