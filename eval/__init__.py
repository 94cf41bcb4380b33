"""Exact, class-weighted MAP@100 of checkpoints, and the report about it."""
