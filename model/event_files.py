"""Scalars for TensorBoard: `tensorboard --logdir=RUN` shows what is written here."""


class EventFiles:
    """Writes event files into `folder`, one a process, once there is something to write."""

    def __init__(self, folder):
        self._folder = folder
        self._writer = None  # made late, as TensorFlow takes seconds to start

    def add(self, step, values):
        """Writes {name: number} at a step; what is written is on disk. OSError if it cannot be."""
        import tensorflow as tf
        from tensorflow.core.framework import summary_pb2

        # What tf.summary.scalar writes, which is there only where TensorBoard is installed.
        metadata = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": "scalars"})
        metadata.data_class = summary_pb2.DATA_CLASS_SCALAR
        try:
            if self._writer is None:
                self._writer = tf.summary.create_file_writer(str(self._folder))
            with tf.device("CPU:0"), self._writer.as_default(step=step):
                for name, value in values.items():
                    tf.summary.write(name, tf.constant(value, tf.float32), metadata=metadata)
            self._writer.flush()
        except tf.errors.OpError as error:
            raise OSError(None, error.message) from error
