"""The real entry point, on the main paths: train, evaluate, export, sweep, refuse."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
import transformers
from omegaconf import OmegaConf

from rmexp.tracking.predictions import PREDICTIONS
from rmexp.tracking.run_state import read_state
from tests.conftest import HH, ROOT, SHORT_DEMO, CommandLine, needs, result

TINY = (
    "model=tiny", "logger=none", SHORT_DEMO, "data.limit=60", "data.batch_size=8",
    "trainer.validations=2",
)  # fmt: skip
RUN_FILES = {
    "config.yaml",
    "overrides.yaml",
    "environment.json",
    "metrics.jsonl",
    "calibration.json",
    "predictions",
    "result.json",
    "checkpoints",
    "export",
    "report.html",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
    """A run that tests copy."""
    rmexp = CommandLine(tmp_path_factory.mktemp("trained"), cache)
    rmexp(*TINY)
    return rmexp.runs()[0]


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run, to change."""
    return Path(shutil.copytree(trained, tmp_path / "trained"))


@pytest.mark.slow
def test_a_run_leaves_what_the_design_promises(rmexp):
    rmexp.reports = True
    done = rmexp(*TINY, "logger=wandb", "loss=contrastive", "loss.margin=1.0")
    (run,) = rmexp.runs()
    assert {file.name for file in run.iterdir()} >= RUN_FILES
    found = result(run)
    assert found["status"] == "done"
    assert found["labels"] == {"loss": "contrastive", "data": "demo", "model": "tiny"}
    assert found["fallbacks"] == []
    assert found["layout"] == "mixed"
    assert {"pid", "host", "heartbeat", "seconds", "pairs_per_second", "peak_memory_gib"} <= set(
        found
    )
    metrics = found["metrics"]
    names = [
        "loss",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "tie_rate",
        "margin",
        "margin_standardised",
        "auc",
        "nll",
        "brier",
        "ece",
        "reward_mean",
        "reward_std",
        "length_baseline",
        "length_controlled_accuracy",
        "longer_preferred",
        "length_r2",
        "verbosity_correlation",
        "position_correlation",
        "helpfulness/accuracy",
    ]
    assert {f"test/{name}" for name in names} <= set(metrics)
    assert {f"val/{name}" for name in names[:-1]} <= set(metrics)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss", "train/accuracy", "train/margin", "train/reward_mean"} <= set(lines[0])
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "val/loss" in line][:2] == [3, 6]
    predictions = pyarrow.parquet.read_table(run / "predictions" / "test.parquet").to_pylist()
    assert set(predictions[0]) == set(PREDICTIONS)
    assert predictions[0]["text"].startswith("<|im_start|>")
    config = OmegaConf.load(run / "config.yaml")
    assert config.loss.margin == 1.0
    facts = json.loads((run / "environment.json").read_text())
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["template"]["bos_count"] == 0
    for words in ("accuracy", "report", "export", "wandb sync", "pooled token"):
        assert words in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_evaluate_repeats_the_numbers_to_the_last_digit(run, rmexp):
    rmexp("task=evaluate", f"checkpoint={run}", "logger=none")
    again = result(rmexp.runs()[-1])["metrics"]
    trained = result(run)["metrics"]
    expected = {name: value for name, value in trained.items() if name.startswith("test/")}
    assert {name: again[name] for name in expected} == expected


