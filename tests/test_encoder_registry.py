"""Encoders by name, and what is said when one cannot be had."""

import pytest

from qamro_cache.encoders import registry
from qamro_cache.encoders.protocol import EncoderInfo, EncoderOptions
from qamro_cache.errors import QamroError


def info(**changes) -> EncoderInfo:
    fields = dict.fromkeys(("summary", "source", "license", "dims", "argument"), "")
    fields |= {"name": "x", "missing": lambda a, o: (), "load": lambda a, o, d: (a, o, d)}
    return EncoderInfo(**fields | changes)


class Point:
    def __init__(self, name, value):
        self.name, self.value = name, name
        self._value = value

    def load(self):
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


@pytest.fixture
def plug_ins(monkeypatch):
    def install(*points):
        monkeypatch.setattr(registry, "entry_points", lambda group: points)

    return install


def test_built_in_encoders_come_first_and_are_described():
    found = registry.list_encoders()
    first = found[: len(registry.BUILT_IN)]
    assert [e.name for e in first] == [n.replace("huggingface", "hf") for n in registry.BUILT_IN]
    assert all(e.summary and e.source and e.license and e.dims for e in found)


def test_unknown_name_lists_those_there_are():
    with pytest.raises(QamroError, match=r"no encoder 'nope'; there are: mel.*distillmos"):
        registry.load_encoder("nope")


def test_argument_is_refused_or_needed(plug_ins):
    plug_ins(Point("x", info(argument="NAME")))
    with pytest.raises(QamroError, match="mel takes nothing after a colon"):
        registry.load_encoder("mel:large")
    with pytest.raises(QamroError, match="x needs NAME"):
        registry.load_encoder("x")
    loaded = registry.load_encoder("x:a:b", device="cuda:1")
    assert loaded == ("a:b", EncoderOptions(precision="float32"), "cuda:1")


def test_everything_missing_is_said_in_one_line(plug_ins):
    plug_ins(Point("x", info(missing=lambda a, o: ["no package", "no file"])))
    with pytest.raises(QamroError, match="x is not ready: no package; no file"):
        registry.load_encoder("x")


def test_an_option_that_an_encoder_does_not_take_is_refused_for_it(plug_ins):
    plug_ins(Point("x", info()), Point("y", info(name="y", takes=("precision", "int16"))))
    half = EncoderOptions(precision="float16")
    with pytest.raises(QamroError, match=r"encoder x takes no precision \(given: 'float16'\)"):
        registry.load_encoder("x", half)
    assert registry.load_encoder("y", half)[1] == half
    # What is recorded of an encoder is asked of it again where it takes that; the rest it is.
    audio = {"rate_policy": "as-is", "int16": False}
    recorded = {"precision": "float16", "tokenizer_sha256": "", "audio": audio}
    assert registry.options_of(recorded | {"name": "x"}) == EncoderOptions()
    of_y = EncoderOptions(precision="float16", int16=False)
    assert registry.options_of(recorded | {"name": "y"}) == of_y


def test_broken_plug_ins_are_left_out_with_a_notice(plug_ins, caplog):
    plug_ins(
        Point("a", ImportError("broken")), Point("b", "no info"), Point("c", info(name="mel")),
        Point("d", info()),
    )  # fmt: skip
    names = [e.name for e in registry.list_encoders()]
    assert names.count("mel") == 1
    assert names[-1] == "x"
    assert [r.message.split(":")[0] for r in caplog.records] == [
        f"encoder plug-in {name} left out" for name in "abc"
    ]


def test_unknown_rate_policy():
    with pytest.raises(ValueError, match="rate_policy must be one of resample, as-is"):
        EncoderOptions(rate_policy="fast")


@pytest.mark.parametrize(
    "identity", [{}, {"name": "mel"}, {"name": "mel", "audio": 3}, {"name": "mel", "audio": {}}]
)
def test_an_identity_that_names_no_encoder_is_one_line(identity):
    """A head or cache may be a stranger's, with right checksums."""
    with pytest.raises(QamroError, match="names no encoder that can be loaded"):
        registry.options_of(identity)
