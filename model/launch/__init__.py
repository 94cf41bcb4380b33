"""Starts training clusters: the processes around `python -m model.train`."""
