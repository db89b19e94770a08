r"""Report: what a conversion changed, and whether the outcome is an X-DNN."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from whence.convert.change import Change
from whence.convert.scales import LayerScale, diverging
from whence.display import card, verbatim
from whence.network import Homogeneity, OperationDegree

__all__ = ["ConversionReport", "DivergenceWarning", "Refusal", "divergence_of", "refusals_in"]

LIST = 12
"""Lines of a list that are shown."""


@final
class DivergenceWarning(UserWarning):
    """Activations of a converted network explode or vanish."""


@final
@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An operation that still breaks homogeneity.

    Args:
        path: The module that calls it.
        operation: Its name in the graph.
        reason: Why it breaks homogeneity.
        answer: ``Replace it with ...``, ``Not yet: ...`` or ``Never, because ...``.
    """

    path: str
    operation: str
    reason: str
    answer: str


@final
@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    r"""What a conversion did, and what came of it.

    Args:
        changes: Every change, in order.
        homogeneity: The verdict over the graph: the proof, or all offenders, and the tests.
        refusals: The offenders, each with an answer.
        scales: How large each layer's output is before and after.
        kept: Share of the images whose predicted class did not change.
        energy_share: The mean share of the attribution that is mere pixel energy, for a wrapped
            network; it explains nothing.
        bias_mass: The mean logit of the predicted class, and how much of it is the value of the
            extra feature, for a network with a homogeneous coordinate.
    """

    changes: tuple[Change, ...]
    homogeneity: Homogeneity
    refusals: tuple[Refusal, ...]
    scales: tuple[LayerScale, ...]
    kept: float
    energy_share: float | None = None
    bias_mass: tuple[float, float] | None = None

    @property
    def holds(self) -> bool:
        """Whether the outcome is an X-DNN, by proof and by test."""
        return self.homogeneity.holds

    @property
    def diverging(self) -> tuple[LayerScale, ...]:
        """The layers whose activations explode or vanish."""
        return diverging(self.scales)

    @property
    def divergence(self) -> str:
        """What the divergence warning says."""
        return divergence_of(self.diverging)

    def __str__(self) -> str:
        """Return the report as text."""
        removed = sum(change.parameters for change in self.changes)
        summary = (
            f"{len(self.changes)} changes, {removed} numbers removed; {self.kept:.0%} of the "
            f"images keep their predicted class."
        )
        advice = f"{summary} Fine-tune before use." if self.changes and self.kept < 1 else summary
        lines = [self.homogeneity.verdict, advice]
        lines += listed([f"{c.path or 'forward'}: {c.what}" for c in self.changes])
        if self.holds and any("lost its bias" in change.what for change in self.changes):
            lines.append(
                "The intercept is gone, f(0) = 0. Where classes are not equally frequent, add the "
                "logarithms of their frequencies to the logits, outside of what is explained."
            )
        if self.energy_share is not None:
            lines.append(
                f"{self.energy_share:.0%} of the attribution is mere pixel energy, which explains "
                f"nothing: what the network's biases and norms account for."
            )
        if self.bias_mass is not None:
            lines.append(
                f"Of the predicted logit, {self.bias_mass[0]:.3g} on average, biases account for "
                f"{self.bias_mass[1]:.3g}: the value of the extra feature."
            )
        if self.refusals:
            lines.append(f"{len(self.refusals)} operations still break homogeneity:")
            lines += listed([written(r) for r in self.refusals])
        if self.homogeneity.certificate is not None:
            tested = self.homogeneity.certificate
            lines += [f"Measured on {tested.images} images:", str(tested)]
        if self.diverging:
            lines.append(self.divergence)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Show the report in a notebook."""
        return card("Conversion", verbatim(self))


def divergence_of(scales: Sequence[LayerScale]) -> str:
    """Return which layers' activations explode or vanish, and what to do."""
    lines = listed([f"{s.path}: {s.before:.3g} -> {s.after:.3g}, x {s.ratio:.2g}" for s in scales])
    return (
        "Activations explode or vanish in the converted network; the size of each layer's "
        "output (root mean square) before and after:\n" + "\n".join(lines) + "\nFine-tune "
        "with a small learning rate and clipped gradients, keep a norm (UncentredBatchNorms), "
        "or train from scratch."
    )


def listed(lines: list[str]) -> list[str]:
    """Return the first lines of a list, indented, and how many more there are."""
    more = [f"  ... and {len(lines) - LIST} more"] if len(lines) > LIST else []
    return [f"  {line}" for line in lines[:LIST]] + more


def written(refusal: Refusal) -> str:
    """Return a refusal as a line."""
    where = refusal.path or "forward"
    return f"{where} ({refusal.operation}): {refusal.reason} {refusal.answer}"


ROUTE_OF = {
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv_transpose2d", "linear", "addmm", "baddbmm", "addcmul"),
        "a layer without a bias (StripBiases)",
    ),
    "batch_norm": "a scale per channel (ScaleOnlyBatchNorms)",
    **dict.fromkeys(
        ("gelu", "silu", "mish", "hardswish", "elu", "selu", "celu", "softplus", "tanh", "relu6"),
        "ReLU (ReplaceActivations)",
    ),
    **dict.fromkeys(
        ("layer_norm", "group_norm", "instance_norm", "rms_norm"),
        "a scale that does not look at sizes (ScaleOnlyNorms)",
    ),
    **dict.fromkeys(("sigmoid", "hardsigmoid"), "a gate on values of a fixed size (UnitGates)"),
    "scaled_dot_product_attention": "queries and keys of unit length (UnitAttention)",
    **dict.fromkeys(("hardtanh", "clamp", "clamp_min", "clamp_max"), "nn.ReLU, which has no cap"),
    **dict.fromkeys(
        ("add", "sub", "rsub", "cat", "stack"),
        "constants that take the size of what they are added to (SizedConstants)",
    ),
    **dict.fromkeys(("pad", "constant_pad_nd", "masked_fill"), "zeros"),
}
"""What to replace an operation with, and the route that does it."""

NEVER = {
    **dict.fromkeys(
        ("gt", "ge", "lt", "le", "eq", "ne", "where"),
        "because a fixed threshold or a fixed value decides at one brightness only",
    ),
    "div": "because rounding has steps of one size",
    **dict.fromkeys(
        ("exp", "log", "log_softmax", "cos", "sin"),
        "because it has no degree on inputs that scale; return logits, or give it values of "
        "unit length",
    ),
    "softmax": "because probabilities add up to 1 at every brightness: return the logits (or, for "
    "an attention that is spelled out, queries times keys in one matmul)",
    "pow": "because the exponent is not a fixed number",
}
"""Why an operation can never be part of an X-DNN."""


def refusals_in(verdict: Homogeneity) -> tuple[Refusal, ...]:
    """Return the offenders of a verdict, each with one of the three answers."""
    return tuple(refusal(row) for row in verdict.offenders)


def refusal(row: OperationDegree) -> Refusal:
    """Return one offender with its answer: replace it with, never because, or not yet."""
    offence = row.offence
    reason = offence.reason if offence else ""
    if reason.startswith("It joins"):
        answer = f"Not yet: {offence.cure if offence else ''}"
    elif row.operation in ROUTE_OF:
        answer = f"Replace it with {ROUTE_OF[row.operation]}."
    elif row.operation in NEVER:
        answer = f"Never, {NEVER[row.operation]}."
    else:
        answer = f"Not yet: {offence.cure if offence else ''}"
    return Refusal(path=row.path, operation=row.operation, reason=reason, answer=answer)
