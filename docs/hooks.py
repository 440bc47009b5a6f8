"""MkDocs hooks: pages that live outside docs/, and a reference page for each package of rmexp."""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
OUTSIDE = {
    "benchmarks.md": "bench/RESULTS.md",
    "speed.png": "bench/speed.png",
    "changelog.md": "CHANGELOG.md",
}
"""Page of the site -> file of the repository; guides link to the file as `../FILE`."""


def packages() -> list[str]:
    """Dotted names of the packages of rmexp, and of its one module."""
    found = [file.parent.name for file in (ROOT / "rmexp").glob("*/__init__.py")]
    return ["rmexp", "rmexp.comparison", *(f"rmexp.{name}" for name in sorted(found))]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the reference to the navigation."""
    assert config.nav is not None
    pages: list[Any] = [{name: f"reference/{name}.md"} for name in packages()]
    config.nav.append({"Reference": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for name in packages():
        # A package that re-exports its public names shows those; others show their modules.
        file = ROOT / name.replace(".", "/") / "__init__.py"
        modules = name != "rmexp" and file.exists() and "__all__" not in file.read_text()
        text = f"# {name}\n\n::: {name}\n    options: {{show_submodules: {str(modules).lower()}}}\n"
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links to files outside docs/ at their pages, and links of those files at the guides."""
    for page, source in OUTSIDE.items():
        markdown = markdown.replace(f"](../{source}", f"]({page}")
    return markdown.replace("](docs/", "](")
