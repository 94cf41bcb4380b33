"""Damaged records of the shards: found, counted, and left out of training.

TensorFlow reads a shard until the first damaged record and then fails, or, told to ignore errors,
loses the rest of the shard. So the chief mends the shard where training met the damage: its whole
records are copied to RUN/mended/, which is read instead from then on, and every place that was left
out is a line of RUN/damaged_records.tsv. A restart begins with what is known there of the shards as
they are now: one that was written anew since, by its sha256, is read itself.
"""

import csv
import hashlib
import io
import os
import struct
from pathlib import Path

from model import run_folder
from model.run_folder import TrainingError
from pipeline import tfrecord

_HEADER = struct.Struct("<Q")
_HEADER_BYTES = 12  # length and its checksum
_COLUMNS = ["shard", "lost", "bytes", "sha256"]  # the last: of the damaged shard


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
        self._rows = _read_rows(self._list)  # of other splits and data, too
        self._mended = {}  # shard -> (records lost, path of the copy without them)
        for shard, (_, lost, _, sha256) in self._rows.items():
            copy = self._copy(shard, sha256)
            if shard in self._lengths and copy.exists() and _has_sha256(shard, sha256):
                self._mended[shard] = int(lost), copy

    @property
    def count(self):
        """Records that are left out."""
        return sum(lost for lost, _ in self._mended.values())

    def shard_paths(self):
        """The paths to read: a mended copy in the place of each shard that was damaged."""
        return [
            os.fspath(self._mended[path][1]) if path in self._mended else path
            for path in self._lengths
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
        return [self._mend_shard(path) for path in found if path not in self._mended]

    def _mend_shard(self, path):
        data = Path(path).read_bytes()
        records, damages = salvage(data)
        lost = max(len(damages), self._lengths[path] - len(records))
        where = f"{path} at byte {', '.join(str(start) for start, _ in damages[:5])}"
        if self.count + lost > self._limit:
            raise TrainingError(
                f"Damaged records: {lost} in {where}, and {self.count} before; "
                f"input.max_damaged_records is {self._limit}. The pipeline writes the shard anew; "
                "`python -m pipeline.verify` names all that is damaged."
            )
        sha256 = hashlib.sha256(data).hexdigest()
        copy = self._copy(path, sha256)
        copy.parent.mkdir(parents=True, exist_ok=True)
        mended = b"".join(tfrecord.frame(record) for record in records)
        run_folder.replace(copy, lambda temporary: run_folder.write_durably(temporary, mended))
        spans = " ".join(f"{start}-{end}" for start, end in damages)
        self._rows[path] = [path, str(lost), spans, sha256]
        run_folder.replace(self._list, self._write_rows)
        self._mended[path] = lost, copy
        return f"Left out {lost} damaged of {self._lengths[path]} records of {where}"

    def _write_rows(self, path):
        with open(path, "w", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerows([_COLUMNS, *self._rows.values()])

    @property
    def _list(self):
        return self._folder / "damaged_records.tsv"

    def _copy(self, path, sha256):
        return self._folder / "mended" / f"{Path(path).name}.{sha256[:16]}"


def _read_rows(path):
    """{shard: row} of a list; a row that is not whole is as if its record had not been met yet."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return {}
    rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
    return {row[0]: row for row in rows if len(row) == len(_COLUMNS) and row[1].isdecimal()}


def _has_sha256(path, wanted):
    """Whether the file has this hash; one that is gone has none."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == wanted
    except FileNotFoundError:
        return False


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
