"""Training-feature attribution: the experiments of Bacha and George (2025), and what beats them."""
