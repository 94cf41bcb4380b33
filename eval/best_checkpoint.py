"""The best checkpoint so far, kept where the trainer's retention does not reach.

    RUN/eval/SPLIT/best/step-00001200/      a whole checkpoint, as in RUN/checkpoints

Its files are hard links to those of the checkpoint: they take no space while the trainer keeps it,
and stay when the trainer deletes it. Copies, where the file system has no links.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from model.checkpoint import Checkpoint


class BestCheckpoint:
    """The folder that holds it; `folder` is that of the evaluation's results."""

    def __init__(self, folder: Path):
        self._folder = folder / "best"

    @contextlib.contextmanager
    def held(self, checkpoint: Checkpoint) -> Iterator[None]:
        """Lets `keep` succeed within the block, also where the trainer deletes it meanwhile."""
        held = self._held_path(checkpoint)
        shutil.rmtree(held, ignore_errors=True)
        with contextlib.suppress(OSError):  # no links here, or it is gone; `keep` tries again
            _link(Path(checkpoint.path), held)
        try:
            yield
        finally:
            shutil.rmtree(held, ignore_errors=True)

    def keep(self, checkpoint: Checkpoint) -> None:
        """Keeps this checkpoint, and lets go of the one before; OSError if it cannot."""
        held, final = self._held_path(checkpoint), self._folder / Path(checkpoint.path).name
        if not (held / "state.json").exists():
            shutil.rmtree(held, ignore_errors=True)
            shutil.copytree(checkpoint.path, held)
        shutil.rmtree(final, ignore_errors=True)  # of the same step, trained before
        os.replace(held, final)
        for other in self._folder.iterdir():
            if other != final:
                shutil.rmtree(other, ignore_errors=True)

    def _held_path(self, checkpoint: Checkpoint) -> Path:
        return self._folder / f"{Path(checkpoint.path).name}.held"


def _link(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    # state.json last: with it the checkpoint is whole.
    for path in sorted(source.iterdir(), key=lambda path: path.name == "state.json"):
        os.link(path, target / path.name)
