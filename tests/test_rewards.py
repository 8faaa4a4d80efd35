"""Rewards as TRL and verl call them, against the table of `Scorer.score`."""

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import fake_encoder
import numpy as np
import pytest
import torch
from door_support import make_head, sound

from qamro_cache import Scorer
from qamro_cache.encoders import mel, registry
from qamro_cache.errors import OptionError
from qamro_cache.heads.file import load_head, save_head
from qamro_cache.integrations.rewards import prompt_text, trl_reward, verl_reward

RATE = 16000
CLIPS = [sound(30 + k, 0.8, RATE, 1) for k in range(4)]
#: What TRL's GRPOTrainer gives beside prompts and completions.
OF_TRL = {"completion_ids": [[1]] * 4, "trainer_state": None, "speaker": list("abcd")}


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    return Scorer.from_file(make_head(tmp_path_factory.mktemp("rewards")), device="cpu")


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(registry, "list_encoders", lambda: [mel.INFO, fake_encoder.INFO])


@pytest.mark.parametrize("k", [0, 1.0, 2.5])
def test_trl_is_given_mean_less_k_std(scorer, k):
    table = scorer.score(CLIPS, RATE)
    assert (table["std"] > 1e-4).all()
    expected = table["prediction"] - k * table["std"]
    reward = trl_reward(scorer, k=k, sample_rate=RATE)
    found = reward(prompts=["x"] * 4, completions=CLIPS, **OF_TRL)
    assert all(type(value) is float for value in found)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # TRL logs it by this name, and looks whether it must be awaited.
    assert reward.__name__ == "qamro_quality"
    assert not inspect.iscoroutinefunction(reward)


def test_decode_makes_sound_of_text_and_sees_the_columns(scorer):
    seen = {}

    def decode(completions, prompts, **columns):
        seen.update(columns, prompts=prompts)
        return [CLIPS[int(one[-1]["content"])] for one in completions]

    messages = [[{"role": "assistant", "content": str(k)}] for k in (2, 0, 1, 3)]
    reward = trl_reward(scorer, decode=decode, sample_rate=RATE)
    found = reward(prompts=["x"] * 4, completions=messages, **OF_TRL)
    whole = trl_reward(scorer, sample_rate=RATE)(prompts=["x"] * 4, completions=CLIPS)
    np.testing.assert_allclose(found, [whole[k] for k in (2, 0, 1, 3)], rtol=1e-6)
    assert seen == {**OF_TRL, "prompts": ["x"] * 4}
    with pytest.raises(OptionError, match="decode gave 1 clips for 4 completions"):
        trl_reward(scorer, decode=lambda *_, **__: CLIPS[:1], sample_rate=RATE)(
            prompts=["x"] * 4, completions=messages
        )
    # A model's words are never opened as a file.
    for text in ("/etc/hostname", messages[0]):
        with pytest.raises(OptionError, match="the completions are text; give decode"):
            trl_reward(scorer)(prompts=["x"], completions=[text])
    with pytest.raises(OptionError, match="the completions are text; give decode"):
        verl_reward(scorer)(data_source="", solution_str="/etc/hostname", ground_truth="")


def test_what_cannot_be_scored_never_pays(scorer, caplog):
    asked = [CLIPS[0], np.zeros(2, np.float32), np.full(RATE, np.nan), CLIPS[1]]
    found = trl_reward(scorer, sample_rate=RATE)(prompts=["x"] * 4, completions=asked)
    assert found[1] == found[2] == -3.0 < min(found[0], found[3])
    assert "2 of 4 clips cannot be scored" in caplog.text


def test_no_doubt_makes_silence_pay(scorer):
    asked = [CLIPS[0], np.zeros(2, np.float32)]
    found = trl_reward(scorer, k=1e6, sample_rate=RATE)(prompts=["x"] * 2, completions=asked)
    assert found[0] >= found[1] == -3.0


def test_verl_is_given_a_dictionary_of_numbers_from_any_thread(scorer):
    compute_score = verl_reward(scorer, k=2, sample_rate=RATE)
    names = list(inspect.signature(compute_score).parameters)
    assert names[:4] == ["data_source", "solution_str", "ground_truth", "extra_info"]
    table = scorer.score(CLIPS, RATE)

    def work(clip):
        more = {"reward_router_address": None, "reward_model_tokenizer": None}
        return compute_score(
            data_source="made up", solution_str=clip, ground_truth="", extra_info={}, **more
        )

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, CLIPS))
    assert all(one.keys() == {"score", "mean", "std", "ood"} for one in found)
    assert all(type(value) is float for one in found for value in one.values())
    np.testing.assert_allclose([one["mean"] for one in found], table["prediction"], rtol=1e-6)
    np.testing.assert_allclose([one["std"] for one in found], table["std"], rtol=1e-4)
    np.testing.assert_allclose(
        [one["score"] for one in found], table["prediction"] - 2 * table["std"], rtol=1e-5
    )


def test_a_head_of_one_member_has_no_std_to_take(scorer):
    one = scorer.head.axes[0]
    alone = replace(one, seeds=one.seeds[:1], params={n: p[:1] for n, p in one.params.items()})
    single = Scorer(replace(scorer.head, axes=(alone,)), "cpu")
    for make in (trl_reward, verl_reward):
        with pytest.raises(OptionError, match=r"this head has one member.*or say k=0"):
            make(single)
        for k in (-1, float("nan"), float("inf"), "x", None):
            with pytest.raises(OptionError, match="k is a number from 0 on"):
                make(scorer, k=k)
        with pytest.raises(OptionError, match="this head has no axis 'fun'"):
            make(scorer, axis="fun")
    found = verl_reward(single, k=0, sample_rate=RATE)("", CLIPS[0], "")
    assert found.keys() == {"score", "mean", "ood"}
    assert found["score"] == found["mean"]


