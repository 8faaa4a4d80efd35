"""Heads to and from a hub: a stand-in of its HTTP interface on this machine; and their cards."""

import logging
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hub_standin import TOKEN, Hub
from qamro_cache_cli.head import main
from synthetic_cache import write_synthetic

from qamro_cache import list_heads, predict
from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.records import Axis
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.experiments.train import train
from qamro_cache.heads.calibration import fit_calibration
from qamro_cache.heads.file import load_head, save_head
from qamro_cache.heads.head import Ensemble, Preference
from qamro_cache.heads.info import head_info
from qamro_cache.integrations.card import _license, _verdict, model_card
from qamro_cache.integrations.export import _about
from qamro_cache.integrations.hub import pull, push
from qamro_cache.integrations.program import HeadProgram

hub_library = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of quick heads on synthetic data: its folder, its cache, what train returned."""
    folder = tmp_path_factory.mktemp("trained")
    cache = write_synthetic(folder / "emb.h5", own_score=True)
    record = train(cache, folder / "run", cv="group", seeds=2, epochs=2, widths=[4], axis="quality")
    return folder / "run", cache, record


@pytest.fixture(params=[False, True], ids=["small", "large"])
def hub(request, monkeypatch, tmp_path):
    """A stand-in that the library of the hub takes for the hub."""
    server = Hub(lfs=request.param)
    settings = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between tries
    yield server
    server.shutdown()
    server.server_close()


def test_a_head_goes_to_the_hub_and_comes_back(trained, hub, tmp_path, monkeypatch):
    run, cache, _ = trained
    sent = push(run, "ann/quality", private=True)
    assert sent.startswith(f"{hub.url}/ann/quality/commit/")
    assert (hub.made[0]["visibility"], bool(hub.large)) == ("private", hub.lfs)
    files = hub.repositories["ann/quality"]
    assert files["head.safetensors"] == (run / "head.safetensors").read_bytes()
    assert files["README.md"].decode() == model_card(run, "ann/quality")
    back = pull("ann/quality")
    assert tmp_path in back.parents
    theirs = predict(back, cache)["prediction"]
    assert theirs.equals(predict(run, cache)["prediction"])
    hub.broken = 500  # What is in the cache is taken from there.
    assert pull("ann/quality") == back
    hub.broken = 0
    documents = (Path(__file__).resolve().parents[1] / "docs" / "heads.md").read_text()
    (example,) = re.findall(r"stand-in of the hub -->\n```python\n(.*?)```", documents, re.DOTALL)
    monkeypatch.chdir(run.parent)
    exec(example, {})
    (tmp_path / "mine.md").write_text("---\nlicense: mit\n---\nmine")
    push(run, "ann/quality", card=tmp_path / "mine.md")
    assert files["README.md"] == b"---\nlicense: mit\n---\nmine"


@pytest.mark.parametrize("hub", [False], indirect=True)
def test_what_goes_wrong_at_the_hub_is_one_line(trained, hub, monkeypatch, tmp_path):
    run, *_ = trained
    hub.repositories["ann/empty"] = {}
    hub.repositories["ann/odd"] = {"head.safetensors": b"no head"}
    said = {
        "ann/none": "there is no such repository, or you may not see it",
        "ann/empty": "has no head.safetensors, so no head of qamro_cache",
        "ann/odd": "is damaged or not a head file",
    }
    for name, words in said.items():
        with pytest.raises(QamroError, match=words):
            pull(name)
    with monkeypatch.context() as patch:
        patch.setattr("qamro_cache.heads.hub.MAX_FILE", 6)
        with pytest.raises(QamroError, match=r"of ann/odd has 7 bytes, more than a head can have"):
            pull("ann/odd", "v1")
    assert not [*tmp_path.rglob("*v1*")]  # nothing was fetched
    with pytest.raises(QamroError, match=r"ann/empty at .* has no revision 'v2'"):
        pull("ann/empty", "v2")
    for name in ("ann", "ann/b/c", "an n/b", "../b", "ann/..", ""):
        with pytest.raises(OptionError, match="is no repository of the hub, which is written own"):
            pull(name)
    (tmp_path / "bad.md").write_text("---\nlicense: my own\n---\n")
    with pytest.raises(QamroError, match=r'Invalid metadata.*"license" must be one of') as wrong:
        push(run, "ann/quality", card=tmp_path / "bad.md")
    assert "\n" not in str(wrong.value)
    with pytest.raises(QamroError, match="cannot be read as text"):
        push(run, "ann/quality", card=tmp_path / "none.md")
    with pytest.raises(QamroError, match="no such head file"):
        push(tmp_path / "none", "ann/quality")
    hub.broken = 503
    with pytest.raises(QamroError, match="ann/gone at "):
        pull("ann/gone")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(QamroError, match=r"answered 401: .*; log in with: hf auth login"):
        push(run, "ann/other")
    nowhere = "http://ann:secret@127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    template = nowhere + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    # Half a minute of tries helps nobody whose network is not there.
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits for a hub that is not"))
    with pytest.raises(QamroError, match=r"at http://127.0.0.1:9 cannot be reached, and is not in"):
        pull("ann/quality")
    with pytest.raises(QamroError, match=r"at http://127.0.0.1:9; mend the network, HF_ENDPOINT"):
        push(run, "ann/quality")


def test_what_was_fetched_once_needs_no_hub(trained, hub, monkeypatch):
    data = (trained[0] / "head.safetensors").read_bytes()
    hub.repositories["ann/quality"] = {"head.safetensors": data}
    first = pull("ann/quality")
    nowhere = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits for a hub that is not"))
    assert pull("ann/quality") == first
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pull("ann/quality").read_bytes() == data


def test_no_line_of_the_hubs_library_has_a_password(hub, monkeypatch):
    lines = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    secret = hub.url.replace("//", "//ann:secret@")
    monkeypatch.setattr(constants, "ENDPOINT", secret)
    template = secret + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    hub.broken = 503
    logger, keep = logging.getLogger("huggingface_hub"), Keep()
    logger.addHandler(keep)
    try:
        with pytest.raises(QamroError) as caught:
            pull("ann/gone")
    finally:
        logger.removeHandler(keep)
    assert "secret" not in " ".join([*lines, str(caught.value)])


@pytest.mark.slow
def test_the_command_finds_the_hub_by_its_environment(trained, tmp_path):
    run, *_ = trained
    hub = Hub()
    hub.repositories["ann/quality"] = {"head.safetensors": (run / "head.safetensors").read_bytes()}
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hf"),
    }
    out = tmp_path / "mine.safetensors"
    code = "import sys; from qamro_cache_cli.head import main; sys.argv[0] = 'qamro-head'; main()"
    command = [sys.executable, "-c", code, "pull", "ann/quality", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    hub.shutdown()
    hub.server_close()
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    assert out.read_bytes() == (run / "head.safetensors").read_bytes()


def test_without_the_library_its_extra_is_named(trained, monkeypatch):
    monkeypatch.setattr("qamro_cache.heads.hub.find_spec", lambda name: None)
    for call in (lambda: pull("ann/b"), lambda: push(trained[0], "ann/b"),
                 lambda: model_card(trained[0])):  # fmt: skip
        with pytest.raises(QamroError, match="huggingface_hub is not installed; run: pip install"):
            call()


def test_a_heads_figures_are_those_of_its_run(trained):
    run, _, record = trained
    figures = load_head(run).figures
    assert figures["split"] == record["split"]
    ours = record["axes"]["quality"]
    for name, model in figures["axes"]["quality"]["models"].items():
        assert model["clips"] == ours["models"][name]["clips"]
        for figure, found in model["metrics"].items():
            theirs = ours["models"][name]["metrics"][figure]
            for end in ("value", "low", "high"):
                known = theirs[end] if theirs[end] == theirs[end] else None
                assert found[end] == known
    assert figures["axes"]["quality"]["verdicts"][0]["words"] == ours["verdicts"][0]["words"]


def test_a_card_has_the_hubs_metadata_and_what_must_be_known(trained):
    run, _, record = trained
    text = model_card(run, "ann/quality")
    _, head, body = text.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["library_name"] == "qamro_cache"
    assert metadata["datasets"] == ["tiny"]
    assert "license" not in metadata, "nobody knows it"
    assert "base_model" not in metadata, "the encoder is none of the hub's"
    (model,) = metadata["model-index"]
    assert model["name"] == "quality"
    found = {one["name"].partition(" (")[0]: one for one in model["results"][0]["metrics"]}
    srcc = record["axes"]["quality"]["models"]["qamro head"]["metrics"]["clip_srcc"]
    mine = found["quality: Spearman correlation over clips"]
    assert mine["type"] == "spearmanr"
    assert mine["value"] == pytest.approx(srcc["value"])
    assert (mine["args"]["low"], mine["args"]["high"]) == pytest.approx((srcc["low"], srcc["high"]))
    assert "(95 % interval " in mine["name"]
    for words in ("synthetic data", "qamro-head pull ann/quality", "beats ", "## Limits",
                  "not stated in the head", "| ridge |", "a perfect predictor"):  # fmt: skip
        assert words in body, words
    assert hub_library.ModelCard(text).data.model_name == "quality"


def test_a_card_knows_what_the_head_learned_and_on_what_scale_it_scores(tmp_path):
    if not list_heads():
        pytest.skip("no head comes with the package")
    head, file = load_head(list_heads()[0]), tmp_path / "head.safetensors"
    (axis,) = head.axes

    def card(**changes):
        save_head(file, replace(head, **changes))
        said = CliRunner().invoke(main, ["info", str(file)])
        assert said.exit_code == 0, said.output
        return " ".join(model_card(file).split()), " ".join(said.stdout.split())

    words, said = card()
    assert "trained on all of these clips afterwards" in words
    assert "`quality` (0 to 100)" in words
    assert "MSE over clips" in words
    words, _ = card(training={**head.training, "cv": "split"})
    assert "The head in this file learned from none of these clips." in words
    asked = {"refit": "all"}
    words, _ = card(training={**head.training, "cv": "split", "asked": asked})
    assert "trained on all of these clips afterwards" in words

    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 100, 40)
    labels = 1 + scores / 25 + 0.1 * rng.standard_normal(40)
    line = fit_calibration(scores, labels, Axis("quality", 1.0, 5.0))
    words, said = card(calibration={"quality": line.record()})
    assert "`quality` (1 to 5, calibrated on 40 clips)" in words
    assert "quality 1 to 5, calibrated on 40 clips, 5 members" in said
    assert "MSE over clips" not in words
    assert "the figures are of its scores before" in words
    assert "figures of the scores before they were calibrated" in said
    # A run that calibrates, to its own scale, judges what it has calibrated.
    line = fit_calibration(scores, 25 * labels - 25, axis.axis)
    asked = {**head.training, "asked": {"calibrate": True}}
    words, said = card(calibration={"quality": line.record()}, training=asked)
    assert "`quality` (0 to 100, calibrated on 40 clips)" in words
    assert "MSE over clips" in words
    assert "before" not in said

    alone = replace(axis, preference=Preference(1.0, 0.1, alone=True))
    words, said = card(axes=(alone,))
    assert "`quality` (standard units)" in words
    assert "quality standard units, 5 members" in said
    loaded = replace(head, axes=(alone,))
    (told,) = _about(HeadProgram(loaded), loaded)["axes"]
    assert told == {"name": "quality", "low": None, "high": None}


def test_an_ensemble_has_a_card_too(trained, tmp_path):
    head = load_head(trained[0])
    member, axis = replace(head, trained=None, figures=None), head.axes[0].axis
    ensemble = Ensemble((member,), ((3,),), (axis,), head.training, head.trained, head.figures)
    save_head(tmp_path / "both.safetensors", ensemble)
    text = model_card(tmp_path / "both.safetensors")
    assert "- ensemble; 2 member(s) an axis, " in text
    assert "- recipe: of each member its own\n" in text


@pytest.mark.parametrize(("licenses", "expected"), [
    ({"encoder": "MIT", "data": "CC BY 4.0 (A. Body, 2024); recordings simplified BSD"},
     "cc-by-4.0"),
    ({"encoder": "CC-BY-NC 4.0, not for commercial use", "data": "CC BY 4.0"}, "cc-by-nc-4.0"),
    ({"encoder": "MIT", "data": "CC BY-NC-SA 4.0"}, "cc-by-nc-sa-4.0"),
    ({"encoder": "MIT", "data": "CC BY 4.0; the audio has its own licenses"}, "other"),
    ({"encoder": "the model's own", "data": "MIT"}, "other"),
    ({"encoder": "MIT"}, None),
])  # fmt: skip
def test_the_strictest_license_holds(licenses, expected):
    assert _license(licenses).get("license") == expected


@pytest.mark.parametrize(("all_clips", "within", "words"), [
    (True, True, " **better**: "), (True, None, " **better**: "),
    (True, False, " better in part: "),
    (False, True, " better in part: "), (False, None, " **not better**: "),
])  # fmt: skip
def test_a_card_says_better_of_what_could_be_compared(all_clips, within, words):
    found = {"beats": all_clips, "within": None if within is None else {"beats": within}}
    assert words in _verdict({**found, "baseline": "ridge", "words": "beats ridge: ..."})


def test_a_strangers_figures_are_no_card_and_no_traceback(trained, tmp_path):
    head = load_head(trained[0])
    for odd in ({"axes": {"quality": 3}}, {"axes": [1]}, {"axes": {"quality": {"models": {}}}}):
        save_head(tmp_path / "odd.safetensors", replace(head, figures=odd))
        with pytest.raises(QamroError, match="figures that qamro-train never wrote"):
            model_card(tmp_path / "odd.safetensors")
        failed = CliRunner().invoke(main, ["info", str(tmp_path / "odd.safetensors")])
        assert (failed.exit_code, failed.stderr.count("\n")) == (1, 1), failed.output


def test_the_command_tells_verifies_and_writes_a_card(trained, tmp_path):
    run, *_ = trained

    def call(*words):
        return CliRunner().invoke(main, [str(word) for word in words])

    said = call("info", run)
    assert said.exit_code == 0, said.output
    for words in ("tiny (synthetic", "quality 0 to 100, 2 members of", "beats ", "clip srcc"):
        assert words in " ".join(said.stdout.split()), said.stdout
    assert max(map(len, said.stdout.replace(str(run), "run").splitlines())) <= 80
    assert call("info").stdout.split() == list_heads()
    good = call("verify", run)
    assert good.stdout.endswith(f"sha256 {head_info(run)['sha256']}\n"), good.output
    assert call("card", run, "--out", tmp_path / "README.md").exit_code == 0
    assert (tmp_path / "README.md").read_text() == call("card", run).stdout
    (tmp_path / "NOTES.md").write_text("mine")
    kept = call("card", run, "--out", tmp_path / "NOTES.md")
    assert (kept.exit_code, "is kept" in kept.stderr) == (1, True)
    data = bytearray((run / "head.safetensors").read_bytes())
    data[data.index(b"qamro-head") + 300] ^= 1
    (tmp_path / "bad.safetensors").write_bytes(data)
    bad = call("verify", tmp_path / "bad.safetensors")
    assert (bad.exit_code, "is damaged or not a head file" in bad.stderr) == (1, True), bad.output
    lost = call("verify", "ann/quality")
    assert "qamro-head pull ann/quality fetches" in lost.stderr


def test_a_card_is_for_a_name_in_one_line(trained):
    line = ["card", str(trained[0]), "--name", "ann/a\n# Mine"]
    done = CliRunner().invoke(main, line)
    assert done.exit_code == 2
    assert "is no repository of the hub, which is written owner/name" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_name_stands_for_a_head_only_where_there_is_no_such_file(trained, monkeypatch, tmp_path):
    if not list_heads():
        pytest.skip("no head comes with the package")
    (name, *_) = list_heads()
    theirs = head_info(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes((trained[0] / "head.safetensors").read_bytes())
    assert head_info(name)["sha256"] != theirs["sha256"]
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(QamroError, match="no such head file"):
        load_head(name)
    assert open_cache(trained[1]).dataset == "tiny"
