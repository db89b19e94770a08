"""Find a shortcut, fix it, verify: the loop in ten lines.

An audit finds the region that a network looks at instead of the digit. It is accepted here by its
name; a person would look at the report first, and decide in findings.toml or in the viewer. The
fix converts the network to an X-DNN and trains it on with a prior that keeps attributions out of
the region; the verification puts it beside the network as it was, on images it was not trained on.
"""

import whence
from whence.recipes import planted_digits, train_network

digits = planted_digits(seed=0)
model = train_network(digits, seed=0)

audit = whence.audit(model, digits.train, digits.test)
fixed = whence.fix(audit, model, digits.train, accept="shortcut-1")
verified = whence.verify(audit, model, fixed, digits.train, digits.test)

print(audit.findings[0].summary)
print(*verified.sentences, sep="\n")
taken_in = verified.row("taken in by the shortcut")
assert taken_in.verdict == "better"
assert taken_in.after is not None
assert taken_in.before is not None
assert taken_in.after.high < taken_in.before.low
