"""Pages for people: HTML files made from templates, in which all that is put in is escaped."""

from pathlib import Path
from typing import Any


def environment(folder: Path) -> Any:
    """A jinja2.Environment of a folder of templates; what a template lacks a value for is an error.

    Raises ModuleNotFoundError where jinja2, of the extra `report`, is not installed.
    """
    import jinja2  # takes a while: only when a page is made

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
