"""The search proposes what the sweep's grammar says, stops early, and writes what it found."""

import functools
from types import SimpleNamespace

import pytest

from rmexp.config.compose import compose_config
from rmexp.config.grid import parse_override
from rmexp.config.schema import register
from rmexp.config.yaml_io import read_yaml
from rmexp.runner.optuna_search import Search, _suggest

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Optuna and its libraries
register()


@pytest.mark.parametrize(
    ("sweep", "kind", "facts"),
    [
        ("interval(0, 1.5)", float, {"low": 0, "high": 1.5}),
        ("tag(log, interval(1e-6, 1e-3))", float, {"low": 1e-6, "high": 1e-3}),
        ("int(interval(1, 8))", int, {"low": 1, "high": 8, "step": 1}),
        ("range(2, 8, 2)", int, {"low": 2, "high": 8, "step": 2}),
        ("range(0, 1, 0.25)", float, {"low": 0, "high": 1}),
        ("0.5,data", (float, str), {"choices": (0.5, "data")}),
        ("choice(true,false)", bool, {"choices": (True, False)}),
    ],
)
def test_sweeps_become_distributions(sweep, kind, facts):
    trial = optuna.create_study().ask()
    _suggest(trial, "x", parse_override(f"x={sweep}"))
    assert isinstance(trial.params["x"], kind)
    found = trial.distributions["x"]
    assert {name: getattr(found, name) for name in facts} == facts


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """Runs a search without jobs."""
    monkeypatch.setattr("rmexp.runner.optuna_search.make_cell", lambda number, job, inputs: number)
    return functools.partial(search, tmp_path)


def search(tmp_path, value, *overrides):
    """The jobs of a search that return `value(overrides)`, why it stopped, and its results."""
    words = ["hydra/sweeper=optuna", *(o for o in overrides if o.startswith("hydra"))]
    settings, jobs = compose_config(words).hydra.sweeper, []
    checker = SimpleNamespace(check=lambda composed, overrides, shared: overrides)
    plan = SimpleNamespace(directory=tmp_path, inputs="", place=lambda job, number: (number, job))

    def execute(batch):
        jobs.extend(batch)
        return [value(job) for _, job in batch]

    own = [o for o in overrides if not o.startswith("hydra")]
    _, stopped = Search(settings, own, lambda overrides: None, checker).run(plan, execute)
    file = tmp_path / "optimization_results.yaml"
    return jobs, stopped, read_yaml(file) if file.exists() else None


def test_a_grid_sampler_visits_each_cell_once(searched):
    words = ("seed=3", "loss.margin=0.5,1.0", "tune.rank=range(1,3)")

    def rank(job):
        return float(next(text[-1] for text in job if text.startswith("tune.rank")))

    jobs, stopped, results = searched(rank, *words, "hydra/sweeper/sampler=grid")
    assert [number for number, _ in jobs] == [0, 1, 2, 3]
    assert all(job[0] == "seed=3" for _, job in jobs)
    assert len({tuple(job) for _, job in jobs}) == 4
    assert stopped is None
    assert results["best_value"] == 1.0
    assert results["best_params"]["tune.rank"] == 1


def test_it_stops_when_too_many_jobs_fail(searched):
    words = ("loss.margin=interval(0,1)", "hydra.sweeper.n_jobs=1", "hydra.sweeper.n_trials=9")
    jobs, stopped, results = searched(lambda job: None, *words)
    assert len(jobs) == 1
    assert stopped == "search stopped: 1 of 1 jobs failed (hydra.sweeper.max_failure_rate=0.0)"
    assert results is None
    words = (*words, "hydra.sweeper.max_failure_rate=1")
    assert len(searched(lambda job: None, *words)[0]) == 9


def test_the_last_override_of_a_key_counts(searched):
    words = ("seed=1,2", "seed=5", "loss.margin=0.3", "loss.margin=0.3,0.4")
    jobs, _, _ = searched(lambda job: 1.0, *words, "hydra.sweeper.n_trials=2")
    assert all(job[0] == "seed=5" and len(job) == 2 for _, job in jobs)
