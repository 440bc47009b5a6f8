"""Several processes make the run of one: the same steps, losses, weights and files."""

import json
import os
import socket
import threading
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmexp import load
from rmexp.batching.rank_partition import SLACK, RankPartition, partition_rows, tree_tokens
from rmexp.core import distributed
from rmexp.core.errors import UserError
from rmexp.runner import launch
from rmexp.tracking.run_directory import RunDirectory
from tests.conftest import SHORT_DEMO, result
from tests.helpers.fork_server import FORKED_RANKS
from tests.helpers.interruptions import interrupted_after

TWO = ("trainer=ddp", "trainer.devices=2")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


# ------------------------------------------------------------------- dealing
@st.composite
def steps(draw):
    """Sizes, shared tokens and prompts of a step's comparisons."""
    size = st.integers(1, 400)
    found = draw(
        st.lists(st.tuples(size, st.floats(0, 1), st.integers(0, 8)), min_size=1, max_size=40)
    )
    sizes, shares, prompts = zip(*found, strict=True)
    shared = [int(size * share) for size, share in zip(sizes, shares, strict=True)]
    return np.array(sizes, int), np.array(shared, int), np.array(prompts, int)


@given(steps(), st.integers(1, 5))
def test_every_comparison_is_dealt_once_and_hands_are_even(step, count):
    sizes, shared, prompts = step
    hands = partition_rows(sizes, shared, prompts, count)
    assert len(hands) == count
    assert sorted(place for hand in hands for place in hand) == list(range(len(sizes)))
    units = [
        [place for place in hand if prompts[place] == prompt]
        for hand in hands
        for prompt in {prompts[place] for place in hand}
    ]
    # Parts of a prompt that meet again in one hand only make it lighter.
    loads = [
        sum(tree_tokens(sizes[u], shared[u]) for u in units if set(u) <= set(hand))
        for hand in hands
    ]
    fair = sum(sizes) / count
    assert max(loads) <= max(SLACK * fair, fair + max(sizes))
    parts = [RankPartition(n, count, sizes, shared, prompts) for n in range(count)]
    assert [part.of(range(len(sizes))) for part in parts] == hands


def test_a_prompt_stays_together_until_a_hand_is_too_full():
    sizes, shared = np.full(6, 100), np.full(6, 80)
    together = partition_rows(sizes, shared, np.array([0, 0, 0, 1, 1, 1]), 2)
    assert together == [[0, 1, 2], [3, 4, 5]]
    assert [len(hand) for hand in partition_rows(sizes, shared, np.zeros(6, int), 2)] == [3, 3]
    assert partition_rows(sizes[:1], shared[:1], np.zeros(1, int), 3) == [[0], [], []]


