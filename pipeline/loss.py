"""How many rows are lost where a file cannot be read to its end: an estimate, for nobody knows."""

from typing import NamedTuple


class Usual(NamedTuple):
    """What the files of a source are like, as far as has been looked."""

    row_bytes: float
    file_bytes: int  # the median


class Loss(NamedTuple):
    """What cannot be read at the end of a file."""

    file_bytes: int  # how long the file is
    num_bytes: int | None  # of these, what cannot be read; None: the file is cut, and lacks more

    def num_rows(self, usual: Usual) -> int:
        """How many rows that are, at least one.

        A file that is cut is taken to have been of the usual length; where it still has that, to
        have been twice as long as it is: so a single file counts as halved, and so do many that are
        all cut alike.
        """
        num_bytes = self.num_bytes
        if num_bytes is None:
            is_short = self.file_bytes < usual.file_bytes
            num_bytes = usual.file_bytes - self.file_bytes if is_short else self.file_bytes
        return max(1, round(num_bytes / usual.row_bytes))
