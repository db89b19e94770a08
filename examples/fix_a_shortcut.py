"""Find a shortcut, fix it, verify: the loop in one page.

An audit finds the region that a network looks at instead of the digit. The network is converted
to an X-DNN, whose input times gradient is axiomatic in one pass, and fine-tuned with a prior that
takes attribution away from the region.
"""

import torch

import whence
from whence.attribution import InputXGradient
from whence.convert import x_dnn
from whence.priors import OutsideMask, Prior, fit
from whence.recipes import planted_digits, train_network

digits = planted_digits(seed=0)
model = train_network(digits, seed=0).module

# find
audit = whence.audit(model, digits.train, digits.test)
region = audit.regions[0]
left, top, right, bottom = region.box
print(f"class {audit.model.classes[region.label]} is carried by {region.box}", end=", ")
print(f"{region.ratio:.1f} times its share of the area, pixels alike {region.similarity:.2f}")

# fix
images = next(digits.train.batches(32)).images
bare = x_dnn(model, images).model
allowed = torch.ones(len(digits.train), 1, *images.shape[2:])
allowed[:, :, top:bottom, left:right] = 0
prior = Prior(
    method=InputXGradient(create_graph=True), penalty=OutsideMask(masks=allowed), weight=100.0
)


def tuned(prior: Prior | None) -> torch.nn.Module:
    """Fine-tune the X-DNN, with or without a prior."""
    return fit(
        bare,
        digits.train,
        epochs=4,
        optimiser=lambda weights: torch.optim.AdamW(weights, lr=2e-3, weight_decay=0.05),
        generator=torch.Generator().manual_seed(0),
        prior=prior,
    ).model


# verify
def measured(network: torch.nn.Module) -> tuple[float, float]:
    """Return accuracy without the patch, and how often the patch decides."""
    batch = next(digits.test.batches(len(digits.test)))
    with torch.no_grad():
        predicted = network(batch.images).argmax(dim=1)
    probes = torch.zeros(len(predicted), dtype=torch.bool)
    probes[list(digits.probes)] = True
    clean = (predicted == batch.labels)[~probes].double().mean()
    fooled = (predicted == digits.shortcut)[probes].double().mean()
    return float(clean), float(fooled)


fooled = {}
for name, network in (
    ("as trained", model),
    ("an X-DNN, fine-tuned", tuned(None)),
    ("an X-DNN, fine-tuned with the prior", tuned(prior)),
):
    clean, fooled[name] = measured(network)
    print(f"{name:36} accuracy {clean:.1%}, taken in by the patch {fooled[name]:.0%}")
assert fooled["an X-DNN, fine-tuned with the prior"] < 0.5 * fooled["as trained"]