def test_a_large_step_is_even():
    rng = np.random.default_rng(0)
    sizes = rng.integers(50, 1500, 64)
    hands = partition_rows(sizes, sizes // 2, np.arange(64), 8)
    loads = [sizes[hand].sum() for hand in hands]
    assert max(loads) / np.mean(loads) < 1.02


# ------------------------------------------------------------------ launchers
@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        (
            {"TORCHELASTIC_RUN_ID": "1", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"},
            distributed.LauncherEnv(3, 1, 4),
        ),
        (
            {
                **{"SLURM_STEP_ID": "0", "SLURM_PROCID": "9"},
                **{"SLURM_LOCALID": "1", "SLURM_NTASKS": "16", "SLURM_STEP_NUM_TASKS": "16"},
            },
            distributed.LauncherEnv(9, 1, 16),
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16"}, None),  # the batch script, not srun
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, None),
        (  # the shell of `salloc -n 8`, a step of its own
            {
                **{"SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
                **{"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"},
            },
            None,
        ),
    ],
)
def test_the_environment_says_which_process_this_is(environment, place, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed.launcher_env() == place


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("trainer.devices=2",), "several processes: say trainer=ddp"),
        ((*TWO, "trainer.accelerator=gpu"), "trainer.devices=2: this machine has 0 GPUs"),
        ((*TWO, "trainer.num_nodes=2"), "on every machine with torchrun or srun"),
        (("trainer=fsdp", "tune=head"), "use trainer=ddp"),
        (
            ("trainer=fsdp", "model.compile=true"),
            "trainer=fsdp and model.compile=true exclude each other",
        ),
        (("trainer.devices=0",), "trainer.devices=0: should be a whole number above 0, or auto"),
        (("task=evaluate", "checkpoint=.", *TWO), "task=evaluate runs on one device"),
    ],
)
def test_what_cannot_be_is_refused_first(words, said, rmexp):
    model = () if "checkpoint=." in words else ("model=tiny",)
    done = rmexp(*model, *words, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert not rmexp.runs()


def test_a_launcher_and_the_keys_must_agree(rmexp, monkeypatch):
    for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    done = rmexp("model=tiny", check=False)
    assert "The launcher started 2 processes, and trainer.devices=1" in done.stderr
    done = rmexp("-m", "model=tiny", *TWO, "seed=0,1", check=False)
    assert "A sweep starts the processes of its jobs itself" in done.stderr
    done = rmexp("task=plan", "model=tiny", check=False)
    assert "task=plan takes one device: leave out torchrun or srun." in done.stderr
    monkeypatch.setenv("RANK", "1")
    done = rmexp("model=tiny", check=False)  # on another machine: that may lack what this one has
    assert f"rmexp: {socket.gethostname()}: The launcher started 2 processes" in done.stderr
    monkeypatch.setenv("LOCAL_RANK", "1")  # of the processes of a machine one speaks
    assert rmexp("model=tiny", check=False).stderr == ""


# --------------------------------------------------------------- real runs
SETTINGS = (
    *("model=tiny", "logger=none", "trainer.validations=2", "trainer.max_steps=4"),
    SHORT_DEMO,
    *("optim.lr=1e-3", "data.batch_size=5", "data.micro_batch_tokens=600", "model.layout=tree"),
    *("trainer.precision=32-true", "trainer.keep=resume", "optim.clip=0.5"),
)


def log(run):
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_the_same(run, alone):
    """Steps, metrics, rewards and weights of two runs."""
    assert len(log(run)) == len(log(alone))
    for ours, theirs in zip(log(run), log(alone), strict=True):
        near = 1e-5 if "train/loss" in ours else 1e-3  # some metrics divide by what is small
        assert ours == pytest.approx(theirs, abs=near, rel=near)
    ours, theirs = result(run), result(alone)
    assert ours["metrics"] == pytest.approx(theirs["metrics"], abs=1e-3, rel=1e-3)
    for name in ("val", "test"):
        files = [home / "predictions" / f"{name}.parquet" for home in (run, alone)]
        ours, theirs = (pyarrow.parquet.read_table(file).to_pydict() for file in files)
        assert ours.pop("reward") == pytest.approx(theirs.pop("reward"), abs=1e-4)
        assert ours == theirs
    states = [torch.load(home / "checkpoints" / "last.ckpt") for home in (run, alone)]
    assert list(states[0]["state_dict"]) == list(states[1]["state_dict"])
    for name, value in states[1]["state_dict"].items():
        torch.testing.assert_close(states[0]["state_dict"][name], value, atol=1e-5, rtol=1e-4)


def mixed_rows():
    """Pairs, rated responses and lists; some prompts have several comparisons."""
    for n in range(24):
        answers = [f"answer {k} " * (1 + (n + k) % 5) for k in range(4)]
        row = {"prompt": f"question {n % 9}, {'at length ' * (n % 4)}"}
        if n % 3 == 0:
            yield row | {"responses": answers, "ratings": [1, 2, 3, 4]}
        elif n % 3 == 1:
            yield row | {"chosen": answers[0], "rejected": answers[1], "weight": 1 + n % 2}
        else:
            yield row | {"responses": [answers[2]], "ratings": [n % 4 + 1]}


MIX = (
    *("loss=mix", "loss@loss.losses.ratings=ordinal", "data=jsonl", "data.path=rows.jsonl"),
    *("loss.losses.centring={_target_: rmexp.losses.Centring}", "data.group_by_prompt=true"),
)
NAMED = (
    *("head=attributes", "head.weights=learned", "loss=ordinal", "tune=lora"),
    *("data=jsonl", "data.path=named.jsonl", "data.val_share=0.3"),
)


def named_rows():
    """Pairs rated in two attributes; some responses are unrated in one."""
    for n in range(24):
        texts = [f"answer {k} " * (1 + (n + k) % 5) for k in range(2)]
        ratings = {"size": [(n + k) % 5 for k in range(2)], "tone": [n % 3, None]}
        yield {"prompt": f"q{n}", "chosen": texts[0], "rejected": texts[1], "ratings": ratings}


LOSSES = {
    "lists": ("loss=plackett_luce", "data.limit=40", "data.batch_size=1"),  # one has no rows
    "ratings": ("loss=regression", "data.limit=40"),
    "mix": MIX,
}

DRIVER = """
import json, sys
from rmexp.__main__ import main

for words in json.load(open(sys.argv[1])):
    sys.argv = ["rmexp", *words]
    main()
"""


TORCHRUN = """
import sys
from torch.distributed import run

sys.argv = ["torchrun", "--nproc-per-node=2", "driver.py", "commands.json"]
run.main()
raise SystemExit
"""


@pytest.mark.slow
def test_torchrun_makes_the_runs_of_one_process(rmexp, fork_server, monkeypatch):
    for name, made in (("rows", mixed_rows()), ("named", named_rows())):
        rows = "".join(json.dumps(row) + "\n" for row in made)
        (rmexp.folder / f"{name}.jsonl").write_text(rows)
    half = (*MIX, "trainer.precision=bf16-mixed")
    others = {"lora": (*MIX, "tune=lora"), "half": half, "named": NAMED}
    for name, words in (LOSSES | others).items():
        rmexp(*SETTINGS, *words, f"name=alone-{name}")
    with interrupted_after(2, monkeypatch):
        for name, words in (("mix", MIX), ("named", NAMED)):
            done = rmexp(*SETTINGS, *words, f"name=stopped-{name}", check=False)
            assert done.returncode == 130
    stopped = [run for run in rmexp.runs() if "stopped" in run.name]
    sharded = ("trainer=fsdp", "trainer.devices=2")
    commands = [
        *([*SETTINGS, *words, *TWO, f"name=ddp-{name}"] for name, words in LOSSES.items()),
        [*SETTINGS, *MIX, "tune=lora", *sharded, "name=fsdp-lora"],
        [*SETTINGS, *half, *sharded, "name=fsdp-half"],
        *([f"resume={run}", *sharded] for run in stopped),
    ]
    (rmexp.folder / "driver.py").write_text(DRIVER)
    (rmexp.folder / "commands.json").write_text(json.dumps(commands))
    code = fork_server.run(rmexp.folder, (), ONE_THREAD, FORKED_RANKS + TORCHRUN)
    said = (rmexp.folder / "out.txt").read_text()
    assert code == 0, said + (rmexp.folder / "err.txt").read_text()
    assert said.count("export: verified") == 7  # one process speaks
    runs = {run.name.split("-", 3)[3]: run for run in rmexp.runs()}
    assert len(runs) == 6 + 2 + 5
    for name in LOSSES:
        assert_the_same(runs[f"ddp-{name}"], runs[f"alone-{name}"])
        found = result(runs[f"ddp-{name}"])
        assert [found[k] for k in ("strategy", "devices", "nodes")] == ["ddp", 2, 1]
    for name in ("mix", "named"):
        assert_the_same(runs[f"stopped-{name}"], runs[f"alone-{name}"])
    ours, theirs = (load(runs[f"{n}-named"]).details("q", ["a"]) for n in ("stopped", "alone"))
    assert ours.rewards == pytest.approx(theirs.rewards, abs=1e-3)
    for name in ("size", "tone"):
        assert ours.outputs[name] == pytest.approx(theirs.outputs[name], abs=1e-3)
    assert_the_same(runs["fsdp-lora"], runs["alone-lora"])
    ours, theirs = (log(runs[name]) for name in ("fsdp-half", "alone-half"))
    for one, other in zip(ours, theirs, strict=True):
        assert one["step"] == other["step"]
        if "train/loss" in one:
            assert one["train/loss"] == pytest.approx(other["train/loss"], rel=2e-2)
            assert one["train/grad_norm"] == pytest.approx(other["train/grad_norm"], rel=0.1)


DYING = """
import os, signal
from pathlib import Path

from rmexp.losses import BradleyTerry


class Dying(BradleyTerry):
    steps = 0

    def total_weights(self, batches):
        self.steps += 1
        if self.steps == 4 and os.environ.get("RANK") == "1" and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().total_weights(batches)
"""


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        # The launcher ended rank 0.
        (
            [("KeyboardInterrupt", "", 7), ("died", "SIGKILL", 7)],
            r"^Process 1 of 2 died \(SIGKILL\)",
        ),
        ([("died", "SIGTERM", 7), ("UserError", "why", 7)], "^why$"),
        ([("PeerProcessLost", "gone", 6), ("died", "SIGKILL", 7)], r"^Process 1 of 2 died"),
        ([("PeerProcessLost", "gone", 6), ("KeyboardInterrupt", "", 7)], "^$"),
        ([("died", "SIGTERM", 7), ("died", "SIGTERM", 6)], r"^Process 1 of 2 died \(SIGTERM\)"),
        ([("ValueError", "a", 6), ("ValueError", "b", 7)], "^Process 0 of 2: ValueError: a$"),
    ],
)
def test_the_cause_is_told_from_what_follows(errors, said, monkeypatch, tmp_path):
    """Failures carry whole seconds, so that the processes often fail at the same time."""
    failures = {
        rank: SimpleNamespace(timestamp=at, parsed=(kind, text, ""))
        for rank, (kind, text, at) in enumerate(errors)
    }
    monkeypatch.setattr(launch, "_parse", lambda failure: failure.parsed)
    RunDirectory.claim(tmp_path)
    with pytest.raises((UserError, KeyboardInterrupt), match=said):
        launch._explain(failures, tmp_path, 2)


