"""Kadir, Addluri and Sonntag (2023), "Harmonizing Feature Attributions Across Architectures"."""
