"""Rules for all modules: imports run downwards and without cycles; text files name an encoding."""

import ast
import re

import pytest
from importlinter.api import read_configuration
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from tests.conftest import ROOT


@pytest.mark.slow
def test_imports_run_downwards_and_without_cycles():
    (layers, _) = read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
    listed = {layer.removeprefix("rmexp.") for layer in layers["layers"]}
    packages = {file.parent.name for file in (ROOT / "rmexp").glob("*/__init__.py")}
    assert "losses" in packages
    assert packages <= listed
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml")) == EXIT_STATUS_SUCCESS


def test_every_text_file_is_opened_with_an_encoding():
    """The locale's encoding may be ASCII."""
    without = []
    for file in (ROOT / "rmexp").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(call, ast.Call) or any(k.arg == "encoding" for k in call.keywords):
                continue
            name = getattr(call.func, "attr", getattr(call.func, "id", None))
            values = [a.value for a in call.args if isinstance(a, ast.Constant)]
            binary = any(
                isinstance(v, str) and re.fullmatch("[rwaxb+]*b[rwaxb+]*", v) for v in values
            )
            if "utf-8" not in values and (
                name in ("read_text", "write_text")
                or (isinstance(call.func, ast.Name) and name == "open" and not binary)
            ):
                without.append(f"{file.relative_to(ROOT)}:{call.lineno}")
    assert without == []
