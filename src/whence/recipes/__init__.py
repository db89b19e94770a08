"""The use cases, from end to end: explain images, audit a classifier, see a demonstration."""

from whence.recipes.audit import audit
from whence.recipes.demo import Demonstration, PatchShare, demonstrate
from whence.recipes.digits import PlantedDigits, planted_digits, train_network
from whence.recipes.explain import Explanation, explain
from whence.recipes.load import Case, load_architecture, load_case, load_images, load_subject

__all__ = [
    "Case",
    "Demonstration",
    "Explanation",
    "PatchShare",
    "PlantedDigits",
    "audit",
    "demonstrate",
    "explain",
    "load_architecture",
    "load_case",
    "load_images",
    "load_subject",
    "planted_digits",
    "train_network",
]
