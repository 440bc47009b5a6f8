"""Libraries are imported without what no command needs, and that can be imported afterwards."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import sys
from rmexp.core.lean_imports import LeanFinder

LeanFinder.install()
LeanFinder.install()
assert sum(isinstance(finder, LeanFinder) for finder in sys.meta_path) == 1
import rmexp.tasks.train
from transformers import AutoModel

unused = {"scipy.special", "scipy.optimize", "scipy.signal", "matplotlib", "peft", "wandb"}
assert not unused & set(sys.modules), unused & set(sys.modules)
import transformers.models
from transformers.utils import import_utils

assert import_utils.create_import_structure_from_path.cache_info().hits > 400
import importlib.metadata
import inspect
import matplotlib.figure
import scipy.signal

assert importlib.metadata.version("scipy") == scipy.__version__
assert inspect.getmodule.__qualname__ == "getmodule"
assert scipy.special.ndtr(0) == 0.5
"""


@pytest.mark.slow
def test_the_libraries_of_a_training():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
