"""Render the templates of this folder to self-contained HTML files."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2


def render_page(template: str, **facts: Any) -> str:
    """Render a page; values are escaped, and a missing one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**facts)


def link(place: Path, home: Path) -> str | None:
    """Relative link from a page in `home` to the report of the run `place`, if it has one."""
    page = place.expanduser() / "report.html"
    return quote(os.path.relpath(page, home)) if page.is_file() else None
