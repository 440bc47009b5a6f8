"""What all tests share: no network, little noise, a cache of their own, a tiny model."""

import os

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "CUDA_VISIBLE_DEVICES": "",
}

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "soak", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
HH = SHARED / "hh_rlhf_harmless_base_test" / "raw" / "test.jsonl.gz"


def needs(path: Path) -> pytest.MarkDecorator:
    """Skip, by name, where a file of ../shared is not there."""
    return pytest.mark.skipif(not path.exists(), reason=f"{path} is not there")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache directory of the session's own."""
    return tmp_path_factory.mktemp("cache")


class CommandLine:
    """Runs the real entry point in a process of its own, in a directory of its own."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache

    def __call__(
        self, *overrides: str, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, "-m", "rmexp", *overrides],
            cwd=self.folder,
            env=os.environ
            | {
                "RMEXP_CACHE": str(self.cache),
                "OMP_NUM_THREADS": "2",
                "PYTHONPATH": str(ROOT),
                "COLUMNS": "200",
            }
            | environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def runs(self) -> list[Path]:
        """The run directories made here, oldest first."""
        return sorted(
            (f.parent for f in self.folder.rglob("result.json")), key=lambda d: d.stat().st_ctime
        )


@pytest.fixture
def rmexp(tmp_path, cache):
    """The command line, in a fresh directory."""
    return CommandLine(tmp_path, cache)


def result(run: Path) -> dict:
    """A run's result.json."""
    return json.loads((run / "result.json").read_text())


@pytest.fixture
def write_rows(tmp_path):
    """Write rows as JSON lines and return the path."""

    def write(rows, name="rows.jsonl"):
        file = tmp_path / name
        file.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
        return str(file)

    return write
