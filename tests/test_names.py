"""Names: none is public in two modules, and few stand on the first level."""

import ast
from collections import defaultdict

from tests.conftest import ROOT


def defined(node):
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def test_no_public_name_is_defined_in_two_modules():
    modules = defaultdict(list)
    for file in sorted((ROOT / "rmexp").rglob("*.py")):
        for node in ast.parse(file.read_text()).body:
            for name in defined(node):
                if not name.startswith("_"):
                    modules[name].append(str(file.relative_to(ROOT)))
    assert len(modules) > 500
    assert {name: files for name, files in modules.items() if len(files) > 1} == {}


def test_the_first_level_has_at_most_twenty_names():
    names = {path.stem for path in (ROOT / "rmexp").iterdir() if path.name != "__pycache__"}
    assert "training" in names
    assert len(names) <= 20, sorted(names)
    loose = {path.stem for path in (ROOT / "rmexp").glob("*.py")}
    assert loose == {"__init__", "__main__", "comparison"}
