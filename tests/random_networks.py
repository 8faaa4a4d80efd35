"""Checkpoints of our CLAP and Audiobox networks with random weights; no upstream package needed."""

from pathlib import Path

import torch
from clap_reference import stir

from qamro_cache.encoders import clap
from qamro_cache.encoders.audiobox import AXES, AudioboxEncoder
from qamro_cache.encoders.htsat import BANDS, FRAME, SIZES
from qamro_cache.encoders.mel import mel_filters
from qamro_cache.encoders.protocol import EncoderOptions
from qamro_cache.encoders.wavlm import WIDTH, WavLM


def make_clap(folder: Path, size: str = "HTSAT-base") -> clap.ClapEncoder:
    """Load our CLAP without its text tower, on the CPU in float32, from a file written here."""
    torch.manual_seed(0)
    network = clap.ClapNetwork(next(known for known in SIZES if known.name == size))
    filters = mel_filters(clap.SAMPLE_RATE, FRAME, BANDS) / (clap.SAMPLE_RATE / FRAME)  # of Hz
    network.audio_branch.logmel_extractor.melW.data = filters
    for module in network.audio_branch.modules():
        if isinstance(module, torch.nn.Linear):  # as upstream begins
            torch.nn.init.trunc_normal_(module.weight, std=0.02)
    stir(network)
    unused = dict.fromkeys(clap.UNUSED, torch.zeros(1))
    state = network.state_dict() | clap.expected_constants(network) | unused
    file = folder / "random-clap.pt"
    torch.save({"state_dict": state}, file)
    options = EncoderOptions(checkpoint=str(file), tokenizer="none", precision="float32")
    return clap.ClapEncoder(options, "cpu")


def make_audiobox(folder: Path) -> AudioboxEncoder:
    """Load our Audiobox, on the CPU in float32, from a file written here."""
    torch.manual_seed(0)
    network = WavLM()
    stir(network)
    with torch.no_grad():
        network.encoder.pos_conv[0].weight_v.normal_(0, 0.01)
        for layer in network.encoder.layers:
            layer.self_attn.grep_a.normal_(1, 0.5)
        network.encoder.layers[0].self_attn.relative_attention_bias.weight.normal_()
    state = {f"wavlm_model.{name}": value for name, value in network.state_dict().items()}
    for axis in AXES:
        state[f"layer_weights.{axis}"] = torch.zeros(13)
        state[f"proj_layer.{axis}.0.weight"] = torch.zeros(1, WIDTH)
    scales = {axis: {"mean": 0.0, "std": 1.0} for axis in AXES}
    file = folder / "random-audiobox.pt"
    torch.save({"state_dict": state, "model_cfg": {}, "target_transform": scales}, file)
    return AudioboxEncoder(EncoderOptions(checkpoint=str(file), precision="float32"), "cpu")
