"""What did not end in a shard, and why; kept in a file that is itself a label file to run again on.

    image_path,labels,image_id,reason,detail,source
    cats/9.jpg,cat|animal,cats/9.jpg,truncated_jpeg,Premature end of JPEG file,train.csv:17

`unknown_label` alone does not mean a lost image: the image is in its shard, without those labels.
The row keeps all its labels, so that it can be run again with a longer class list.
"""

import csv
import io
from collections.abc import Iterable
from typing import NamedTuple

from pipeline import images

UNKNOWN_LABEL = "unknown_label"
BAD_ROW = "bad_row"
REASONS = (BAD_ROW, *images.REASONS, UNKNOWN_LABEL)
# Reasons that lie outside the image: a run that is not complete tries these again when restarted.
TRANSIENT_REASONS = frozenset({"not_found", "unreadable"})

_HEADER = ("image_path", "labels", "image_id", "reason", "detail", "source")
_MAX_DETAIL = 500  # characters


class DeadLetter(NamedTuple):
    """One line of the file; its fields are the columns."""

    image_path: str  # empty for a row that names none
    labels: str  # joined as in the source
    image_id: str
    reason: str
    detail: str
    source: str  # file:line

    @property
    def loses_image(self) -> bool:
        return self.reason != UNKNOWN_LABEL


def dead_letter(
    reason: str,
    detail: str,
    source: str,
    image_path: str = "",
    labels: str = "",
    image_id: str = "",
) -> DeadLetter:
    """A dead letter whose detail is one line of bounded length."""
    if reason not in REASONS:
        raise ValueError(f"a reason is one of {', '.join(REASONS)}. Received: {reason!r}")
    line = " ".join(detail.split())[:_MAX_DETAIL]
    return DeadLetter(image_path, labels, image_id, reason, line, source)


def to_csv(letters: Iterable[DeadLetter], with_header: bool) -> str:
    """Lines of the file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if with_header:
        writer.writerow(_HEADER)
    writer.writerows(letters)
    return text.getvalue()
