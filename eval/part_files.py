"""What the count of a part leaves on disk, for the process that merges all parts.

PATH.npz     the tally
PATH.json    the gallery, written last: with it the part is whole
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from eval.examples import Gallery
from eval.tally import Tally

SUFFIXES = (".npz", ".json")


def write(path: Path, tally: Tally, gallery: Gallery) -> None:
    """Writes both files, each whole or not at all."""
    tally.save(path.with_suffix(".npz"))
    temporary = path.with_suffix(f".json.tmp-{os.getpid()}")
    temporary.write_text(json.dumps(gallery.to_state()))
    os.replace(temporary, path.with_suffix(".json"))


def merged(paths: Sequence[Path]) -> tuple[Tally, Gallery]:
    """All parts as one, to the same bits in whatever order; raises TallyError, or OSError."""
    tally, gallery = Tally.load(paths[0].with_suffix(".npz")), Gallery()
    for path in paths[1:]:
        tally.merge(Tally.load(path.with_suffix(".npz")))
    for path in paths:
        gallery.merge(Gallery.from_state(json.loads(path.with_suffix(".json").read_text())))
    return tally, gallery