@pytest.mark.slow
def test_evaluate_judges_other_data_whole(run, rmexp, write_rows):
    rows = [{"prompt": f"q {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(9)]
    rmexp(
        "task=evaluate",
        f"checkpoint={run}",
        "data=jsonl",
        f"data.path={write_rows(rows)}",
        "logger=none",
    )
    assert result(rmexp.runs()[-1])["metrics"]["all/pairs"] == 9


@pytest.mark.slow
def test_export_loads_as_plain_hugging_face_and_travels(run, rmexp, tmp_path):
    rmexp("task=export", f"checkpoint={run}", f"out={tmp_path / 'out'}", "logger=none")
    for home in (run / "export", tmp_path / "out"):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(home)
        tokenizer = transformers.AutoTokenizer.from_pretrained(home)
        assert model.config.num_labels == 1
        assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
        table = pyarrow.parquet.read_table(run / "predictions" / "test.parquet").to_pylist()
        inputs = tokenizer(table[0]["text"], add_special_tokens=False, return_tensors="pt")
        assert model(**inputs).logits[0, 0].item() == pytest.approx(table[0]["reward"], abs=2e-2)
        card = (home / "README.md").read_text()
        assert "model-index" in card
        facts = json.loads((home / "rmexp.json").read_text())
        assert facts["fingerprint"] in card
        assert facts["warnings"] == result(run)["verdicts"]
        assert facts["metrics"]["test/accuracy"] == result(run)["metrics"]["test/accuracy"]
        assert facts["language"] == ["en"]  # of the training rows
        assert (facts["base_model"], facts["datasets"]) == (None, [])


@pytest.mark.slow
def test_an_export_with_a_changed_template_is_refused(run, rmexp):
    file = run / "export" / "chat_template.jinja"
    file.write_text(file.read_text().replace("<|im_start|>", "<|im_start|> "))
    done = rmexp("task=evaluate", f"checkpoint={run}", "logger=none", check=False)
    assert done.returncode == 1
    assert "was trained with the template" in done.stderr


@pytest.mark.slow
def test_a_checkpoint_with_a_head_keeps_it(run, rmexp):
    done = rmexp(
        "model=hf",
        f"model.path={run / 'export'}",
        "logger=none",
        SHORT_DEMO,
        "data.limit=60",
        "optim.lr=1e-9",
        "optim.head_lr=1e-9",
    )
    assert "it is kept" in done.stdout
    one, two = result(run)["metrics"], result(rmexp.runs()[-1])["metrics"]
    assert two["test/margin"] == pytest.approx(one["test/margin"], abs=1e-3)


@pytest.mark.slow
def test_a_second_start_does_not_tokenise_again(rmexp):
    assert "tokenised now" in rmexp(*TINY, "data.max_length=777").stdout
    assert "from the cache" in rmexp(*TINY, "data.max_length=777").stdout


@pytest.mark.slow
def test_multirun_gives_a_run_each_and_survives_a_failing_job(rmexp):
    done = rmexp(
        "-m",
        "model=tiny",
        SHORT_DEMO,
        "data.limit=20",
        "trainer.validations=1",
        "name=grid",
        "loss=bradley_terry,contrastive",
        "optim.lr=1e-3,1e30",
        "optim.clip=null",
        check=False,
    )
    assert done.returncode == 1
    runs = sorted(rmexp.folder.glob("outputs/sweeps/grid-*/*/result.json"))
    states = {
        (r["labels"]["loss"], r["status"]) for r in map(json.loads, (f.read_text() for f in runs))
    }
    assert len(runs) == 4
    assert states == {
        (loss, status) for loss in ("bradley_terry", "contrastive") for status in ("done", "failed")
    }
    failed = [f.parent for f in runs if json.loads(f.read_text())["status"] == "failed"]
    assert all("is nan" in (d / "error.txt").read_text() for d in failed)
    assert len({json.loads(f.read_text())["wandb"]["id"] for f in runs}) == 4
    assert "sweep outputs/sweeps/grid" in done.stdout
    assert "a lower optim.lr may help" in done.stdout


def test_a_traceback_is_announced_where_it_is_written(rmexp):
    (rmexp.folder / "run").mkdir()
    (rmexp.folder / "run" / "result.json").touch()  # taken by another run
    words = ("optim.lr=1e30", "optim.clip=null", "hydra.run.dir=run", "+hydra.job.env_set.A=b")
    done = rmexp(*TINY, *words, check=False)
    assert done.returncode == 1
    (file,) = rmexp.folder.glob("run-2/error.txt")
    assert f"(traceback: {file})" in done.stderr


def test_a_job_gets_the_directory_and_the_variables_that_hydra_names(tmp_path, monkeypatch):
    from rmexp.config.schema import register
    from rmexp.runner.job import _surroundings
    from rmexp.runner.preflight import preflight

    monkeypatch.chdir(tmp_path)
    register()
    words = ["hydra.job.chdir=true", "+hydra.job.env_set.COLOUR=red", "hydra.run.dir=run"]
    (job,) = preflight(["model=tiny", *words], False, None).cells
    assert job.directory == tmp_path / "run"
    with _surroundings(job):
        assert (Path.cwd(), os.environ["COLOUR"]) == (tmp_path / "run", "red")
    assert Path.cwd() == tmp_path
    assert "COLOUR" not in os.environ


def test_three_runs_of_one_second_have_three_directories(rmexp, tmp_path):
    from rmexp.tracking.run_directory import RunDirectory

    runs = [RunDirectory.claim(tmp_path / "run") for _ in range(3)]
    assert len({run.path for run in runs}) == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["loss.margin=abc"],
            "rmexp: loss.margin=abc: should be a number of 0 or more, or data or ratings.",
        ),
        (
            ["loss.margin=-1"],
            "rmexp: loss.margin=-1: should be a number of 0 or more, or data or ratings.",
        ),
        (["loss=contrastve"], "rmexp: There is no loss=contrastve (did you mean contrastive?)"),
        (
            ["data=jsonl", "data.path=nowhere.jsonl"],
            "rmexp: data.path=nowhere.jsonl: there is no such file",
        ),
        (["optim.lrr=1"], "rmexp: There is no key optim.lrr (did you mean optim.lr?)."),
        (["task=evaluate"], "rmexp: task=evaluate needs checkpoint=DIRECTORY (or eval"),
        (["checkpoint=x"], "rmexp: task=train does not use checkpoint: leave out checkpoint."),
        (["resume=nowhere"], "rmexp: resume=nowhere: cannot be resumed, config.yaml is missing."),
        (["-m", "loss=contrastive,hinge"], "rmexp: There is no loss=hinge"),
        (
            ["model=hf", "model.path=/nowhere"],
            "rmexp: model.path=/nowhere: there is no such directory.",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_end_with_one_sentence_and_leave_nothing(words, sentence, rmexp):
    done = rmexp(*words, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert list(rmexp.folder.iterdir()) == []


def test_a_cut_row_is_named_with_file_and_line(rmexp, write_rows):
    good = json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"})
    file = rmexp.folder / "rows.jsonl"
    file.write_text(f"{good}\n{good}\n{good[:20]}\n{good}\n")
    done = rmexp("model=tiny", "logger=none", "data=jsonl", f"data.path={file}", check=False)
    assert done.returncode == 1
    assert f"{file}:3: not JSON" in done.stderr
    assert "data.on_bad_row=skip" in done.stderr


@pytest.mark.slow
@needs(HH)
def test_real_data_end_to_end(rmexp):
    done = rmexp(
        "model=tiny",
        "logger=none",
        "data=hh_rlhf",
        f"data.path={HH}",
        "data.limit=30",
        "data.max_length=4096",
        "trainer.validations=1",
    )
    assert "30 comparisons kept" in done.stdout
    assert result(rmexp.runs()[0])["metrics"]["test/pairs"] == 3


@pytest.mark.slow
def test_tab_completion_knows_groups_and_options(rmexp):
    words = rmexp.process("-sc", "query=bash", COMP_LINE="rmexp loss=", COMP_POINT="11")
    assert {"loss=bradley_terry", "loss=contrastive"} <= set(words.stdout.split())


@pytest.mark.slow
def test_help_into_a_closed_pipe_says_nothing():
    """As in `rmexp --help | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "rmexp", "--help"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=300)
    os.close(writer)
    assert done.stderr == b""


@pytest.mark.slow
def test_a_process_of_its_own_says_one_sentence_too(rmexp):
    done = rmexp.process("loss=contrastve")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("rmexp: There is no loss=contrastve")


@pytest.mark.slow
def test_a_sweep_file_runs_as_a_multirun(rmexp):
    rmexp(*TINY, "+sweeps=loss_by_margin", "data.limit=20", "trainer.validations=1", "name=s")
    runs = [result(run) for run in rmexp.runs()]
    assert len(runs) == 6
    assert {run["status"] for run in runs} == {"done"}
    assert {run["sweep"][:2] for run in runs} == {"s-"}


@pytest.mark.slow
def test_early_stopping_and_a_monitor_that_does_not_exist(rmexp):
    rmexp(
        *TINY,
        "trainer.max_epochs=4",
        "trainer.validations=8",
        "trainer.patience=1",
        "optim.lr=1e-12",
        "optim.head_lr=1e-12",
    )
    assert result(rmexp.runs()[0])["steps"] < 24
    done = rmexp(*TINY, "trainer.monitor=val/acuracy", check=False)
    assert (
        "trainer.monitor=val/acuracy: no such metric (did you mean val/accuracy?)." in done.stderr
    )


@pytest.mark.slow
def test_what_is_kept_of_checkpoints(rmexp):
    for keep, left in (
        ("resume", {"best.ckpt", "last.ckpt"}),
        ("weights", {"best.ckpt"}),
        ("none", set()),
    ):
        rmexp(*TINY, "data.limit=20", f"trainer.keep={keep}")
        assert {f.name for f in (rmexp.runs()[-1] / "checkpoints").iterdir()} == left


@pytest.mark.slow
def test_a_run_without_an_export_is_evaluated_from_its_checkpoint(run, rmexp):
    shutil.rmtree(run / "export")
    rmexp("task=evaluate", f"checkpoint={run}", "logger=none")
    again = result(rmexp.runs()[-1])["metrics"]
    assert again["test/margin"] == result(run)["metrics"]["test/margin"]


def test_a_run_that_the_disk_cannot_hold_is_refused(rmexp, monkeypatch):
    usage = shutil._ntuple_diskusage(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    done = rmexp(*TINY, check=False)
    (run,) = rmexp.runs()
    assert done.stderr == (
        f"rmexp: The disk of {run.relative_to(rmexp.folder)} is full: free some space, or run "
        "elsewhere (the run may need 841.0 KiB, and 1.0 KiB are free).\n"
    )
    assert read_state(run).status == "interrupted"  # not failed: a resumed run resumes again


@pytest.mark.slow
def test_a_run_is_not_evaluated_or_resumed_on_data_that_changed(rmexp, write_rows):
    rows = [{"prompt": f"q {n}", "chosen": "yes", "rejected": "no"} for n in range(30)]
    path = write_rows(rows)
    rmexp("model=tiny", "logger=none", "data=jsonl", f"data.path={path}")
    (run,) = rmexp.runs()
    rmexp("task=evaluate", f"checkpoint={run}", "data.eval_batch_size=2", "logger=none")
    assert result(rmexp.runs()[-1])["metrics"]["test/pairs"] == 3
    write_rows(rows[:-1])
    done = rmexp("task=evaluate", f"checkpoint={run}", "logger=none", check=False)
    assert "has changed since it was trained" in done.stderr
    rmexp("task=evaluate", f"checkpoint={run}", "data=jsonl", f"data.path={path}", "logger=none")
    assert result(rmexp.runs()[-1])["metrics"]["all/pairs"] == 29


@pytest.mark.slow
def test_a_checkpoint_is_not_evaluated_under_another_template(run, rmexp):
    done = rmexp("task=evaluate", f"checkpoint={run}", "template=plain", check=False)
    assert "carries the template it was trained with" in done.stderr
    shutil.rmtree(run / "export")
    done = rmexp("task=evaluate", f"checkpoint={run}", "template=plain", "logger=none", check=False)
    assert "was trained with the template" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["optim.lr=1"], "task=evaluate does not use optim: leave out optim.lr."),
        (["model=tiny"], "The checkpoint brings its own model: leave out model."),
    ],
)
def test_what_a_task_does_not_read_is_refused(words, sentence, rmexp, tmp_path):
    done = rmexp("task=evaluate", f"checkpoint={tmp_path}", *words, check=False)
    assert sentence in done.stderr


@pytest.mark.slow
def test_margins_of_the_data_train_and_are_missed_early(rmexp, write_rows):
    rows = [
        {"prompt": f"q {n}", "chosen": "yes", "rejected": "no", "margin": n / 10} for n in range(30)
    ]
    words = ("model=tiny", "logger=none", "data=jsonl", "loss.margin=data")
    rmexp(*words, f"data.path={write_rows(rows)}")
    some = [row if n % 5 else row | {"margin": None} for n, row in enumerate(rows)]
    done = rmexp(*words, f"data.path={write_rows(some, 'some.jsonl')}")
    assert "pairs of train are without a margin, which the loss reads" in done.stdout
    none = [row | {"margin": None} for row in rows]
    done = rmexp(*words, f"data.path={write_rows(none, 'none.jsonl')}", check=False)
    assert done.returncode == 1
    assert "margin" in done.stderr
    assert "model:" not in done.stdout, "said before the model is loaded"


@pytest.mark.slow
def test_rows_that_the_template_refuses_are_bad_rows(rmexp, write_rows):
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    )
    (rmexp.folder / "t.jinja").write_text(template + "{% endif %}{{ m.content }}{% endfor %}")
    rows = [{"prompt": f"q {n}", "chosen": "yes", "rejected": "no"} for n in range(30)]
    rows[4]["prompt"] = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    words = ("model=tiny", "logger=none", "data=jsonl", f"data.path={write_rows(rows)}")
    words = (*words, "template=jinja", "template.path=t.jinja")
    assert "rows.jsonl:5: The chat template refuses" in rmexp(*words, check=False).stderr
    done = rmexp(*words, "data.on_bad_row=skip", "data.max_bad_share=0.1")
    assert "1 bad: The chat template refuses a dialogue" in done.stdout
