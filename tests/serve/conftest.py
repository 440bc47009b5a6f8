"""A tiny reward model on disk, and the scorer that says what its rewards are."""

import pytest

import rmexp
from tests.helpers.servers import LIMITS, write_model


@pytest.fixture(scope="package")
def home(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="package")
def scorer(home):
    """Another scorer of the same model, for expected rewards."""
    return rmexp.load(home, precision="32-true", max_length=LIMITS.tokens)
