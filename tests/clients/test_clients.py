"""Reward functions of other trainers against a real server, called as those trainers call them."""

import asyncio
import importlib.util
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import rmexp.clients
from rmexp.clients import RewardServerError, connection
from tests.conftest import ROOT
from tests.helpers.servers import CALIBRATION, make_service, running, write_model
from tests.helpers.toys import tiny_tokenizer

PROMPTS = ["What is 2 + 2?", "What is 2 + 2?", "Name a colour.", "What is 2 + 2?"]
ANSWERS = ["Four.", "Five.", "Red.", "About four."]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    return make_service(write_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def url(service):
    with running(service, token="secret") as address:
        yield address


@pytest.fixture
def environment(url, monkeypatch):
    monkeypatch.setenv("RMEXP_URL", url + "/")
    monkeypatch.setenv("RMEXP_TOKEN", "secret")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # is not asked


@pytest.fixture
def waits(monkeypatch):
    """Seconds that clients wait, without waiting."""
    found = []
    monkeypatch.setattr(connection.time, "sleep", found.append)
    return found


@pytest.mark.slow
def test_they_need_the_standard_library_alone_and_are_short():
    code = """
import sys
before = set(sys.modules)
import rmexp.clients
new = {name.partition(".")[0] for name in set(sys.modules) - before}
assert callable(rmexp.clients.trl)
print(sorted(new - set(sys.stdlib_module_names)))
"""
    words = [sys.executable, "-c", code]
    assert subprocess.check_output(words, cwd=ROOT, text=True).strip() == "['rmexp']"
    for name in ("trl_function", "verl", "openrlhf"):
        assert len((ROOT / f"rmexp/clients/{name}.py").read_text().splitlines()) <= 40


@pytest.mark.parametrize("conversational", [False, True])
def test_trl_sends_a_request_for_each_prompt(url, service, conversational):
    reward = rmexp.clients.trl(url, token="secret", name="judge")
    prompts, answers, logged = PROMPTS, ANSWERS, {}
    if conversational:
        prompts = [[{"role": "user", "content": text}] for text in PROMPTS]
        answers = [[{"role": "assistant", "content": text}] for text in ANSWERS]
    before = service.telemetry.requests
    found = asyncio.run(
        reward(
            prompts=prompts,
            completions=answers,
            completion_ids=[[1]] * 4,
            trainer_state=None,
            log_extra=None,
            log_metric=logged.__setitem__,
        )
    )
    score = service.scorer.score
    expected = [score(p, [a])[0] for p, a in zip(prompts, answers, strict=True)]
    assert found == pytest.approx(expected, abs=1e-5)
    assert service.telemetry.requests == before + 2
    assert reward.__name__ == "judge"
    wins = CALIBRATION.win_probabilities(np.array([expected[n] for n in (0, 1, 3)]))
    pairs = [max(wins[i][j], 1 - wins[i][j]) for i in range(3) for j in range(i)]
    assert logged == {"judge/confidence": pytest.approx(np.mean(pairs), abs=1e-5)}


def test_a_completion_may_be_empty(url):
    """A policy that ends at once does not stop training."""
    reward = rmexp.clients.trl(url, token="secret")
    plain = asyncio.run(reward(prompts=PROMPTS[:2], completions=["", "Four."]))
    messages = [[{"role": "assistant", "content": text}] for text in ("", "Four.")]
    assert asyncio.run(reward(prompts=PROMPTS[:2], completions=messages)) == plain
    assert plain[0] != plain[1]


def test_trl_on_another_scale(url, service):
    reward = rmexp.clients.trl(url, token="secret", scale="probability")
    found = asyncio.run(reward(prompts=PROMPTS[:1], completions=ANSWERS[:1]))
    raw = service.scorer.score(PROMPTS[0], ANSWERS[:1])
    assert found == pytest.approx(list(CALIBRATION.probability(np.array(raw))), abs=1e-6)


def test_verl_reads_the_prompt_of_extra_info(environment, service):
    load = importlib.import_module  # verl: `pkg://rmexp.clients.verl`
    compute_score = load("rmexp.clients.verl").compute_score
    messages = [{"role": "system", "content": "Add."}, {"role": "user", "content": PROMPTS[0]}]
    infos = {
        "text": {"prompt": PROMPTS[0], "num_turns": 2, "rollout_reward_scores": {}},
        "question": {"question": PROMPTS[0]},
        "messages": {"prompt": np.array(messages, dtype=object)},  # as parquet is read
    }
    for name, info in infos.items():
        found = compute_score(
            data_source="math", solution_str="Four.", ground_truth="4", extra_info=info
        )
        prompt = messages if name == "messages" else PROMPTS[0]
        assert type(found) is float
        assert found == pytest.approx(service.scorer.score(prompt, ["Four."])[0], abs=1e-5)
    with pytest.raises(RewardServerError, match=r"neither prompt nor question \(it has index\)"):
        compute_score("math", "Four.", "4", {"index": 3})


def test_openrlhf_loads_the_file_and_reads_rewards_of_all_versions(environment, service):
    file = ROOT / "rmexp/clients/openrlhf.py"  # as OpenRLHF loads `--reward.remote_url FILE.py`
    spec = importlib.util.spec_from_file_location("reward_func", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer = tiny_tokenizer()
    dialogues = [
        [{"role": "user", "content": p}, {"role": "assistant", "content": a}]
        for p, a in zip(PROMPTS[:2], ANSWERS[:2], strict=True)
    ]
    queries = tokenizer.apply_chat_template(dialogues, tokenize=False)
    found = asyncio.run(asyncio.to_thread(module.reward_func, queries, PROMPTS[:2], ["4", "4"]))
    expected = service.scorer.score(PROMPTS[0], ANSWERS[:2])
    assert found["rewards"] == pytest.approx(expected, abs=1e-5)
    assert torch.cat([torch.as_tensor(found["rewards"])]).shape == (2,)  # 0.8.3 to 0.9.0
    scores = CALIBRATION.probability(np.array(expected))
    assert found["scores"] == pytest.approx(list(scores), abs=1e-5)
    assert all(len(values) == 2 for values in found["extra_logs"].values())


def test_a_refusal_is_final_and_says_why(url, waits):
    with pytest.raises(RewardServerError, match=r"/reward: .*token is missing or wrong"):
        connection.post("reward", {}, url, "wrong")
    long = {"prompt": "p", "response": "word " * 200}
    with pytest.raises(RewardServerError, match="tokens, more than the 400"):
        connection.post("reward", long, url, "secret")
    with pytest.raises(RewardServerError, match="Not Found"):
        connection.post("nowhere", {}, url, "secret")
    assert waits == []


def test_a_busy_server_is_asked_again_when_it_says(tmp_path, monkeypatch):
    service = make_service(write_model(tmp_path / "model"), queue_texts=1)
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        service._batcher.queue_texts = 1 if len(waits) < 3 else 10

    monkeypatch.setattr(connection.time, "sleep", sleep)
    with running(service) as url:
        answer = connection.post("reward", {"prompt": "p", "responses": ANSWERS}, url)
    assert len(answer["rewards"]) == 4
    assert waits == [1.0, 1.0, 1.0], "seconds of Retry-After, where our own are fewer"


def test_a_server_that_is_away_is_asked_for_two_minutes(waits):
    with pytest.raises(RewardServerError, match=r"asked 10 times without success: .*refused"):
        connection.post("reward", {}, "http://127.0.0.1:9")
    assert len(waits) == 9
    assert 60 < sum(waits) < 180
    with pytest.raises(RewardServerError, match="begins with http://"):
        connection.post("reward", {}, "localhost:8000")


@pytest.mark.slow
def test_grpo_trains_on_the_server(url, service, tmp_path):
    trl = pytest.importorskip("trl", reason="the extra `rl` (trl) is not installed")
    import datasets
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    policy = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=2, **shape)
    )
    before = service.telemetry.requests
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = trl.GRPOTrainer(
            model=policy,
            processing_class=tokenizer,
            reward_funcs=[rmexp.clients.trl(url, token="secret")],
            args=trl.GRPOConfig(
                output_dir=str(tmp_path),
                per_device_train_batch_size=4,
                num_generations=2,
                max_completion_length=8,
                max_steps=1,
                logging_steps=1,
                bf16=False,
                use_cpu=True,
                report_to=[],
                disable_tqdm=True,
                save_strategy="no",
            ),
            train_dataset=datasets.Dataset.from_dict(
                {"prompt": [[{"role": "user", "content": p}] for p in PROMPTS[1:3]]}
            ),
        )
        trainer.train()
    logs = trainer.state.log_history[0]
    assert service.telemetry.requests == before + 2
    assert np.isfinite(logs["rewards/rmexp/mean"])
    assert logs["rewards/rmexp/std"] > 0
    assert 0.5 <= logs["rmexp/confidence"] <= 1
    json.dumps(logs)
