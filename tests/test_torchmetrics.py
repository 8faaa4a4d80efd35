"""`QamroScore` in a loop as Lightning runs it, and what torchmetrics asks of a metric."""

import copy
import sys
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from door_support import make_head, sound

from qamro_cache import Scorer
from qamro_cache.errors import OptionError, QamroError

torchmetrics = pytest.importorskip("torchmetrics")

from qamro_cache.integrations.torchmetrics import QamroScore  # noqa: E402

RATE = 16000


def batch(first, count, seconds=0.6, channels=1):
    waves = [sound(first + k, seconds, RATE, channels).T for k in range(count)]
    return torch.from_numpy(np.stack(waves))


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    return Scorer.from_file(make_head(tmp_path_factory.mktemp("metric")), device="cpu")


class Module(torch.nn.Module):
    """What a LightningModule of a generator does with a metric, by the same hooks."""

    def __init__(self, scorer):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.quality = QamroScore(scorer, sample_rate=RATE, axis="quality")
        self.logged = []

    def validation_step(self, waves, index):
        self.quality.update(waves)

    def on_validation_epoch_end(self):
        self.logged.append(self.quality.compute().item())
        self.quality.reset()


def test_a_loop_logs_the_mean_of_each_epoch_however_it_is_batched(scorer):
    module = Module(scorer).to("cpu").train()
    whole = batch(40, 6)[:, 0]
    expected = scorer.score(list(whole), RATE)["prediction"].mean()
    for sizes in ([6], [1, 5], [2, 2, 2]):
        module.eval()
        for index, part in enumerate(whole.split(sizes)):
            module.validation_step(part, index)
        module.on_validation_epoch_end()
        module.train()
    np.testing.assert_allclose(module.logged, expected, rtol=1e-6)
    # No weight of an encoder goes into a checkpoint.
    assert set(module.state_dict()) == {"layer.weight", "layer.bias"}


def test_a_call_gives_the_batch_and_keeps_the_sum(scorer):
    metric = QamroScore(scorer, RATE)
    mono, stereo = batch(50, 2), batch(52, 3, channels=2)
    first, second = metric(mono[:, 0]), metric(stereo)
    alone = [scorer.score(list(part), RATE)["prediction"].to_numpy() for part in (mono, stereo)]
    assert first.item() == pytest.approx(alone[0].mean(), rel=1e-6)
    assert second.item() == pytest.approx(alone[1].mean(), rel=1e-6)
    assert metric.compute().item() == pytest.approx(np.concatenate(alone).mean(), rel=1e-6)
    one = QamroScore(scorer, RATE)
    one.update(mono[0, 0])
    assert one.compute().item() == pytest.approx(alone[0][0], rel=1e-6)
    several = QamroScore(scorer, RATE)
    several.update([mono[0, 0].numpy(), stereo[0]])
    assert several.count == 2
    with pytest.raises(OptionError, match=r"clips are \[clips, frames\]"):
        one.update(mono[None])
    with pytest.raises(
        OptionError, match=r"\[16000, 2\] would be 16000 clips of 2 samples; give one"
    ):
        one.update(torch.zeros(16000, 2))


def test_processes_join_their_states(scorer):
    parts = [QamroScore(scorer, RATE) for _ in range(2)]
    parts[0].update(batch(60, 1))
    parts[1].update(batch(61, 3))
    whole = QamroScore(scorer, RATE)
    whole.update(batch(60, 4))
    parts[0].merge_state(parts[1])
    assert parts[0].compute().item() == pytest.approx(whole.compute().item(), rel=1e-6)


def test_it_is_a_metric_as_others_are(scorer, caplog):
    metric = QamroScore(scorer, RATE)
    assert metric.higher_is_better is True
    assert metric.full_state_update is False
    assert metric.is_differentiable is False
    group = torchmetrics.MetricCollection({"quality": metric, "again": metric.clone()})
    found = group(batch(70, 2))
    assert found["quality"] == found["again"]
    assert copy.deepcopy(metric).scorer is scorer
    # A clip that is too short is left out, not counted as 0.
    waves = batch(72, 2)
    metric.reset()
    metric.update(waves.numpy())
    assert metric.count == 2
    assert metric.compute() == pytest.approx(metric.clone()(waves).item())
    metric.reset()
    metric.update([waves[0], waves[1], np.zeros(3, np.float32)])
    assert metric.count == 2
    assert "1 of 3 clips cannot be scored" in caplog.text
    with pytest.raises(OptionError, match="this head has no axis 'fun'"):
        QamroScore(scorer, RATE, "fun")


def test_two_heads_in_a_collection_stay_two_where_nothing_could_be_scored_at_first(scorer):
    (one,) = scorer.head.axes
    other = replace(scorer.head, axes=(replace(one, label_mean=one.label_mean + 0.5),))
    pair = {"a": QamroScore(scorer, RATE), "b": QamroScore(Scorer(other, "cpu"), RATE)}
    group = torchmetrics.MetricCollection(pair)
    group.update(torch.full((2, RATE), torch.nan))
    group.update(batch(80, 2))
    found = group.compute()
    assert (found["b"] - found["a"]).item() == pytest.approx(0.5, abs=1e-5)


def test_it_is_drawn_within_its_scale(scorer):
    mpl.use("Agg")
    metric = QamroScore(scorer, RATE)
    values = [metric(batch(80 + k, 1)) for k in range(3)]
    figure, axes = metric.plot(values)
    low, high = axes.get_ylim()
    assert low <= 1
    assert high >= 5
    assert metric.plot()[0] is not figure


def test_without_torchmetrics_one_line_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.delitem(sys.modules, "qamro_cache.integrations.torchmetrics")
    with pytest.raises(QamroError, match="package torchmetrics is not installed; ") as caught:
        import qamro_cache.integrations.torchmetrics  # noqa: F401
    assert "\n" not in str(caught.value)
