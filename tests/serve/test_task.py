"""task=serve from the command line: refusals before a model loads, and how a server ends."""

import json
import os
import re
import shutil
import signal
import threading

import httpx
import pytest

from rmexp.serve.access import listen
from rmexp.serve.model_info import describe_model
from tests.conftest import result
from tests.helpers.servers import write_model
from tests.helpers.toys import tiny_tokenizer

HELD = """
import os, time
import rmexp.inference.scorer as scorer

compute = scorer.compute_outputs
def held(model, batch):
    while not os.path.exists("stopped"):
        time.sleep(0.01)
    return compute(model, batch)
scorer.compute_outputs = held
"""
"""No reward is computed before the test has stopped the server."""


@pytest.fixture
def no_model(monkeypatch):
    """Fail if a model is loaded."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("transformers.AutoModelForSequenceClassification.from_pretrained", load)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["task.port=null"], "task.port=null: should be a whole number of 0 or more and at most"),
        (["task.port=70000"], "task.port=70000: should be a whole number of 0 or more"),
        (["task.host=0.0.0.0"], "can be reached from other machines, so that a token is needed"),
        (["task.queue_texts=2", "task.max_texts=3"], "has no room for a request of task.max_texts"),
        (["loss=kwise"], "task=serve does not use loss"),
    ],
)
def test_refusals(rmexp, home, no_model, monkeypatch, words, sentence):
    monkeypatch.delenv("RMEXP_TOKEN", raising=False)
    done = rmexp("task=serve", f"checkpoint={home}", "task.port=0", *words, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr


def test_a_port_in_use(rmexp, home, no_model):
    with listen("127.0.0.1", 0, None) as address:
        port = address.getsockname()[1]
        done = rmexp("task=serve", f"checkpoint={home}", f"task.port={port}", check=False)
    assert f"task.port={port} of 127.0.0.1 is in use" in done.stderr


def test_what_is_no_reward_model(rmexp, tmp_path, no_model):
    from transformers import AutoConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 300}
    language_model = LlamaForCausalLM(AutoConfig.for_model("llama", **sizes, **heads))
    language_model.save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    done = rmexp("task=serve", "checkpoint=lm", "task.port=0", check=False)
    assert "lm has no reward head: train it first." in done.stderr


def test_a_missing_package(rmexp, home, no_model, monkeypatch):
    monkeypatch.setattr("rmexp.tasks.serve.SERVER_PACKAGES", ("fastapi", "not_there"))
    done = rmexp("task=serve", f"checkpoint={home}", check=False)
    assert "task=serve needs not_there: pip install 'rmexp[serve]'." in done.stderr


@pytest.mark.slow
def test_a_server_finishes_what_it_has_and_ends_with_0(rmexp, home, fork_server):
    """SIGTERM while one of six texts is computed and five wait."""
    words = ["task=serve", f"checkpoint={home}", "task.port=0", "trainer.precision=32-true"]
    words += ["task.token=sesame", "task.batch_tokens=20"]
    out, found, threads = rmexp.folder / "out.txt", [], []
    headers = {"Authorization": "Bearer sesame"}

    def ask(url, n):
        body = {"prompt": "Hi", "response": f"answer {n}"}
        found.append(httpx.post(f"{url}/reward", json=body, headers=headers, timeout=600))

    def when():
        text = out.read_text() if out.exists() else ""
        printed = re.search(r"serving model at (http://127.0.0.1:\d+)", text)
        if printed is None:
            return False
        if not threads:
            threads.extend(threading.Thread(target=ask, args=(printed[1], n)) for n in range(6))
            for thread in threads:
                thread.start()
        return "rmexp_waiting_texts 5.0" in httpx.get(f"{printed[1]}/metrics", headers=headers).text

    def stop(pid):
        os.kill(pid, signal.SIGTERM)
        (rmexp.folder / "stopped").touch()

    code = fork_server.run(rmexp.folder, words, first=HELD, event=stop, when=when, limit=600)
    for thread in threads:
        thread.join()
    assert code == 0, (rmexp.folder / "err.txt").read_text()
    assert [answer.status_code for answer in found] == [200] * 6
    printed = out.read_text()
    assert "ask: curl http://127.0.0.1" in printed
    assert re.search(r"stopped after \d+ requests", printed)
    run = rmexp.runs()[0]
    assert result(run)["status"] == "done"
    written = [file.read_text() for file in run.rglob("*") if file.is_file()]
    assert not any("sesame" in text for text in written)
    assert any("hidden" in text for text in written)


def test_the_facts_of_a_run_and_of_an_export(tmp_path):
    export = tmp_path / "run" / "export"
    write_model(export)
    metrics = {"test/accuracy": 0.6, "test/accuracy_low": 0.5, "test/accuracy_high": 0.7}
    metrics |= {"test/length_baseline": 0.7, "val/accuracy": 0.9}
    facts = {"name": "mine", "base": "SmolLM2", "metrics": metrics, "fingerprint": "x"}
    (export / "rmexp.json").write_text(json.dumps(facts))
    alone = describe_model(export, "other", 100, ("raw",), "LABEL_0")
    assert (alone.name, alone.base) == ("mine", "SmolLM2")
    assert alone.accuracy == {"set": "test", "value": 0.6, "low": 0.5, "high": 0.7}
    assert ["no more than length does" in warning for warning in alone.warnings] == [True]
    (tmp_path / "run" / "config.yaml").write_text("{}")
    verdicts = {"name": "a run", "metrics": metrics, "verdicts": ["test: it is biased."]}
    (tmp_path / "run" / "result.json").write_text(json.dumps(verdicts))
    run = describe_model(tmp_path / "run", "other", 100, ("raw",), "LABEL_0")
    assert (run.name, run.base) == ("a run", "SmolLM2")
    assert run.warnings == ("test: it is biased.",)
    shutil.rmtree(export)
    (tmp_path / "run" / "config.yaml").unlink()
    bare = describe_model(tmp_path / "run", "other", 100, ("raw",), "LABEL_0")
    assert (bare.name, bare.accuracy) == ("other", None)
