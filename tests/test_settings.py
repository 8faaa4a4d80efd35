"""Declarations of options: what they allow, refuse and show."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from qamro_cache.settings import check_settings, from_options, setting, settings_of


@dataclass(frozen=True)
class Record:
    rate: float = setting(0.5, "Rate.", low=0, below=1)
    count: int = setting(3, "Count.", low=1, high=100, why="more would not fit")
    step: float = setting(1.0, "Step.", above=0)
    kind: str = setting("one", "Kind.", choices=("one", "two"), name="variant")
    widths: tuple[int, ...] = setting((4, 2), "Widths.", low=1)
    on: bool = setting(False, "On.")
    file: Path | None = setting(None, "File.")
    plain: str = "not declared"

    def __post_init__(self):
        check_settings(self)


def test_values_come_out_in_their_types():
    record = Record(rate=0, widths=[8], file="a.csv")
    assert isinstance(record.rate, float)
    assert record.widths == (8,)
    assert record.file == Path("a.csv")
    assert list(settings_of(Record)) == ["rate", "count", "step", "kind", "widths", "on", "file"]
    assert settings_of(Record)["kind"].name == "variant"


def test_numbers_of_numpy_are_numbers():
    record = Record(rate=np.float32(0.25), count=np.int64(7), widths=list(np.arange(1, 3)))
    assert (record.rate, record.count, record.widths) == (0.25, 7, (1, 2))
    assert {type(one) for one in (record.rate, record.count, *record.widths)} == {float, int}
    with pytest.raises(ValueError, match=r"count must be a whole number, got .*2\.0"):
        Record(count=np.float64(2))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rate": 1}, "rate must be below 1, got 1"),
        ({"rate": float("nan")}, "rate must be at least 0, got nan"),
        ({"rate": "0.5"}, "rate must be a number, got '0.5'"),
        ({"rate": True}, "rate must be a number, got True"),
        ({"count": 2.0}, "count must be a whole number, got 2.0"),
        ({"count": 101}, r"count must be at most 100 \(more would not fit\), got 101"),
        ({"step": 0}, "step must be above 0, got 0"),
        ({"step": float("inf")}, "step must be finite, got inf"),
        ({"step": 10**400}, "step must be finite, got 1000"),
        ({"kind": "tow"}, "variant must be one of one, two, got 'tow'; did you mean 'two'?"),
        ({"widths": 8}, "widths must be a list of values, got 8"),
        ({"widths": (8, 0)}, "widths must be at least 1, got 0"),
        ({"file": ""}, "file is empty; name a file or folder"),
        ({"on": 1}, "on must be true or false, got 1"),
    ],
)
def test_what_is_not_declared_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Record(**given)


def test_none_is_an_option_that_was_not_given():
    assert from_options(Record, {"rate": None, "count": 5, "file": None}) == Record(count=5)


def test_a_value_is_read_as_it_is_shown():
    declared = settings_of(Record)
    for name, value in (
        ("rate", 0.25),
        ("rate", 0.1 + 0.2),
        ("widths", (256, 64)),
        ("on", True),
        ("widths", ()),
    ):
        assert declared[name].parse(declared[name].show(value)) == value
    with pytest.raises(ValueError, match="widths must be whole numbers joined by -, got '8-x'"):
        declared["widths"].parse("8-x")
    assert Record(widths="8-4").widths == (8, 4)
