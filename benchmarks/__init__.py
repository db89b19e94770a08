"""Measurements of whence, each beside its reference in the same run."""
