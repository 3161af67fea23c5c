"""Turns a summary into one offline HTML file: no scripts, no fonts, nothing fetched. Everything shown is escaped."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def render(summary: Mapping[str, Any]) -> str:
    """Return the report of a summary as HTML; a figure the template names and the summary lacks is an error."""
    environment = Environment(
        loader=PackageLoader("bitweir_loadgen"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(summary=summary)
