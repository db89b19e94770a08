"""An audit in ten lines: what did a network learn from, and what in it is wrong?

A red patch sits in 90 % of the training images of one class, and 5 % of the other labels are
wrong. The audit is told neither.
"""

import whence
from whence.recipes import planted_digits, train_network

digits = planted_digits(seed=0)
model = train_network(digits, seed=0)

audit = whence.audit(model, digits.train, digits.test, out="shortcut-audit")

for region in audit.regions:
    name, share = audit.model.classes[region.label], 100 * region.mass
    print(f"class {name}: box {region.box} carries {share:.0f} %, {region.ratio:.1f} x its area")
print("the patch was planted in class", digits.shortcut, "at", digits.box)
assert any(region.box == digits.box for region in audit.regions)

flagged = [one.index for one in audit.suspect_labels[: len(digits.flipped)]]
right = len(set(flagged) & set(digits.flipped))
print(f"{right} of the first {len(flagged)} flagged labels are wrong indeed")
assert right >= 0.8 * len(flagged)
print("report: shortcut-audit/report.html")
