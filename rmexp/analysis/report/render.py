"""Templates of this folder -> one HTML file that needs nothing beside it."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2


def render_page(template: str, **facts: Any) -> str:
    """A page; text in `facts` stays text, and a name that the template misses is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**facts)


def link(place: Path, home: Path) -> str | None:
    """The way from a page in `home` to the report of another run; None where it has none."""
    page = place.expanduser() / "report.html"
    return quote(os.path.relpath(page, home)) if page.is_file() else None