@pytest.mark.slow
def test_a_dead_process_ends_its_job_alone_and_the_run_goes_on(rmexp, fork_server):
    """In a sweep: the next job runs, and nobody starts the sweep anew."""
    (rmexp.folder / "dying.py").write_text(DYING)
    words = (*SETTINGS, "loss=bradley_terry", "data.limit=40", "loss._target_=dying.Dying")
    rmexp(*words, "seed=0", "name=alone")
    sweep = ("-m", *words, "trainer=fsdp", "trainer.devices=2", "trainer.checkpoint_every=1")
    sweep = (*sweep, "seed=0,1", "sweep.export=none")
    assert fork_server.run(rmexp.folder, sweep, ONE_THREAD, FORKED_RANKS) == 1
    said = "Process 1 of 2 died (SIGKILL), and the others were ended."
    assert (rmexp.folder / "err.txt").read_text() == f"rmexp: {said}\n"
    assert (rmexp.folder / "out.txt").read_text().count("best weights") == 1
    alone, *jobs = sorted(rmexp.runs(), key=lambda run: ("sweeps" in run.parts, run))
    dead, other = (result(run) for run in jobs)
    assert [other[k] for k in ("strategy", "devices", "nodes")] == ["fsdp", 2, 1]
    assert (dead["status"], dead["error"], other["status"]) == ("failed", said, "done")
    refused = rmexp(f"resume={jobs[0]}", check=False).stderr
    assert "loss._target_=dying.Dying is no part of rmexp" in refused
    rmexp(f"resume={jobs[0]}", "trainer.devices=1", "trust=[dying.Dying]")
    assert_the_same(jobs[0], alone)
    model = load(jobs[0], layout="padded", trust=["dying.Dying"])
    assert len(model.score("2 + 2?", ["4", "5"])) == 2


def test_a_worker_whose_parent_was_killed_before_it_watched_ends(monkeypatch):
    # It asked for its parent's id itself, was told that of process 1, and stayed.
    codes, done = [], threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: (codes.append(code), done.set()))
    launch.end_with_parent(-1)
    assert done.wait(60)
    assert codes == [1]
