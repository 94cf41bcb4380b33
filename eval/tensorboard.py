"""The training profile for TensorBoard: every metric of every evaluation, at its step.

tensorboard --logdir=RUN        shows eval/SPLIT/map_at_100 and the others
"""

from pathlib import Path
from typing import Any


class EventLog:
    """Writes event files into `folder`, one a process."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._writer: Any = None  # made with the first report, as TensorFlow takes seconds to start

    def add(self, report: dict[str, Any]) -> None:
        """Writes the metrics of a report that have a value; what is written is on disk."""
        import tensorflow as tf
        from tensorflow.core.framework import summary_pb2

        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._folder))
        # What tf.summary.scalar writes, which is there only where TensorBoard is installed.
        metadata = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": "scalars"})
        metadata.data_class = summary_pb2.DATA_CLASS_SCALAR
        with self._writer.as_default(step=report["step"]):
            for name, value in _values(report).items():
                tf.summary.write(
                    f"eval/{report['split']}/{name}", tf.constant(value), metadata=metadata
                )
        self._writer.flush()


def _values(report: dict[str, Any]) -> dict[str, float]:
    values = {name: metric["value"] for name, metric in report["metrics"].items()}
    interval = report["metrics"][report["headline"]].get("interval")
    if interval:
        low, high = interval
        values |= {f"{report['headline']}_low": low, f"{report['headline']}_high": high}
    return {name: value for name, value in values.items() if value is not None}
