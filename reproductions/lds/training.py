"""Training many models at once: one network, weights stacked along a new first axis."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from reproductions.lds.tasks import Digits, Task

Weights = dict[str, Tensor]


def fresh(task: Task, seeds: Sequence[int]) -> Weights:
    """Return the weights from which each model starts, stacked; one seed, one start."""
    made: list[Weights] = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append({n: p.detach() for n, p in task.make().named_parameters()})
    return {name: torch.stack([weights[name] for weights in made]) for name in made[0]}


def trained(
    task: Task, data: Digits, keep: Tensor, seeds: Sequence[int], checkpoints: int = 1
) -> list[Weights]:
    """Train one model for each row of ``keep``; all rows keep equally many images.

    Args:
        task: The recipe.
        data: The images.
        keep: Which training images each model sees, ``(m, n)``.
        seeds: Of each model's start and of the order in which it sees its images.
        checkpoints: How many stages to return, equally far apart; the last is the end.

    Returns:
        The stacked weights at each stage.
    """
    skeleton = task.make().to("meta")
    weights = fresh(task, seeds)
    train = converged if task.batch == 0 else descended
    return train(task, data, keep, seeds, skeleton, weights, checkpoints)


def descended(
    task: Task,
    data: Digits,
    keep: Tensor,
    seeds: Sequence[int],
    skeleton: nn.Module,
    weights: Weights,
    checkpoints: int,
) -> list[Weights]:
    """Train by stochastic gradient descent with momentum."""

    def loss(own: Weights, images: Tensor, labels: Tensor) -> Tensor:
        logits = functional_call(skeleton, own, (images,))
        return functional.cross_entropy(logits, labels) + penalty(own, task.decay)

    slopes = vmap(grad(loss))
    speeds = {name: torch.zeros_like(value) for name, value in weights.items()}
    sources = [torch.Generator().manual_seed(10_000 + seed) for seed in seeds]
    members = torch.stack([row.nonzero().flatten() for row in keep])
    size = members.shape[1]
    steps = task.epochs * (size // task.batch)
    stages, step = [], 0
    for _ in range(task.epochs):
        mixed = torch.stack([torch.randperm(size, generator=source) for source in sources])
        order = members.gather(1, mixed)
        for start in range(0, size - task.batch + 1, task.batch):
            some = order[:, start : start + task.batch]
            found = slopes(weights, data.images[some], data.labels[some])
            rate = task.rate * (1 - step / steps)
            for name, slope in found.items():
                speeds[name].mul_(task.momentum).add_(slope)
                weights[name] = weights[name] - rate * speeds[name]
            step += 1
            if len(stages) + 1 <= checkpoints * step / steps:
                stages.append(dict(weights))
    return stages


def converged(
    task: Task,
    data: Digits,
    keep: Tensor,
    seeds: Sequence[int],
    skeleton: nn.Module,
    weights: Weights,
    checkpoints: int,
) -> list[Weights]:
    """Minimise the loss of all images by Nesterov's method for strongly convex functions."""
    del seeds

    def loss(own: Weights, shares: Tensor) -> Tensor:
        logits = functional_call(skeleton, own, (data.images,))
        losses = functional.cross_entropy(logits, data.labels, reduction="none")
        return (losses * shares).sum() + penalty(own, task.decay)

    slopes = vmap(grad(loss))
    shares = keep.float() / keep.sum(dim=1, keepdim=True)
    steepest = max(steepness(data.images[row]) for row in keep) + task.decay
    ratio = (task.decay / steepest) ** 0.5
    pull = (1 - ratio) / (1 + ratio)
    ahead, stages = weights, []
    for step in range(task.epochs):
        found = slopes(ahead, shares)
        moved = {name: ahead[name] - found[name] / steepest for name in ahead}
        ahead = {name: moved[name] + pull * (moved[name] - weights[name]) for name in moved}
        weights = moved
        if len(stages) + 1 <= checkpoints * (step + 1) / task.epochs:
            stages.append(dict(weights))
    return stages


def steepness(images: Tensor) -> float:
    """Return a bound on the curvature of a logistic regression's mean loss on these images."""
    rows = functional.pad(images.flatten(1), (0, 1), value=1.0)
    return 0.5 * float(torch.linalg.matrix_norm(rows @ rows.T, 2)) / len(rows)


def penalty(weights: Weights, decay: float) -> Tensor:
    """Return ``decay`` times half the squared norm of all parameters."""
    return decay / 2 * sum(value.square().sum() for value in weights.values())


def logits_of(task: Task, weights: Weights, images: Tensor) -> Tensor:
    """Return the logits ``(m, b, k)`` of stacked models."""
    skeleton = task.make().to("meta")
    with torch.no_grad():
        return vmap(lambda own: functional_call(skeleton, own, (images,)))(weights)


def margins_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-odds of the labels: ``(..., b)`` for logits ``(..., b, k)``."""
    own = functional.one_hot(labels, logits.shape[-1]).bool()
    others = logits.masked_fill(own, -torch.inf).logsumexp(dim=-1)
    return logits.masked_fill(~own, 0).sum(dim=-1) - others


def model_of(task: Task, weights: Weights, row: int) -> nn.Module:
    """Return one of the models, in eval mode."""
    model = task.make()
    model.load_state_dict({name: value[row] for name, value in weights.items()})
    return model.eval()
