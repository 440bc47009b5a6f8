"""Templates of this folder -> one HTML file that needs nothing beside it."""

from pathlib import Path
from typing import Any

import jinja2


def render(template: str, **facts: Any) -> str:
    """A page; text in `facts` stays text, and a name that the template misses is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**facts)
