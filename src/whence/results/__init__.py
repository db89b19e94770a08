"""Frozen records of what was found, and their files. Needs no torch."""
