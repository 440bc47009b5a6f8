"""The wheel carries conf/ and sweeps/, and works from any directory."""

import os
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def test_the_wheel_composes_and_lists_sweeps_elsewhere(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "rmexp", *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
            capture_output=True,
            text=True,
        )

    assert "loss_by_margin" in run("--help").stdout.split("sweeps: ")[1].splitlines()[0]
    assert "margin: 2.5" in run("--cfg", "job", "loss.margin=2.5").stdout
    assert (tmp_path / "site" / "rmexp" / "data" / "demo" / "demo.jsonl").is_file()
    assert (
        "rmexp = rmexp.__main__:main"
        in next((tmp_path / "site").glob("*.dist-info/entry_points.txt")).read_text()
    )
