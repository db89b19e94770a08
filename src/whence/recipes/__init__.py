"""The use cases, from end to end: explain images, audit a classifier, see a demonstration."""

from whence.recipes.audit import audit
from whence.recipes.explain import Explanation, explain

__all__ = ["Explanation", "audit", "explain"]
