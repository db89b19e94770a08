"""Hesse, Schaub-Meyer and Roth (2021), "Fast Axiomatic Attribution for Neural Networks"."""
