"""Batches of epochs to come: those of the schedule, drawn beside the work, in bounded memory."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qamro_cache.training.gpu import ahead
from qamro_cache.training.schedule import Schedule


class Recorded:
    """Own batches of three heads, and who drew each epoch."""

    def __init__(self):
        pools = tuple(np.arange(k, 30 + k) for k in range(3))
        self.schedule, self.drawn = Schedule(pools, (5, 6, 7), 13, 30, 2), []

    def epoch(self, number):
        self.drawn.append((number, threading.current_thread().name))
        return self.schedule.epoch(number)


def batches(epochs):
    return SimpleNamespace(schedule=Recorded(), epochs=epochs, device=torch.device("cpu"))


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("many", [1, 4, 64])
def test_they_are_those_of_the_schedule(monkeypatch, start, many):
    monkeypatch.setattr(ahead, "AHEAD_BYTES", many * 4 * 3 * 60)
    source = batches(11)
    taken = ahead.Ahead(source)
    assert taken.most == many
    blocks = []
    for number in range(start, 11):
        expected = np.concatenate([c for c, _ in source.schedule.schedule.epoch(number)], axis=1)
        got = taken.take(number)
        assert got.dtype == torch.int32
        assert np.array_equal(got.numpy(), expected)
        if not blocks or taken.block is not blocks[-1]:
            blocks.append(taken.block)
    # The device waits for few; each block then doubles what is drawn, up to the bound.
    whole = {0: [2, 2, 4, 3], 5: [2, 2, 2]}[start]
    assert [len(one) for one in blocks] == (whole if many > 2 else [many] * (11 - start))
    drawn = source.schedule.drawn[1:]  # the first says how large a table is
    assert sorted(number for number, _ in drawn) == list(range(start, 11))
    assert all(name.startswith("qamro-batches") for _, name in drawn)


def test_the_next_are_drawn_before_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(ahead, "AHEAD_BYTES", 0)
    source = batches(3)
    taken = ahead.Ahead(source)
    taken.take(0)
    for table in taken.coming[1]:
        table.result(60)
    assert [number for number, _ in source.schedule.drawn] == [0, 0, 1]


def test_memory_for_copies_is_taken_by_who_captures(monkeypatch):
    """Asked for by another thread meanwhile, it would break a capture."""
    real, threads = ahead.sent, []

    def seen(*given):
        threads.append(threading.current_thread())
        return real(*given)

    monkeypatch.setattr(ahead, "sent", seen)
    assert ahead.Ahead(batches(3)).take(2).shape == (3, 60)
    assert threads == [threading.main_thread()]
