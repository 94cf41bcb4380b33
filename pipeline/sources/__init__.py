"""The sources by the name that --source has for them; each is imported when it is used."""

import importlib

from pipeline.sources.source import Source, SourceOptions

SOURCES = {
    "manifest": "Manifest",
    "open_images": "OpenImages",
    "folder": "Folder",
    "tfds": "Tfds",
    "webdataset": "WebDataset",
    "tfrecord": "TFRecord",
}
WITH_LABEL_FILES = ("manifest", "open_images")


def make(options: SourceOptions) -> Source:
    """The source that the options name."""
    module = importlib.import_module(f"pipeline.sources.{options.source}")
    return getattr(module, SOURCES[options.source])(options)
