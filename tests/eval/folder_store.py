"""An object store that is a folder: addresses `folder:///path`, which Beam's file systems open."""

from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem

SCHEME = "folder"


class FolderStore(LocalFileSystem):
    @classmethod
    def scheme(cls):
        return SCHEME

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        folder, _, name = path.rpartition("/")
        return folder, name

    def _list(self, dir_or_prefix):
        for found in super()._list(_local(dir_or_prefix)):
            yield FileMetadata(
                f"{SCHEME}://{found.path}", found.size_in_bytes, found.last_updated_in_seconds
            )

    def create(self, path, *args, **kwargs):
        return super().create(_local(path), *args, **kwargs)

    def open(self, path, *args, **kwargs):
        return super().open(_local(path), *args, **kwargs)

    def rename(self, sources, destinations):
        super().rename([*map(_local, sources)], [*map(_local, destinations)])

    def exists(self, path):
        return super().exists(_local(path))

    def delete(self, paths):
        super().delete([*map(_local, paths)])


def _local(path):
    return path.removeprefix(f"{SCHEME}://")
