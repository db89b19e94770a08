r"""Execution: the cheapest exact way to the products of training gradients with queries.

Every way is counted in multiply-adds per training image (a gradient's element that is written and
read counts as some, and the small products of single images count double), and the cheapest is
taken:

- *example gradients*: one forward pass, one backward pass without weight gradients, and then for
  each layer, whichever is cheaper: the gradients are formed tile by tile and multiplied with all
  queries at once (:class:`~whence.gradients.Comparison`), or *ghost products* form none;
- *forward mode*: one pass per query that carries each value with its change, about three forward
  passes; it forms nothing, but gives no norms.

All of them give the same numbers up to rounding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from whence.core import Images, Logits, Margin, Scalars, Target
from whence.errors import SettingError
from whence.gradients import (
    Block,
    Comparison,
    DirectBlock,
    ExampleGradients,
    FactoredBlock,
    ForwardMode,
    Recorder,
    low_rank,
)
from whence.gradients.blocks import MEMORY
from whence.influence.scoring import Records

__all__ = ["EXAMPLE_GRADIENTS", "FORWARD_MODE", "Executed", "Execution", "Route", "Way", "plan"]

Way = Literal["example gradients", "forward mode"]

EXAMPLE_GRADIENTS: Way = "example gradients"
FORWARD_MODE: Way = "forward mode"

VMAPPED = 3
"""Forward passes that the fall-back for parameters without a route costs: ``vmap`` of ``grad``."""


@final
@dataclass(frozen=True, kw_only=True)
class Route:
    """The way that was taken, and what it and the others cost.

    Args:
        way: ``"example gradients"`` or ``"forward mode"``.
        costs: Work per training image of each way that gives what was wanted, in units of a
            forward pass.
        layers: For each parameter how its products are made: ``tiles``, ``ghost``, ``low rank``,
            ``formed`` or ``direct``. Empty in forward mode.
        queries: How many queries go at once.
    """

    way: Way
    costs: Mapping[str, float]
    layers: Mapping[str, str]
    queries: int

    def __str__(self) -> str:
        """Return the way in a sentence."""
        kinds = [kind for kind in self.layers.values() if kind != "direct"]
        counted = ", ".join(f"{kinds.count(k)} by {NAMES[k]}" for k in NAMES if k in kinds)
        others = [f"{cost:.1f} by {way}" for way, cost in self.costs.items() if way != self.way]
        text = f"{self.way}, {self.queries} queries at once: {self.costs[self.way]:.1f} forward"
        text += " passes of work per training image"
        text += f" (not {', '.join(others)})" if others else ""
        return text + (f"; weights: {counted}" if counted else "")


NAMES = {
    "tiles": "gradients formed in tiles",
    "ghost": "ghost products",
    "low rank": "low-rank queries",
    "formed": "gradients formed",
}


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Executed:
    """What a batch gave.

    Args:
        logits: The network's output.
        products: Inner products with the queries, ``(b, q)``.
        squared_norms: Squared Euclidean norms of the gradients; None in forward mode.
        recorded: The gradients, for norms in another metric; None in forward mode.
    """

    logits: Logits
    products: Tensor
    squared_norms: Scalars | None
    recorded: ExampleGradients | None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Execution:
    """A plan that can be carried out, batch by batch.

    Args:
        route: What was planned.
        recorder: Records the gradients.
        work: The queries, laid out for the route.
    """

    route: Route
    recorder: Records
    work: Comparison | ForwardMode

    def __call__(self, images: Images, target: Target) -> Executed:
        """Return the products of a batch."""
        if isinstance(self.work, ForwardMode):
            products, logits = self.work(images, target)
            return Executed(logits=logits, products=products, squared_norms=None, recorded=None)
        recorded = self.recorder.record(images, target)
        found = self.work(recorded)
        return Executed(
            logits=recorded.logits,
            products=found.products,
            squared_norms=found.squared_norms,
            recorded=recorded,
        )


PRODUCTS = 2
"""How much longer a multiply-add takes in the products of single images than in a convolution over
a whole batch; measured, with room to spare."""


def plan(
    recorder: Records,
    queries: Mapping[str, Block],
    *,
    norms: bool = True,
    way: Way | None = None,
    tolerance: float | None = None,
) -> Execution:
    """Return the cheapest way to the products of training gradients with queries.

    Args:
        recorder: Records the training images' gradients.
        queries: For each parameter a block of ``q`` vectors.
        norms: Whether norms of the training gradients are wanted too; forward mode has none.
        way: Take this way, and not the cheapest.
        tolerance: Shorten the queries' weights to a low rank where that is cheaper, with at most
            this relative error of a query; 1e-6 is rounding. None leaves them as they are.

    Raises:
        SettingError: If the way gives no norms and norms are wanted, or the recorder records
            features, for which there is no forward mode.
    """
    example = recorder.network.example[:1]
    labels = torch.zeros(1, dtype=torch.int64, device=example.device)
    one = recorder.record(example, Margin(labels))
    chosen, layers = settled(queries, one, tolerance)
    count = next((len(block) for block in queries.values()), 0)
    costs = counted(recorder, one, chosen, layers, count, norms=norms)
    if way is not None and way not in costs:
        msg = (
            f"The way {way!r} is not open here: {' and '.join(map(repr, costs))} "
            f"{'is' if len(costs) == 1 else 'are'}. Forward mode gives no norms of gradients "
            f"(ask with norms=False, of a score that needs none), and takes no features."
        )
        raise SettingError(msg)
    taken: Way = min(costs, key=lambda name: costs[name]) if way is None else way
    shown = {str(name): cost for name, cost in costs.items()}
    if taken == FORWARD_MODE and isinstance(recorder, Recorder):
        return Execution(
            route=Route(way=taken, costs=shown, layers={}, queries=count),
            recorder=recorder,
            work=ForwardMode.of(recorder, queries),
        )
    return Execution(
        route=Route(way=taken, costs=shown, layers=layers, queries=count),
        recorder=recorder,
        work=Comparison.of(chosen, one, norms=norms),
    )


def settled(
    queries: Mapping[str, Block], one: ExampleGradients, tolerance: float | None
) -> tuple[dict[str, Block], dict[str, str]]:
    """Return the queries in their cheapest exact form, and how each parameter is multiplied."""
    chosen: dict[str, Block] = {}
    kinds: dict[str, str] = {}
    for name, query in queries.items():
        blocks = one.blocks[name]
        first, single = blocks[0], len(blocks) == 1
        if not (single and isinstance(first, FactoredBlock)):
            chosen[name], kinds[name] = query, "direct"
            continue
        chosen[name], kinds[name] = query, kind_of(first, query)
        if tolerance is not None and first.output.shape[1] == 1 and isinstance(query, DirectBlock):
            short = low_rank(query, wide=first.output.shape[2], tolerance=tolerance)
            if work_of(first, short) < work_of(first, query):
                chosen[name], kinds[name] = short, "low rank"
    return chosen, kinds


def kind_of(block: FactoredBlock, query: Block) -> str:
    """Return how a layer's gradients are multiplied with queries."""
    if isinstance(query, FactoredBlock):
        return "ghost"
    tiles = block.output.shape[1] == 1 and block.output.shape[3] > 1
    return "tiles" if tiles else "formed"


