"""Label files and images in, TFRecord shards with TFDS metadata out: the Beam job and its data."""

import os

# Object stores are read through fsspec, as far as Beam does not do it. Where TensorFlow is
# installed, etils.epath would take that instead, which knows no s3://.
os.environ.setdefault("EPATH_USE_TF", "false")