def test_a_head_that_compares_hears_the_completions_of_a_prompt(fake, tmp_path):
    run = make_head(tmp_path, ("fake",), context="group", by="prompt")
    assert load_head(run).context.by == "prompt"
    scorer = Scorer.from_file(run, device="cpu")
    prompts = ["a", "b", "a", "b"]
    expected = scorer.score(CLIPS, RATE, groups=prompts)["prediction"]
    reward = trl_reward(scorer, k=0, sample_rate=RATE)
    found = reward(prompts=prompts, completions=CLIPS)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    talk = [[{"role": "system", "content": "s"}, {"role": "user", "content": p}] for p in prompts]
    np.testing.assert_allclose(reward(prompts=talk, completions=CLIPS), expected, rtol=1e-6)
    other = reward(prompts=["a", "a", "b", "b"], completions=CLIPS)
    assert np.abs(np.subtract(other, found)).max() > 1e-4
    with pytest.raises(OptionError, match="verl gives one at a time"):
        verl_reward(scorer, k=0)


def test_references_and_prompts_come_from_the_columns(fake, tmp_path):
    run = make_head(tmp_path, ("fake",), context="reference", text="text")
    scorer = Scorer.from_file(run, device="cpu")
    prompts, references = list("abcd"), [one.copy() for one in CLIPS[::-1]]
    expected = scorer.score(CLIPS, RATE, prompts=prompts, references=references)
    assert (expected["reason"] == "").all()
    reward = trl_reward(scorer, k=0, sample_rate=RATE)
    found = reward(prompts=prompts, completions=CLIPS, reference=references)
    np.testing.assert_allclose(found, expected["prediction"], rtol=1e-6)
    compute_score = verl_reward(scorer, k=0, sample_rate=RATE)
    about = {"prompt": "b", "reference": references[1]}
    one = compute_score("made up", CLIPS[1], "", about)["score"]
    assert one == pytest.approx(expected["prediction"][1], rel=1e-5)


def test_a_prompt_is_the_users_last_words():
    said = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": "then"}, {"type": "audio"}]},
        {"role": "assistant", "content": ""},
    ]
    assert [prompt_text(one) for one in ("x", None, said, said[:1], [])] == [
        "x", "", "then", "first", "",
    ]  # fmt: skip


class Letters:
    """Stands for a tokenizer: a token is a letter's number."""

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return "".join(chr(int(one)) for one in ids)


#: What a user of verl writes, beside which lies a head.
OF_VERL = """
import numpy as np
from qamro_cache.integrations.rewards import verl_reward

def tone(solution_str, extra_info):
    assert extra_info["number"] == len(solution_str), "each with its own"
    return 0.1 * np.sin(np.arange(16000) * len(solution_str) / 20)

compute_score = verl_reward({head!r}, k=0.5, decode=tone, sample_rate=16000)
"""


def test_verls_own_managers_call_it(scorer, tmp_path):
    """Its loading of a file by the configuration, its two managers, its batches."""
    pytest.importorskip("verl")
    pytest.importorskip("verl.trainer.ppo.reward", reason="verl is here without what it needs")
    from omegaconf import OmegaConf
    from verl import DataProto
    from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls as get_loop
    from verl.trainer.ppo.reward import get_custom_reward_fn
    from verl.workers.reward_manager import get_reward_manager_cls

    save_head(tmp_path / "head.safetensors", scorer.head)
    code = OF_VERL.format(head=str(tmp_path / "head.safetensors"))
    (tmp_path / "my_reward.py").write_text(code)
    named = {"path": str(tmp_path / "my_reward.py"), "name": "compute_score"}
    config = OmegaConf.create({"reward": {"custom_reward_function": named}})
    compute_score = get_custom_reward_fn(config)
    said = ["a", "abba", "ab"]
    responses = torch.zeros(3, 5, dtype=torch.long)
    for row, words in zip(responses, said, strict=True):
        row[: len(words)] = torch.tensor([ord(one) for one in words])
    mask = torch.cat([torch.ones(3, 2, dtype=torch.long), (responses > 0).long()], 1)
    data = DataProto.from_dict(
        {"prompts": torch.full((3, 2), 97), "responses": responses, "attention_mask": mask},
        non_tensors={
            "data_source": np.array(["mine"] * 3, object),
            "reward_model": np.array([{"ground_truth": ""}] * 3, object),
            "extra_info": np.array([{"number": len(one)} for one in said], object),
        },
    )
    table = scorer.score([0.1 * np.sin(np.arange(16000) * len(one) / 20) for one in said], RATE)
    wanted = (table["prediction"] - 0.5 * table["std"]).to_numpy()
    assert np.ptp(wanted) > 1e-3

    manager = get_reward_manager_cls("naive")(Letters(), 0, compute_score)
    found = manager(data, return_dict=True)
    tensor = found["reward_tensor"].numpy()
    np.testing.assert_allclose(tensor.sum(1), wanted, rtol=1e-5)
    assert np.nonzero(tensor)[1].tolist() == [len(one) - 1 for one in said]
    np.testing.assert_allclose(found["reward_extra_info"]["mean"], table["prediction"], rtol=1e-6)
    assert set(found["reward_extra_info"]) == {"score", "mean", "std", "ood"}

    async def loop():
        one = get_loop("naive")(config, Letters(), compute_score)
        return await asyncio.gather(*(one.run_single(data[k : k + 1]) for k in range(3)))

    found = asyncio.run(loop())
    np.testing.assert_allclose([one["reward_score"] for one in found], wanted, rtol=1e-6)
    stds = [one["reward_extra_info"]["std"] for one in found]
    np.testing.assert_allclose(stds, table["std"], rtol=1e-6)
