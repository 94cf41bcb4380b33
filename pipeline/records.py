"""What a source yields, a row at a time: what it says of an image, or a row that cannot be read.

Several rows may speak of one image: they are merged by its id, wherever they come from.
"""

import re
from typing import NamedTuple

# Rows travel as lines of text whose cells are parted by such characters: see pipeline.rows.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f]")


class Annotation(NamedTuple):
    """What is said of one label: a positive, or a verified negative. Unsaid labels are unknown."""

    label: str  # as the source spells it
    confidence: float = 1.0  # from 0 to 1; 0 is a verified negative, anything above a positive
    source: str = ""  # who says so ("verification", "machine", ...), where the source tells


class ImageRow(NamedTuple):
    """What one row says of an image."""

    image_id: str
    uri: (
        str  # absolute, or relative to --images, or PATH#OFFSET+LENGTH; "" where another row has it
    )
    annotations: tuple[Annotation, ...]
    place: str  # FILE:NUMBER: index in Inventory.files, and the line or record, from 1
    checksum: str = ""  # of the image file: "md5:HEX" or "sha256:HEX"; "" where unknown
    rotation: int = 0  # degrees counter-clockwise that make the image upright: 0, 90, 180 or 270
    split: str = ""  # what the split column says


class BadRow(NamedTuple):
    """A row that gives no image."""

    text: str
    detail: str  # what is wrong with it
    place: str  # as an ImageRow's
