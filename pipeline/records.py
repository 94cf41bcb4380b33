"""What a source yields, a row at a time: a reference to an image, or a row that cannot be read."""

from typing import NamedTuple


class ImageRef(NamedTuple):
    """An image by reference, with its labels as the source spells them."""

    image_id: str
    uri: str  # as the source spells it: absolute, or relative to --images
    labels: tuple[str, ...]
    source: str  # file:line


class BadRow(NamedTuple):
    """A row that gives no image."""

    text: str
    detail: str  # what is wrong with it
    source: str  # file:line
