"""task=improve with TRL's own trainers on a tiny policy."""

import json
import shutil

import numpy as np
import pyarrow.parquet
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import rmexp
from rmexp.policy.rewards import RewardFunction
from tests.conftest import SHORT_DEMO, CommandLine, result
from tests.helpers.policies import tiny_policy

pytestmark = pytest.mark.slow

SMALL = (
    "task.steps=4", "task.generations=3", "task.prompts_per_step=2", "task.max_new_tokens=6",
    "task.held_out=6", "task.answers=2", "task.checkpoint_every=2", "optim.lr=0.01",
    "optim.schedule=constant", "trainer.precision=32-true",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory, cache):
    """A proxy, a gold (a copy with another head), and a policy."""
    folder = tmp_path_factory.mktemp("improve")
    CommandLine(folder, cache)(
        "model=tiny", SHORT_DEMO, "logger=none", "hydra.run.dir=proxy", "optim.lr=1e-3",
        "trainer.precision=32-true", "trainer.max_steps=4",
    )  # fmt: skip
    shutil.copytree(folder / "proxy", folder / "gold")
    file = folder / "gold" / "export" / "model.safetensors"
    weights = load_file(file)
    weights["score.weight"] = weights["score.weight"].flip(1)
    save_file(weights, file, {"format": "pt"})
    tiny_policy(folder / "policy")
    return folder


@pytest.fixture
def improve(home, cache):
    """Run task=improve in the folder of the models."""
    command = CommandLine(home, cache)

    def run(name, *words, check=True):
        given = ("checkpoint=proxy", "task.gold=gold", "policy=policy", "logger=none", *SMALL)
        return command("task=improve", *given, f"hydra.run.dir={name}", *words, check=check)

    return run


@pytest.fixture(scope="module")
def calls():
    """The calls of reward functions: name, prompts by number, completions and rewards."""
    return []


@pytest.fixture(scope="module")
def done(home, cache, calls):
    """A finished run with its page, and what it printed."""
    call = RewardFunction.__call__

    def recorded(self, completions, completion_ids, number, log_metric, **columns):
        found = call(self, completions, completion_ids, number, log_metric, **columns)
        texts = [messages[0]["content"] for messages in completions]
        prompts = [self.prompts[n] for n in number]
        calls.append((self.__name__, columns["trainer_state"].global_step, prompts, texts, found))
        return found

    command = CommandLine(home, cache, reports=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewardFunction, "__call__", recorded)
        said = command(
            "task=improve", "checkpoint=proxy", "task.gold=gold", "policy=policy", "logger=none",
            *SMALL, "hydra.run.dir=done", "trainer.keep=resume",
        )  # fmt: skip
    return home / "done", said.stdout


def logged(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_trl_gets_the_scorers_rewards_and_logs_the_gold_column(home, done, calls):
    run, _ = done
    lines = {line["step"]: line for line in logged(run) if "train/reward" in line}
    assert sorted(lines) == [1, 2, 3, 4]
    for name in ("proxy", "gold"):
        scorer = rmexp.load(home / name, precision="32-true")
        for _, step, prompts, texts, found in (c for c in calls if c[0] == name):
            for start in range(0, len(texts), 3):  # `score` refuses an empty answer
                group = [k for k in range(start, start + 3) if texts[k].strip()]
                alone = scorer.score(prompts[start], [texts[k] for k in group]) if group else []
                assert [found[k] for k in group] == pytest.approx(alone, abs=1e-4)
            mean = lines[step + 1][f"train/rewards/{name}/mean"]
            assert mean == pytest.approx(np.mean(found), abs=1e-5)
    # Weight 1 and weight 0; beta above 0, so that the divergence is measured.
    assert all(x["train/reward"] == x["train/rewards/proxy/mean"] for x in lines.values())
    assert lines[1]["train/kl"] == 0
    assert lines[4]["train/kl"] > 0


def test_the_result_has_both_sides_and_the_page_says_the_verdict(home, done):
    run, said = done
    found = result(run)
    metrics = found["metrics"]
    before, after = (
        pyarrow.parquet.read_table(run / "answers" / f"{side}.parquet").to_pylist()
        for side in ("before", "after")
    )
    assert len(before) == len(after) == 12
    assert metrics["test/gold_after"] == pytest.approx(np.mean([r["gold"] for r in after]))
    assert metrics["test/proxy_before"] == pytest.approx(np.mean([r["proxy"] for r in before]))
    assert metrics["test/kl"] == pytest.approx(np.mean([r["kl"] for r in after]))
    assert metrics["test/kl"] > 0
    assert {r["id"] for r in before} == {r["id"] for r in after}
    page = (run / "report.html").read_text()
    assert found["verdicts"][0] in said.replace("\n", " ")
    assert "Gold by step" in page
    assert "Answers before and after" in page
    assert "of the groups had equal rewards" in said
    assert "cut at 6 tokens" in said
    assert any("trained on" in sentence for sentence in found["fallbacks"])


def test_the_export_is_the_trained_policy_in_plain_transformers(home, done):
    run, _ = done
    model = transformers.AutoModelForCausalLM.from_pretrained(run / "export")
    initial = transformers.AutoModelForCausalLM.from_pretrained(home / "policy")
    moved = [
        name
        for (name, new), old in zip(model.named_parameters(), initial.parameters(), strict=True)
        if not torch.equal(new, old)
    ]
    assert moved
    assert all("proj" in name for name in moved)
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "export")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt"
    )
    assert model.generate(**ids, max_new_tokens=2, do_sample=False).shape[1] > 2


