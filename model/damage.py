"""Damaged records of the shards: found, counted, and left out of training.

TensorFlow reads a shard until the first damaged record and then fails, or, told to ignore errors,
loses the rest of the shard. So the chief mends the shard where training met the damage: its whole
records are copied to RUN/mended/, which is read instead from then on, and every place that was left
out is a line of RUN/damaged_records.tsv. A restart begins with what is known there.
"""

import csv
import io
import os
import struct
from pathlib import Path

from model import run_folder
from model.run_folder import TrainingError
from pipeline import tfrecord

_HEADER = struct.Struct("<Q")
_HEADER_BYTES = 12  # length and its checksum


class DamagedRecords:
    """The damaged records of a run's shards.

    Args:
        run_dir: the run's folder.
        shard_paths: the shards, and `shard_lengths` how many records each should hold.
        limit: how many records may be lost before `mend` raises TrainingError.
    """

    def __init__(self, run_dir, shard_paths, shard_lengths, limit):
        self._folder = Path(run_dir)
        self._lengths = dict(zip(shard_paths, shard_lengths, strict=True))
        self._limit = limit
        self._lost = {}  # shard -> records lost
        if self._list.exists():
            with open(self._list, newline="") as file:
                for row in csv.DictReader(file, delimiter="\t"):
                    if row["shard"] in self._lengths and self._mended(row["shard"]).exists():
                        self._lost[row["shard"]] = int(row["lost"])

    @property
    def count(self):
        """Records that are left out."""
        return sum(self._lost.values())

    def shard_paths(self):
        """The paths to read: a mended copy in the place of each shard that was damaged."""
        return [
            os.fspath(self._mended(path)) if path in self._lost else path for path in self._lengths
        ]

    def mend(self, offset):
        """Leaves out the damaged records of the shards in which one begins at byte `offset`.

        Returns a sentence for each such shard. Raises TrainingError, with file and offset, where
        more than the limit are lost by now, or where no shard has damage at this offset.
        """
        found = [path for path in self._lengths if _is_damaged_at(path, offset)]
        if not found:
            raise TrainingError(
                f"A shard has a damaged record at byte {offset}, and none of the "
                f"{len(self._lengths)} shards has on a second reading. Is its disk or network "
                "sound? `python -m pipeline.verify` reads all of them."
            )
        # One that is mended already: two workers met the damage.
        return [self._mend_shard(path) for path in found if path not in self._lost]

    def _mend_shard(self, path):
        records, damages = salvage(Path(path).read_bytes())
        lost = max(len(damages), self._lengths[path] - len(records))
        where = f"{path} at byte {', '.join(str(start) for start, _ in damages[:5])}"
        if self.count + lost > self._limit:
            raise TrainingError(
                f"Damaged records: {lost} in {where}, and {self.count} before; "
                f"input.max_damaged_records is {self._limit}. The pipeline writes the shard anew; "
                "`python -m pipeline.verify` names all that is damaged."
            )
        mended = self._mended(path)
        mended.parent.mkdir(parents=True, exist_ok=True)
        data = b"".join(tfrecord.frame(record) for record in records)
        run_folder.replace(mended, lambda temporary: temporary.write_bytes(data))
        is_new = not self._list.exists()
        with open(self._list, "a", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            if is_new:
                writer.writerow(["shard", "lost", "bytes"])
            spans = " ".join(f"{start}-{end}" for start, end in damages)
            writer.writerow([path, lost, spans])
        self._lost[path] = lost
        return f"Left out {lost} damaged of {self._lengths[path]} records of {where}"

    @property
    def _list(self):
        return self._folder / "damaged_records.tsv"

    def _mended(self, path):
        return self._folder / "mended" / Path(path).name


def salvage(data):
    """(records, damages) of a shard's bytes: the whole records, and [(start, end)] of the rest.

    A record whose own checksum is wrong is one damage. Where a length is damaged, the next
    position is searched that has a whole record; all between is one damage.
    """
    records, damages = [], []
    position = 0
    while position < len(data):
        record, end = _record_at(data, position)
        if record is not None:
            records.append(record)
        else:
            if end is None:
                end = _next_record(data, position + 1)
            damages.append((position, end))
        position = end
    return records, damages


def _next_record(data, start):
    for position in range(start, len(data) - tfrecord.FRAME_BYTES + 1):
        # A length that the file can hold, before any checksum is reckoned.
        (length,) = _HEADER.unpack_from(data, position)
        if length <= len(data) - position - tfrecord.FRAME_BYTES:
            record, _ = _record_at(data, position)
            if record is not None:
                return position
    return len(data)


def _record_at(data, position):
    """(record or None, where the next one begins or None where the length is damaged)."""
    if len(data) - position < tfrecord.FRAME_BYTES:
        return None, None
    (length,) = _HEADER.unpack_from(data, position)
    end = position + tfrecord.FRAME_BYTES + length
    if end > len(data):
        return None, None
    for found in tfrecord.scan(io.BytesIO(data[position:end])):
        if isinstance(found, tfrecord.Record):
            return found.data, end
        is_length = found.offset != _HEADER_BYTES
        return None, None if is_length else end
    return None, None


def _is_damaged_at(path, offset):
    """Whether TensorFlow means a record of this shard: one that is damaged and begins at `offset`.

    Or 12 bytes before, as it counts where a record's own checksum is wrong. Walks over the lengths.
    """
    position, size = 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while position < size and position <= offset:
            file.seek(position)
            if offset - position in (0, _HEADER_BYTES):
                return isinstance(next(tfrecord.scan(file)), tfrecord.Damage)
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return False
            position += tfrecord.FRAME_BYTES + _HEADER.unpack(header)[0]
    return False
