"""The training profile for TensorBoard: every metric of every evaluation, at its step.

tensorboard --logdir=RUN        shows eval/SPLIT/map_at_100 and the others
"""

from pathlib import Path
from typing import Any

from model.event_files import EventFiles


class EventLog:
    """Writes event files into `folder`, one a process."""

    def __init__(self, folder: Path):
        self._files = EventFiles(folder)

    def add(self, report: dict[str, Any]) -> None:
        """Writes the metrics of a report that have a value; what is written is on disk."""
        values = _values(report).items()
        self._files.add(
            report["step"], {f"eval/{report['split']}/{name}": value for name, value in values}
        )


def _values(report: dict[str, Any]) -> dict[str, float]:
    values = {name: metric["value"] for name, metric in report["metrics"].items()}
    interval = report["metrics"][report["headline"]].get("interval")
    if interval:
        low, high = interval
        values |= {f"{report['headline']}_low": low, f"{report['headline']}_high": high}
    return {name: value for name, value in values.items() if value is not None}
