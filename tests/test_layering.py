"""Imports run downwards between packages and without cycles, as pyproject.toml states it."""

from importlinter.api import read_configuration
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from tests.conftest import ROOT


def test_imports_run_downwards_and_without_cycles():
    (layers, _) = read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
    listed = {layer.removeprefix("rmexp.") for layer in layers["layers"]}
    packages = {file.parent.name for file in (ROOT / "rmexp").glob("*/__init__.py")}
    assert "losses" in packages
    assert packages <= listed
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml")) == EXIT_STATUS_SUCCESS
