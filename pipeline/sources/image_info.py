"""Open Images' image files: subset, checksum and rotation of each image, and no annotations.

    ImageID,Subset,OriginalURL,...,Author,Title,OriginalSize,OriginalMD5,Thumbnail300KURL,Rotation

The rotation came with V4. OriginalMD5 is of the file that was uploaded, not of the smaller one
that Open Images hands out: it tells which images are the same, and nothing about the bytes that
are read.
"""

import csv
from collections.abc import Callable, Iterator, Sequence

from pipeline.records import BadRow, ImageRow
from pipeline.sources import cells, text
from pipeline.sources.source import Part

COLUMNS = ("ImageID", "Subset", "OriginalMD5")  # that every version has

UriOf = Callable[[str, str], str]  # of a subset and an image id


def is_header(columns: Sequence[str]) -> bool:
    return set(COLUMNS) <= set(columns)


def read(part: Part, columns: Sequence[str], uri_of: UriOf) -> Iterator[ImageRow | BadRow]:
    """The rows of a file, from below its header to its end."""
    for first, last, row in _rows(part):
        place = f"{part.file}:{first}"
        if isinstance(row, csv.Error):
            yield cells.bad_row("", f"no CSV up to line {last}: {row}", place)
        elif row and len(row) != len(columns):
            detail = f"{len(row)} cells up to line {last}, below a header of {len(columns)}"
            yield cells.bad_row(",".join(row), detail, place)
        elif row:
            yield _row(dict(zip(columns, row, strict=True)), place, uri_of)


def _rows(part: Part) -> Iterator[tuple[int, int, list[str] | csv.Error]]:
    """(first line, last line, cells): a title may run over several lines."""
    reader = csv.reader(f"{line}\n" for lines in text.lines(part) for line in lines)
    first = part.first
    while True:
        try:
            row: list[str] | csv.Error = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row = error
        last = part.first - 1 + reader.line_num
        yield first, last, row
        first = last + 1


def _row(row: dict[str, str], place: str, uri_of: UriOf) -> ImageRow | BadRow:
    def read() -> ImageRow:
        image_id = cells.parse_text(row["ImageID"], "image id")
        subset = cells.parse_optional_text(row["Subset"], "subset")
        checksum = cells.parse_checksum(row["OriginalMD5"])
        rotation = cells.parse_rotation(row.get("Rotation"))
        uri = uri_of(subset, image_id)
        return ImageRow(image_id, uri, (), place, checksum, rotation, subset)

    return cells.row_or_bad(read, ",".join(row.values()), place)
