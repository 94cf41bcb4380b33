"""Files that are named by path or glob, several with commas between."""

import os
import re

from pipeline import storage
from pipeline.sources.source import SourceError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_COMMA = re.compile(r",(?![^{]*\})")


def patterns(text: str) -> list[str]:
    """The single patterns: `a-{00..02}.tar,b.tar` gives a-00.tar, a-01.tar, a-02.tar and b.tar."""
    stripped = (pattern.strip() for pattern in _COMMA.split(text))
    return [one for pattern in stripped if pattern for one in _expanded(pattern)]


def files(text: str, flag: str) -> dict[str, storage.File]:
    """The files that are meant, by path (absolute where local), sorted by path.

    Raises SourceError where a pattern matches nothing.
    """
    found: dict[str, storage.File] = {}
    for pattern in patterns(text):
        pattern = storage.without_file_scheme(pattern)
        if storage.is_local(pattern):
            pattern = os.path.abspath(pattern)
            if os.path.isdir(pattern):
                raise SourceError(f"--{flag}: {pattern} is a folder: name the files, e.g. by /*")
        matched = storage.files(pattern)
        if not matched:
            raise SourceError(f"--{flag}: no file matches {pattern}")
        found |= matched
    if not found:
        raise SourceError(f"--{flag} must name files. Received: {text!r}")
    return dict(sorted(found.items()))


def _expanded(pattern: str) -> list[str]:
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    numbers = range(int(first), int(last) + 1)
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [
        f"{before}{number:0{len(first)}}{rest}" for number in numbers for rest in _expanded(after)
    ]
