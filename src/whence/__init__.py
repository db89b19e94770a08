"""Where does a vision model's prediction come from?

Which pixels of this image, which training images, and which pixels of those training images::

    result = whence.explain(model, images, target="predicted")
    audit = whence.audit(model, train, test, out="audit/")

``import whence`` takes milliseconds and imports no torch; the rooms load when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whence.network import Network
    from whence.recipes import audit, evaluate, explain, fix, transfer, verify

__all__ = ["Network", "__version__", "audit", "evaluate", "explain", "fix", "transfer", "verify"]

__version__ = "0.1.0"

ROOMS = {
    "Network": "whence.network",
    "audit": "whence.recipes",
    "evaluate": "whence.recipes",
    "explain": "whence.recipes",
    "fix": "whence.recipes",
    "transfer": "whence.recipes",
    "verify": "whence.recipes",
}
"""Where each public name lives."""


def __getattr__(name: str) -> object:
    """Load a public name from its room, the first time that it is asked for."""
    if name not in ROOMS:
        msg = f"module 'whence' has no attribute {name!r}; it has {', '.join(__all__)}."
        raise AttributeError(msg)
    return getattr(import_module(ROOMS[name]), name)


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return list(__all__)
