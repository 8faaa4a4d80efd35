"""The heads that come with the package: what they are, and that they say what they are worth."""

import json
import re
from importlib.metadata import files
from pathlib import Path

import pytest

import qamro_cache
from qamro_cache.encoders.registry import load_encoder
from qamro_cache.heads.file import load_head
from qamro_cache.heads.info import head_info
from qamro_cache.identity import identity_of

ROOT = Path(__file__).resolve().parents[1]


def test_the_head_that_comes_along_is_small_and_the_one_of_the_figures():
    assert qamro_cache.list_heads() == ["codec-quality"]
    info = head_info("codec-quality")
    assert info["bytes"] < 1_000_000
    assert (info["dataset"], info["synthetic"], info["context"]) == ("codec-mushra", False, "none")
    kept = json.loads((ROOT / "benchmarks" / "results" / "codec-quality.json").read_text())["info"]
    assert {**info, "file": ""} == {**kept, "file": ""}
    assert "/" not in json.dumps(load_head("codec-quality").training["given"]), "a machine's path"


def test_its_card_names_whom_to_name_and_what_it_does_not_beat():
    pytest.importorskip("huggingface_hub")
    from qamro_cache.integrations.card import model_card

    card = model_card("codec-quality")
    for words in ("license: cc-by-4.0", "Stahl", "Windtner", "Sontacchi", "Peter Kabal",
                  "creativecommons.org/licenses/by/4.0/", "encoder's weights: MIT",
                  "**example**"):  # fmt: skip
        assert words.casefold() in card.casefold(), words
    own = next(line for line in card.splitlines() if line.startswith("- Against distillmos mos"))
    low, high = map(float, re.search(r"within signals: no \(\S+, (\S+) to (\S+)\)", own).groups())
    assert low < 0 < high
    assert "**not better**" in own


def test_its_encoder_is_ours():
    pytest.importorskip("distillmos")
    (identity,) = load_head("codec-quality").identities
    assert identity == identity_of(load_encoder("distillmos").spec)


def test_a_wheel_has_it():
    setup = (ROOT / "setup.cfg").read_text()
    assert "heads/*.safetensors" in setup
    assert files("qamro-cache") is not None
