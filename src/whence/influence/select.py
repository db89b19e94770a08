"""Choosing parameters: over which of them gradients are compared."""

import fnmatch
from collections.abc import Sequence

from whence.errors import SettingError
from whence.network import Network

__all__ = ["choose_parameters"]


def choose_parameters(network: Network, choice: str | Sequence[str] = "all") -> tuple[str, ...]:
    """Return the names of the chosen parameters.

    Args:
        network: The network.
        choice: ``"all"``; ``"last-layer"``: those that enter last, a weight and its bias;
            ``"last-block"``: those of the block in which the last feature map ends, and all
            after it; a shell pattern on names such as ``"layer4.*"`` (several, separated by
            commas); or names.

    Raises:
        SettingError: If nothing is chosen.
    """
    names = tuple(network.parameters)
    if not isinstance(choice, str):
        patterns = list(choice)
    elif choice == "all":
        return names
    elif choice == "last-layer":
        last = owner(in_order(network)[-1])
        return tuple(n for n in names if owner(n) == last)
    elif choice == "last-block":
        return last_block(network)
    else:
        patterns = [p.strip() for p in choice.split(",")]
    found = tuple(n for n in names if any(fnmatch.fnmatch(n, p) for p in patterns))
    if not found:
        msg = (
            f"No parameter matches {choice!r}. Choose 'all', 'last-block', 'last-layer', or a "
            f"pattern on names such as {names[0]!r} ... {names[-1]!r} ({len(names)} in all)."
        )
        raise SettingError(msg)
    return found


def owner(name: str) -> str:
    """Return the path of the module whose parameter this is, or was before it was reparametrised.

    ``fc`` of ``fc.bias`` and of ``fc.parametrizations.weight.original0``.
    """
    path, reparametrised, _ = name.partition(".parametrizations.")
    return path if reparametrised else name.rpartition(".")[0]


def in_order(network: Network) -> list[str]:
    """Return parameter names in the order in which the network uses them first."""
    known = set(network.parameters)
    order: list[str] = []
    for node in network.graph.nodes:
        for source in node.all_input_nodes if node.op == "call_function" else ():
            name = str(source.target)
            if source.op == "get_attr" and name in known and name not in order:
                order.append(name)
    return order


def last_block(network: Network) -> tuple[str, ...]:
    """Return the parameters of the block in which the last feature map ends, and all after it."""
    cut = network.cut()
    block = block_path(cut.path)
    order = in_order(network)
    seen: list[str] = []
    for node in network.graph.nodes:
        seen.extend(str(s.target) for s in node.all_input_nodes if s.op == "get_attr")
        if node.name == cut.node:
            break
    before = {n for n in seen if not (block and n.startswith(f"{block}."))}
    chosen = {n for n in order if n not in before}
    return tuple(n for n in network.parameters if n in chosen)


def block_path(path: str) -> str:
    """Return the path up to its last numbered part: ``layer4.1`` of ``layer4.1.relu``."""
    parts = path.split(".")
    numbered = [i for i, part in enumerate(parts) if part[-1:].isdigit()]
    return ".".join(parts[: numbered[-1] + 1]) if numbered else path
