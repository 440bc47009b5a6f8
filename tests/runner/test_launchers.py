"""A sweep on an engine: the same command, directories, resume and verdict as in one process."""

import datetime
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from contextlib import redirect_stdout
from pathlib import Path

import joblib
import psutil
import pytest
import torch
import transformers
from omegaconf import OmegaConf

from rmexp.config.schema import CONF_DIR, register
from rmexp.core.errors import DiskFull, UserError
from rmexp.models import gguf
from rmexp.runner.executors import LAUNCHERS, SubmititExecutor, WorkerExecutor
from rmexp.runner.preflight import preflight
from rmexp.runner.sweep_plan import read_plan
from rmexp.runner.sweep_worker import WorkerEnv
from rmexp.tracking.run_state import known_state
from tests.conftest import ROOT, SHORT_DEMO, CommandLine, result
from tests.helpers.fork_server import FORKED_WORKERS
from tests.helpers.run_directories import sweep_table

GRID = (
    *(
        "-m",
        "model=tiny",
        SHORT_DEMO,
        "data.limit=24",
        "loss=bradley_terry",
        "loss._target_=own_loss.Own",
    ),
    *("trainer.max_steps=5", "trainer.checkpoint_every=2", "optim.lr=1e-3", "seed=0,1,2"),
)

LOSS = """
import os
import time
from pathlib import Path

import torch

from rmexp.losses import BradleyTerry


class Own(BradleyTerry):
    steps = 0

    def __init__(self, **settings):
        super().__init__(**settings)
        with open(f"threads-{os.getpid()}", "w") as file:
            file.write(str(torch.get_num_threads()))

    def total_weights(self, batches):
        self.steps += 1
        while self.steps > 3 and Path("hold").exists():
            time.sleep(0.05)
        return super().total_weights(batches)
"""
"""In the user's directory, where workers must find it: it writes its number of threads, and waits
in the fourth step, after a checkpoint, while the file `hold` is there."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """The sweep in one process, with one thread."""
    rmexp = CommandLine(tmp_path_factory.mktemp("whole"), cache)
    (rmexp.folder / "own_loss.py").write_text(LOSS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rmexp(*GRID, "logger=none")
    torch.set_num_threads(threads)
    (home,) = rmexp.folder.glob("outputs/sweeps/*")
    return home


@pytest.fixture
def own(rmexp):
    """The command line with the loss at hand, and one thread in every worker, for equal numbers."""
    rmexp.environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    (rmexp.folder / "own_loss.py").write_text(LOSS)
    return rmexp


def files(home):
    """The names of a sweep's files; warnings of libraries come once in a process, and tests write
    no reports."""
    found = (str(file.relative_to(home)) for file in home.rglob("*"))
    left_out = ("wandb", "warnings.txt", "report.html", "plots")
    return {name for name in found if not any(word in name for word in left_out)}


def begun(folder, number):
    """The directory of a sweep's job that is at work and has a checkpoint to go on from."""
    for run in folder.glob(f"outputs/sweeps/*/{number}-*"):
        if (run / "checkpoints" / "last.ckpt").is_file() and result(run)["status"] == "running":
            return run
    return None


KEEP_PID = """
import os
from pathlib import Path

Path("pid").write_text(str(os.getpid()))
"""


