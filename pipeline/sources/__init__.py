"""One reader a format; each yields what `pipeline.records` describes."""
