"""Metrics beside Quantus: the same network, images and maps, in one run."""