def test_a_run_that_was_stopped_resumes_to_the_same_policy(home, done, improve, cache, monkeypatch):
    from rmexp.policy.trl_training import RunCallback  # imports TRL, which takes a second

    run, _ = done
    on_log = RunCallback.on_log

    def stop(self, args, state, control, **more):
        on_log(self, args, state, control, **more)
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunCallback, "on_log", stop)
        stopped = improve("stopped", "trainer.keep=resume", check=False)
    assert stopped.returncode == 130
    assert "resume with" in stopped.stdout
    again = CommandLine(home, cache)("resume=stopped")
    assert "resuming after step 2" in again.stdout
    assert logged(home / "stopped") == logged(run)
    one, other = (load_file(h / "export" / "model.safetensors") for h in (home / "stopped", run))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_does_not_resume_with_other_data(home, done, cache):
    run, _ = done
    changed = home / "changed"
    shutil.copytree(run, changed, ignore=shutil.ignore_patterns("export", "after.parquet"))
    (changed / "result.json").write_text(
        json.dumps(result(run) | {"status": "failed", "interrupted": True})
    )
    facts = json.loads((run / "environment.json").read_text())
    (changed / "environment.json").write_text(json.dumps(facts | {"data_fingerprint": "other"}))
    found = CommandLine(home, cache)("resume=changed", check=False)
    assert "the data changed since the run stopped" in found.stderr


def test_a_run_that_was_killed_after_its_last_step_only_exports(home, done, cache):
    run, _ = done
    shutil.copytree(run, home / "late")
    for name in ("export", "answers/after.parquet"):
        path = home / "late" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    facts = result(run) | {"status": "failed", "interrupted": True}
    (home / "late" / "result.json").write_text(json.dumps(facts))
    CommandLine(home, cache)("resume=late")
    one, other = (load_file(h / "export" / "model.safetensors") for h in (home / "late", run))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert logged(home / "late") == logged(run)


def test_a_control_trains_all_weights_on_shuffled_rewards_with_rloo(home, improve):
    said = improve(
        "control", "task.control=shuffled", "task.algorithm=rloo", "tune=full", "task.steps=2",
        "task.gold=null",
    ).stdout  # fmt: skip
    run = home / "control"
    lines = [line for line in logged(run) if "train/reward" in line]
    for line in lines:  # a permutation keeps the mean
        mean = line["train/rewards/proxy/mean"]
        assert line["train/rewards/shuffled/mean"] == pytest.approx(mean, abs=1e-5)
        assert "train/rewards/gold/mean" not in line
    assert "This is a control" in said.replace("\n", " ")
    assert "no gold tells whether" in said.replace("\n", " ")
    assert not (run / "checkpoints").exists()
    one, other = (load_file(h / "model.safetensors") for h in (run / "export", home / "policy"))
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["policy=proxy"], "is a run directory of a reward model, which cannot answer prompts"),
        (["tune=head"], "A policy trains with tune=lora or tune=full"),
        (["task.gold=nowhere"], "task.gold=nowhere: there is no such directory."),
        (["task.generation=4"], "There is no key task.generation (did you mean"),
    ],
)
def test_refusals_are_one_sentence(improve, words, sentence):
    found = improve("refused", *words, check=False)
    assert found.returncode == 1
    assert sentence in found.stderr.replace("\n", " ")


def test_without_the_extra_it_names_the_command(improve, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "trl" else find(name)
    )
    found = improve("missing", check=False)
    assert "pip install 'rmexp[rl]'" in found.stderr
