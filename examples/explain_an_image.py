"""Which pixels of an image does a prediction come from, and does the map add up?

Integrated gradients distribute the logit over the pixels. The completeness gap says how far the
map is from adding up; asked for a tolerance, the method takes as many steps as it needs.
"""

import torch
from cut_and_gradcam import trained_on_digits

import whence
from whence.attribution import IntegratedGradients

model, data = trained_on_digits()
(batch,) = data.batches(6, range(0, 60, 10))

for method in (IntegratedGradients(steps=4), IntegratedGradients(tolerance=0.001)):
    result = whence.explain(model, batch.images, target="label", labels=batch.labels, method=method)
    print(f"{result.cost:5.1f} passes per image, largest gap {100 * float(result.gap.max()):.3f} %")
assert result.gap.max() <= 0.001

# Why this class rather than the next: a contrast.
contrast = whence.explain(model, batch.images, versus="runner-up", method=method)
difference = model.module(batch.images).topk(2, dim=1).values
assert torch.allclose(contrast.explained, difference[:, 0] - difference[:, 1], atol=1e-4)

print("written:", contrast.plot("explained.png"))
