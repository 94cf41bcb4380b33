"""What did not end in a shard, and why; kept in a file that is itself a label file to run again on.

image_path,labels,image_id,checksum,rotation,reason,detail,place
cats/9.jpg,cat|animal,cats/9.jpg,,0,truncated_jpeg,Premature end of JPEG file,train.csv:17
"""

from typing import NamedTuple

from pipeline import images

BAD_ROW = "bad_row"
SEVERAL_SPLITS = "several_splits"  # that the split column names for one image
REASONS = (BAD_ROW, SEVERAL_SPLITS, *images.REASONS)
DELIMITER = "|"  # between labels, whatever the source has: what a manifest has by default
# Reasons that lie outside the image: a run that is not complete tries these again when restarted.
TRANSIENT_REASONS = frozenset({"not_found", "unreadable", "refused_address", "checksum_mismatch"})

_MAX_DETAIL = 500  # characters


class DeadLetter(NamedTuple):
    """One line of the file; its fields are the columns."""

    image_path: str  # empty for a row that names none
    labels: str  # as a manifest has them
    image_id: str
    checksum: str
    rotation: int
    reason: str
    detail: str
    place: str  # file:line


def dead_letter(
    reason: str,
    detail: str,
    place: str,
    image_path: str = "",
    labels: str = "",
    image_id: str = "",
    checksum: str = "",
    rotation: int = 0,
) -> DeadLetter:
    """A dead letter whose detail is one line of bounded length."""
    if reason not in REASONS:
        raise ValueError(f"a reason is one of {', '.join(REASONS)}. Received: {reason!r}")
    line = " ".join(detail.split())[:_MAX_DETAIL]
    return DeadLetter(image_path, labels, image_id, checksum, rotation, reason, line, place)