# ---------------------------------------------------------------------- joblib
@pytest.mark.slow
@pytest.mark.soak
def test_joblib_finds_what_one_process_finds(own, whole, monkeypatch):
    del own.environment["OMP_NUM_THREADS"]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def wait_for_both():
        while len(list(own.folder.glob("threads-*"))) < 2:
            time.sleep(0.1)
        (own.folder / "hold").unlink()

    (own.folder / "hold").touch()  # else the first process may do all jobs
    threading.Thread(target=wait_for_both, daemon=True).start()
    done = own(*GRID, "logger=wandb", "hydra/launcher=joblib")
    (home,) = own.folder.glob("outputs/sweeps/*")
    assert home.name == whole.name
    runs = [home / cell.directory for cell in read_plan(home).cells]
    for name, (metrics, *_) in sweep_table(whole).items():
        assert result(home / name)["metrics"] == pytest.approx(metrics, rel=1e-5)
    assert files(home) == files(whole)
    pids = {result(run)["pid"] for run in runs}
    assert len(pids) == 2
    assert os.getpid() not in pids
    threads = str(max(1, joblib.cpu_count() // 2))
    assert {(own.folder / f"threads-{pid}").read_text() for pid in pids} == {threads}
    assert len(list(home.glob("*/wandb/offline-run-*"))) == 3
    for words in ("runs: 3\n", "time: about ", "\n  done        2-seed-2", "\nreport  ", "\nbest "):
        assert words in done.stdout


@pytest.mark.slow
def test_heads_that_train_together_are_one_job(rmexp, fork_server):
    words = ("-m", "model=tiny", "tune=head", "logger=none", SHORT_DEMO, "data.limit=24")
    grid = (*words, "loss=bradley_terry,contrastive", "seed=0,1", "hydra/launcher=joblib")
    assert fork_server.run(rmexp.folder, grid, first=FORKED_WORKERS + KEEP_PID) == 0
    (home,) = rmexp.folder.glob("outputs/sweeps/*")
    found = [result(home / cell.directory) for cell in read_plan(home).cells]
    assert [len(one["shared_with"]) for one in found] == [3, 3, 3, 3]
    assert len({one["pid"] for one in found}) == 1
    assert str(found[0]["pid"]) != (rmexp.folder / "pid").read_text()


# -------------------------------------------------------------------- submitit
@pytest.mark.slow
@pytest.mark.soak
def test_a_job_whose_time_is_up_goes_on_in_the_queue(own, whole):
    """The signal is what SLURM sends before the limit; its queue then starts the job again."""
    shutil.copytree(whole.parents[1], own.folder / "outputs")
    (home,) = own.folder.glob("outputs/sweeps/*")
    last = read_plan(home).cells[2].directory
    shutil.rmtree(home / last)
    assert "2 done, 1 pending" in own("task=status").stdout
    pids = []

    def end_its_time():
        while not (run := begun(own.folder, 2)):
            time.sleep(0.1)
        pids.append(result(run)["pid"])
        os.kill(pids[0], signal.SIGUSR2)
        (own.folder / "hold").unlink()

    (own.folder / "hold").touch()

    threading.Thread(target=end_its_time, daemon=True).start()
    said = own(*GRID, "logger=none", "sweep.export=none", "hydra/launcher=submitit_local").stdout
    assert said.count("done before: reused") == 2
    assert result(home / last)["pid"] not in pids
    (log,) = home.glob(".submitit/*/*_log.out")
    told = log.read_text()
    assert "stopping after this step" in told
    assert "interrupted before: resumes from its last checkpoint" in told
    assert "Requeued job" in told
    assert sweep_table(home) == sweep_table(whole)


def test_a_cluster_may_have_gpus_that_this_machine_lacks():
    register()
    words = ["model=tiny", "seed=0,1", "trainer.accelerator=gpu"]
    cluster = preflight([*words, "hydra/launcher=submitit_slurm"], True, None)
    assert len(cluster.cells) == 2
    with pytest.raises(UserError, match="this machine has 0 GPUs"):
        preflight([*words, "hydra/launcher=joblib"], True, None)


def test_options_of_slurm_reach_the_batch_script(tmp_path, monkeypatch):
    conf = OmegaConf.load(CONF_DIR / "hydra" / "launcher" / "submitit_slurm.yaml")
    given = {"folder": str(tmp_path / "%j"), "name": "rmexp", "partition": "gpu", "qos": "low"}
    given |= {"gpus_per_node": 1, "cpus_per_task": 4, "mem_gb": 30, "account": "lab"}
    given |= {"additional_parameters": {"mail-type": "END"}, "setup": ["module load cuda"]}
    settings = OmegaConf.to_container(OmegaConf.merge(conf, given))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    executor = SubmititExecutor("submitit_slurm", settings).engine()
    text = executor._executor._make_submission_file_text("COMMAND", "id")
    for words in (
        *("--partition=gpu", "--qos=low", "--account=lab", "--gpus-per-node=1", "--nodes=1"),
        *("--cpus-per-task=4", "--mem=30GB", "--time=240", "--signal=USR2@120"),
        *("--mail-type=END", "module load cuda"),
    ):
        assert words in text
    assert executor._executor.max_num_timeout == 20


# ------------------------------------------------------------------------- Ray
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster()
settings = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
settings["no_monitor"] = True
nodes = [cluster.add_node(**settings) for _ in range(2)]
print(cluster.address, *(node.all_processes["raylet"][0].process.pid for node in nodes), flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture
def cluster(monkeypatch):
    """A Ray of two nodes with a core each: its address, and the processes that are the nodes."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    words = process.stdout.readline().split()
    yield words[0], [psutil.Process(int(word)) for word in words[1:]]
    process.communicate("")


@pytest.mark.slow
def test_a_ray_node_that_dies_loses_only_what_it_was_doing(own, whole, cluster, fork_server):
    address, (_, node) = cluster
    words = (*GRID, "logger=none", "sweep.export=none", "hydra/launcher=ray")
    words += (f"hydra.launcher.init.address={address}",)
    (own.folder / "hold").touch()
    lost = []

    def on_node():
        time.sleep(0.1)
        if runs := [run for number in range(3) if (run := begun(own.folder, number))]:
            pids = {child.pid for child in node.children(recursive=True)}
            lost.extend((run, pid) for run in runs if (pid := result(run)["pid"]) in pids)
        return lost

    def die(_):
        for one in [*node.children(recursive=True), node]:
            one.kill()
        (own.folder / "hold").unlink()

    code = fork_server.run(own.folder, words, own.environment, event=die, when=on_node)
    said = (own.folder / "out.txt").read_text()
    assert code == 0, said + (own.folder / "err.txt").read_text()
    ((lost, first),) = lost
    assert "no estimate of time and disk" in said
    assert said.count("dead before: resumes from its last checkpoint") == 1
    assert "restarts" not in said
    assert result(lost)["pid"] != first
    (home,) = own.folder.glob("outputs/sweeps/*")
    assert home.name == whole.name
    assert sweep_table(home) == sweep_table(whole)


# ------------------------------------------------------------------ in the small
@pytest.mark.parametrize("launcher", ["joblib", "ray", "submitit_local", "submitit_slurm"])
def test_an_engine_that_is_absent_is_named_before_anything_is_written(rmexp, launcher, monkeypatch):
    import importlib.util

    package, extra = LAUNCHERS[launcher].package, LAUNCHERS[launcher].extra
    find = importlib.util.find_spec
    absent = lambda name, *more: None if name == package else find(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    done = rmexp(*GRID, f"hydra/launcher={launcher}", check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"rmexp: hydra/launcher={launcher} is not installed: pip install 'rmexp[{extra}]'.\n"
    )
    assert list(rmexp.folder.iterdir()) == []
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extras["optional-dependencies"][extra][0].startswith(package)


def test_a_full_disk_and_a_machine_without_the_files_are_told(tmp_path, monkeypatch):
    class Full:
        def run(self, reporter, marked):
            raise DiskFull("full")

    class Here(WorkerExecutor):
        def submit(self, run, env, works):
            return [run(env, work) for work in works]

    with pytest.raises(DiskFull, match="full"):
        Here("joblib", {})([Full()])
    gone = WorkerEnv(str(tmp_path / "gone"), (), (), None)
    with pytest.raises(UserError, match="all machines of a sweep must see the same files"):
        gone.enter()


def test_a_launcher_is_for_sweeps(rmexp):
    done = rmexp("model=tiny", "hydra/launcher=joblib", check=False)
    assert "hydra/launcher=joblib is for the jobs of a sweep: add -m." in done.stderr
    assert list(rmexp.folder.iterdir()) == []


def test_who_takes_up_a_run_of_another_host_waits_for_a_sign_of_life(tmp_path):
    def write(seconds_ago):
        now = datetime.datetime.now(datetime.UTC)
        beat = (now - datetime.timedelta(seconds=seconds_ago)).isoformat()
        facts = {"status": "running", "pid": 1, "host": "elsewhere", "heartbeat": beat}
        aside = tmp_path / "aside"
        aside.write_text(json.dumps(facts))
        aside.replace(tmp_path / "result.json")

    write(59.5)
    assert known_state(tmp_path).status == "dead"
    write(30)
    threading.Timer(0.3, write, [0]).start()
    assert known_state(tmp_path).status == "running"


class Written:
    """Stands for a tokenizer that was read from a GGUF file."""

    def save_pretrained(self, home):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (Path(home) / name).write_text("{}")


def fill(folder, number, words):
    """Use the caches for the first time, at the same moment as the other; what was said of it."""
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9
    )
    model = transformers.LlamaModel(config)
    model.config.quantization_config = {}
    line, said = CommandLine(folder / str(number), folder / "cache"), io.StringIO()
    line.folder.mkdir()
    while len(list(folder.glob("[01]"))) < 2:
        time.sleep(0.001)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        for kind, read in (
            (transformers.AutoModel, model),
            (transformers.AutoTokenizer, Written()),
        ):
            patch.setattr(kind, "from_pretrained", lambda *words, read=read, **more: read)
        home = gguf.convert_gguf(folder, "weights.gguf", folder / "cache")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir(home))
    return said.getvalue() + line(*words).stdout


FILL = """
import json, sys
from pathlib import Path
import joblib
from tests.runner.test_launchers import fill

call = joblib.delayed(fill)
calls = (call(Path.cwd(), number, sys.argv[1:]) for number in range(2))
print(json.dumps(joblib.Parallel(n_jobs=2, backend="multiprocessing")(calls)))
raise SystemExit
"""


@pytest.mark.slow
def test_two_processes_fill_the_caches_at_once(tmp_path, fork_server):
    """Tokenised rows, converted weights, kept states: one writes, the other waits for it."""
    (tmp_path / "weights.gguf").write_bytes(b"weights")
    words = ("model=tiny", "tune=head", "logger=none", SHORT_DEMO, "data.limit=24")
    words += ("trainer.max_steps=2", "trainer.validations=1")
    assert fork_server.run(tmp_path, words, first=FILL) == 0, (tmp_path / "err.txt").read_text()
    said = json.loads((tmp_path / "out.txt").read_text())
    assert sorted("tokenised now" in one for one in said) == [False, True]
    activations = [next(x for x in one.splitlines() if x.startswith("features:")) for one in said]
    assert sorted("from the cache" in line for line in activations) == [False, True]
    assert sum("Converting weights.gguf" in one for one in said) == 1
    found = [result(next((tmp_path / str(n)).glob("outputs/*/*"))) for n in range(2)]
    assert len({one["pid"] for one in found}) == 2
    assert sorted(one["features"]["from_cache"] for one in found) == [False, True]
    assert found[0]["metrics"] == found[1]["metrics"]
    for kind in ("tokenised", "models", "features"):
        assert len([one for one in (tmp_path / "cache" / kind).iterdir() if one.is_dir()]) == 1
