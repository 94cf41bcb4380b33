"""Label files and images in, TFRecord shards with TFDS metadata out: the Beam job and its data."""