def work_of(block: Block, query: Block) -> int:
    """Return the multiply-adds of an image's products with queries; memory counts as some."""
    if not isinstance(block, FactoredBlock):
        return len(query) * block.size
    groups, wide, positions = block.output.shape[1:]
    if isinstance(query, FactoredBlock):
        theirs = query.output.shape[3]
        return len(query) * groups * positions * theirs * (wide + block.deep)
    return (positions + len(query) + MEMORY) * block.size


def counted(
    recorder: Records,
    one: ExampleGradients,
    queries: Mapping[str, Block],
    layers: Mapping[str, str],
    count: int,
    *,
    norms: bool,
) -> dict[Way, float]:
    """Return what each way that is open costs, in forward passes of multiply-adds."""
    rows = recorder.network.describe().rows
    forward = max(1, sum(row.multiply_adds for row in rows))
    products = sum(work_of(b, query) for n, query in queries.items() for b in one.blocks[n])
    if norms:
        products += sum(
            norm_work(one.blocks[n][0])
            for n, kind in layers.items()
            if kind in ("ghost", "low rank")
        )
    if not isinstance(recorder, Recorder):
        return {EXAMPLE_GRADIENTS: 1 + PRODUCTS * products / forward}
    names = [row.node for row in rows]
    first = min((names.index(n.name) for n in recorder.uses.recorded if n.name in names), default=0)
    backward = sum(row.multiply_adds for row in rows[first + 1 :])
    fallback = VMAPPED * forward if recorder.fallback else 0
    ways: dict[Way, float] = {
        EXAMPLE_GRADIENTS: (forward + backward + fallback + PRODUCTS * products) / forward
    }
    if not norms:
        ways[FORWARD_MODE] = 3.0 * count
    return ways


def norm_work(block: Block) -> int:
    """Return the multiply-adds of the norm of a gradient that is not formed otherwise."""
    if not isinstance(block, FactoredBlock):
        return block.size
    groups, wide, positions = block.output.shape[1:]
    return groups * positions * min(positions * (wide + block.deep), wide * block.deep)
