r"""Integrated gradients over many baselines, by random draws."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from whence.attribution.account import FORWARD, Account
from whence.attribution.batching import Pace, check_batch_size
from whence.attribution.gradient import evaluate, owned, recording, sum_dtype, value_and_gradient
from whence.attribution.noise import check_noise, draws
from whence.core import Attributions, Baseline, Images, ScalarFn, Scalars, Zero, check_images
from whence.errors import ShapeError

__all__ = ["ExpectedGradients", "GradientSHAP", "References"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class References:
    """A bank of images, any of which may stand for "no information here".

    As a baseline it is its first image. Methods that average over baselines draw from all.

    Args:
        images: The bank ``(n, c, h, w)``, in the model's units; a hundred training images are
            usual.
    """

    images: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        """Check that they are images."""
        check_images(self.images)

    def __call__(self, images: Images) -> Images:
        """Return the first reference for every image."""
        return self.rows(images, torch.zeros(len(images), dtype=torch.long))

    def rows(self, images: Images, which: Tensor) -> Tensor:
        """Return these references, as the images are kept."""
        if self.images.shape[1:] != images.shape[1:]:
            msg = (
                f"References must have the images' shape {tuple(images.shape[1:])}; these are "
                f"{tuple(self.images.shape[1:])}. Preprocess both in the same way."
            )
            raise ShapeError(msg)
        return self.images[which.to(self.images.device)].to(images)


@final
@dataclass(frozen=True, kw_only=True)
class ExpectedGradients:
    r"""Integrated gradients, averaged over baselines and over places on the path by random draws.

    .. math:: a_i = \frac{1}{n} \sum_{s=1}^{n} (x_i - x'_{s,i})\,
              \partial_i f\big(x'_s + \alpha_s (x - x'_s)\big), \qquad
              x'_s \sim D, \quad \alpha_s \sim \mathcal U(0, 1)

    A Monte Carlo estimate of the mean of integrated gradients over all references. Their values
    add up to ``f(x)`` less the mean of ``f`` over the references, in expectation; the gap that is
    reported compares with the references that were drawn, so that what remains of it is the
    error of the draws of :math:`\alpha`. All images see the same draws, unless each shall have its
    own: as a prior in training, with few samples, the mean over a batch is then less noisy.

    Cost: ``samples`` passes; the account adds half a pass for ``f(x)`` and for each reference
    that was drawn, whose ``f`` it compares with.

    Args:
        references: What the paths start from: :class:`References`, or any baseline, which is
            then the only one.
        samples: Draws per image.
        stratified: Draw one place on the path from each of ``samples`` equal parts of it, in
            random order: the same mean, with less variance.
        shared: Whether all images see the same draws; otherwise those of an image depend on its
            place in the batch.
        create_graph: Keep the graph, so that a loss on the attributions trains the weights; all
            ``samples`` passes then stay in memory.
        seed: Seed of the draws, which are made on the CPU for every device alike.
        batch_size: Draws per internal batch; chosen by memory if None.

    References:
        Erion et al. (2021), "Improving performance of deep learning models with axiomatic
        attribution priors and expected gradients", Eq. 3.
    """

    references: Baseline = field(default_factory=Zero)
    samples: int = 32
    stratified: bool = True
    shared: bool = True
    create_graph: bool = False
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        check_noise(self.samples, 0.0)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the expected gradients, shaped like the images."""
        return self.drawn().account(f, images, self.batch_size, law=False).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the expected gradients with their cost and what they should add up to."""
        return self.drawn().account(f, images, self.batch_size, law=True)

    def drawn(self) -> "Starts":
        """Return the draws."""
        return Starts(
            references=self.references,
            samples=self.samples,
            stratified=self.stratified,
            sigma=0.0,
            seed=self.seed,
            shared=self.shared,
            create_graph=self.create_graph,
        )


@final
@dataclass(frozen=True, kw_only=True)
class GradientSHAP:
    r"""Expected gradients of noisy copies of the image.

    .. math:: a_i = \frac{1}{n} \sum_{s=1}^{n} (\tilde x_{s,i} - x'_{s,i})\,
              \partial_i f\big(x'_s + \alpha_s (\tilde x_s - x'_s)\big), \qquad
              \tilde x_s = x + \varepsilon_s

    A Monte Carlo estimate; without noise it is :class:`ExpectedGradients` with independent draws.
    With noise the values add up to the mean of ``f`` over noisy copies less its mean over the
    references, in expectation, and no gap is reported. Cost: ``samples`` passes.

    Args:
        references: What the paths start from: :class:`References`, or any baseline.
        samples: Draws per image.
        sigma: Standard deviation of the noise, as a fraction of the image's range.
        seed: Seed of the draws.
        batch_size: Draws per internal batch; chosen by memory if None.

    References:
        Lundberg and Lee (2017), "A Unified Approach to Interpreting Model Predictions", whose
        released explainer this is; Erion et al. (2021), Eq. 3.
    """

    references: Baseline = field(default_factory=Zero)
    samples: int = 32
    sigma: float = 0.09
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        check_noise(self.samples, self.sigma)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the attributions, shaped like the images."""
        return self.drawn().account(f, images, self.batch_size, law=False).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the attributions with their cost."""
        return self.drawn().account(f, images, self.batch_size, law=self.sigma == 0)

    def drawn(self) -> "Starts":
        """Return the draws."""
        return Starts(
            references=self.references,
            samples=self.samples,
            stratified=False,
            sigma=self.sigma,
            seed=self.seed,
        )


@final
@dataclass(frozen=True, kw_only=True)
class Starts:
    """Draws of references, places on the path and noise.

    Args:
        references: A bank, or a single baseline.
        samples: Draws per image.
        stratified: One place in each equal part of the path.
        sigma: Noise on the images, as a fraction of their range.
        seed: Seed of all draws.
        shared: Whether all images see the same draws.
        create_graph: Keep the graph of the gradients.
    """

    references: Baseline
    samples: int
    stratified: bool
    sigma: float
    seed: int
    shared: bool = True
    create_graph: bool = False

    def each(self, images: Images) -> tuple[Tensor, Tensor]:
        """Return the places of each image, ``(samples, b)``, or ``(samples, 1)`` if shared."""
        generator = torch.Generator().manual_seed(self.seed)
        count = 1 if self.shared else len(images)
        which, alphas = zip(*(self.places(generator) for _ in range(count)), strict=True)
        return torch.stack(which, dim=1), torch.stack(alphas, dim=1)

    def places(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return which reference, and which place on the path, each sample of an image takes."""
        if generator is None:
            generator = torch.Generator().manual_seed(self.seed)
        count = len(self.references.images) if isinstance(self.references, References) else 1
        which = torch.randint(count, (self.samples,), generator=generator)
        if 1 < count <= self.samples:  # every reference, as equally often as can be
            needed = -(-self.samples // count)
            rounds = [torch.randperm(count, generator=generator) for _ in range(needed)]
            which = torch.cat(rounds)[: self.samples]
        alphas = torch.rand(self.samples, generator=generator, dtype=torch.float64)
        if self.stratified:
            order = torch.randperm(self.samples, generator=generator)
            alphas = (order + alphas) / self.samples
        return which, alphas

    def starts(self, images: Images, which: Tensor) -> Tensor:
        """Return the starts of some samples, ``(samples, b or 1, c, h, w)``."""
        if isinstance(self.references, References):
            return self.references.rows(images, which)
        start = self.references(images)
        if start.shape != images.shape:
            msg = (
                f"The baseline must be shaped like the images, {tuple(images.shape)}; "
                f"{self.references} returned {tuple(start.shape)}."
            )
            raise ShapeError(msg)
        return start[None]

    def account(self, f: ScalarFn, images: Images, batch_size: int | None, *, law: bool) -> Account:
        """Return the mean over the draws, and ``f`` at both ends of the paths if asked for."""
        with recording():
            images = owned(images, create_graph=self.create_graph)
            pace = Pace(f=f, images=images, batch_size=batch_size)
            spans = pace.spans(len(images))
            values = torch.cat([self.mean(f, images, span, pace) for span in spans])
            explained = reference = None
            passes = float(self.samples)
            if law:
                explained = evaluate(f, images, pace)
                level, count = self.level(f, images, pace)
                reference = explained - level
                passes += FORWARD * (1 + count)
        return Account(
            values=values.to(images.dtype), passes=passes, explained=explained, reference=reference
        )

    def mean(self, f: ScalarFn, images: Images, span: tuple[int, int], pace: Pace) -> Tensor:
        """Return the mean over the draws for some images."""
        first, last = span
        total = torch.zeros_like(images[first:last], dtype=sum_dtype(images))
        for change, points in self.paths(images, span, pace):
            count = len(points)
            rows = torch.arange(first, last, device=images.device).repeat(count)
            with pace.watching(len(rows)):
                _, gradient = value_and_gradient(
                    f.at(rows), points.flatten(0, 1), create_graph=self.create_graph
                )
            part = (change * gradient.reshape(points.shape)).sum(dim=0, dtype=total.dtype)
            total = total + part
        return total / self.samples

    def paths(
        self, images: Images, span: tuple[int, int], pace: Pace
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield changes along paths and points on them, ``(samples, b, c, h, w)``."""
        first, last = span
        own = images[first:last]
        low, high = own.flatten(1).aminmax(dim=1)
        spread = (self.sigma * (high - low)).view(-1, 1, 1, 1)
        which, alphas = self.each(images)
        if not self.shared:
            which, alphas = which[:, first:last], alphas[:, first:last]
        generator = torch.Generator().manual_seed(self.seed + 1)
        for begin, end in pace.spans(self.samples, width=last - first):
            ends = own[None]
            if self.sigma:
                ends = ends + draws(generator, end - begin, images)[:, None] * spread
            start = self.starts(own, which[begin:end])
            change = (ends - start).expand(end - begin, *own.shape)
            along = alphas[begin:end].to(own)
            yield change, start + along.reshape(*along.shape, 1, 1, 1) * change

    def level(self, f: ScalarFn, images: Images, pace: Pace) -> tuple[Scalars, int]:
        """Return the mean of ``f`` over the references that were drawn, and their number."""
        places = self.each(images)[0]
        drawn = places.flatten().bincount().nonzero()
        total = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        for which in drawn:
            start = self.starts(images, which.view(1, 1))[0].expand_as(images)
            times = (places == which).double().mean(dim=0).to(images.device)
            total += evaluate(f, start, pace).double() * times
        return total.to(images.dtype), len(drawn)
