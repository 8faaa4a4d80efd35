"""Every encoder works with the network cut off, at once, and reaches for no hub."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest

UNSHARE = ["unshare", "--user", "--map-root-user", "--net"]


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not can_unshare(), reason="no network namespace can be made here")


#: Before code that must not even look for a hub's address, and after it.
NO_LOOKING = """
import socket
reached = []
def look(*address, **options):
    reached.append(address)
    raise OSError("no network")
socket.getaddrinfo = look
"""
NOT_REACHED = "assert not reached, reached\n"


def run(code: str) -> None:
    """Run code where there is no network."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_there_is_no_network_in_there():
    code = (
        "import socket\n"
        "try: socket.create_connection(('127.0.0.1', 80), 1)\n"
        "except OSError as e: assert e.errno == 101, e\n"
    )
    run(code)


def test_listing_missing_models_and_encoders_without_a_download_reach_for_nothing():
    here = ["mel", *(name for name in ("distillmos", "resemblyzer") if find_spec(name))]
    run(
        NO_LOOKING + "from qamro_cache.encoders.registry import list_encoders, load_encoder\n"
        "from qamro_cache.errors import QamroError\n"
        "list_encoders()\n"
        "for name in ('hf:someone/nothing', 'clap', 'muq'):\n"
        "    try: load_encoder(name)\n"
        "    except QamroError as error: assert 'not ready' in str(error)\n"
        "    else: raise AssertionError(name)\n"
        f"for name in {here}: load_encoder(name)\n" + NOT_REACHED
    )


@pytest.mark.slow
def test_clap_and_audiobox(clap_reference, audiobox_reference):
    """The first held against laion_clap too, whose import alone reaches for a hub."""
    run(
        "from qamro_cache.encoders.registry import load_encoder\n"
        "from qamro_cache.encoders.protocol import EncoderOptions as O\n"
        "from qamro_cache.encoders import upstream\n"
        "upstream.SOUNDS = upstream.SOUNDS[:2]\n"
        f"options = O(checkpoint={str(clap_reference.checkpoint)!r}, "
        f"tokenizer={str(clap_reference.tokenizer)!r})\n"
        "clap = load_encoder('clap', options)\n"
        "assert clap.encode_text(['one', 'two'])['text'].shape == (2, 512)\n"
        "agrees, line = upstream.compare(clap, options, 'cpu')\n"
        "assert agrees and 'laion-clap 1.1.7' in line, line\n"
        f"load_encoder('audiobox', O(checkpoint={str(audiobox_reference.file)!r}))\n"
    )
