"""What an audit finds of what was planted in digits: recall and precision, beside simpler ways."""

import pytest
import torch

from whence.core import Margin, TensorData
from whence.influence import influence
from whence.network import Network
from whence.recipes import audit, planted_digits, train_network
from whence.recipes.digits import COLOUR


@pytest.fixture(scope="module")
def learnt():
    """Digits with flipped labels, a patch that moves about, and a network that learnt them."""
    digits = planted_digits(share=0.0, probes=1)
    generator = torch.Generator().manual_seed(3)
    own = (digits.train.labels == 3).nonzero()[:, 0]
    carriers = own[: round(0.9 * len(own))].tolist()
    probes = (digits.test.labels != 3).nonzero()[:60, 0].tolist()
    for images, places in ((digits.train.images, carriers), (digits.test.images, probes)):
        for place in places:
            left, top = torch.randint(0, 20, (2,), generator=generator).tolist()
            colour = torch.tensor(COLOUR).view(3, 1, 1)
            images[place, :, top : top + 4, left : left + 4] = colour
    model = train_network(digits, epochs=25)
    record = audit(model, digits.train, digits.test, method="gradient", count=24)
    return digits, set(carriers), model, record


def test_a_patch_that_moves_about_is_found_with_the_images_that_carry_it(learnt):
    _, carriers, _, record = learnt
    mark = record.regions[0]
    assert (mark.label, len(mark.boxes)) == (3, len(mark.images))
    assert all(r.similarity < mark.similarity for r in record.regions[1:])
    assert len(set(mark.images) & carriers) >= 0.95 * len(mark.images)
    named = {p.index for q in record.queries if q.prediction == 3 for p in q.proponents}
    assert len(set(mark.images)) >= 0.7 * len(named & carriers)
    assert mark.similarity > 0.9
    assert mark.chance_similarity < 0.3
    assert mark.mass > 5 * mark.chance_mass
    assert len(mark.shown_in) >= 0.7 * len(mark.queries)


def test_flipped_labels_that_were_learnt_are_found(learnt):
    digits, _, model, record = learnt
    flipped = set(digits.flipped)
    with torch.no_grad():
        predicted = model.module(digits.train.images).argmax(dim=1)
    places = torch.tensor(digits.flipped)
    learnt_by_heart = float((predicted[places] == digits.train.labels[places]).float().mean())
    assert learnt_by_heart > 0.5
    first = [s.index for s in record.suspect_labels[: len(flipped)]]
    precision = len(set(first) & flipped) / len(flipped)
    assert precision > 0.85
    network = Network.read(model.module, digits.train.images[:2])
    scores = influence(network, digits.train, digits.test.images[:1], Margin(torch.tensor([0])))
    alone = scores.indices[scores.self_influence.topk(len(flipped)).indices].tolist()
    assert len(set(alone) & flipped) / len(flipped) < min(0.8, precision - 0.1)


def test_harmful_images_of_errors_are_flipped_ones_once_lengths_count(learnt):
    digits, _, model, _ = learnt
    flipped = set(digits.flipped)
    with torch.no_grad():
        predicted = model.module(digits.test.images).argmax(dim=1)
    clean = TensorData(images=digits.test.images[60:], labels=digits.test.labels[60:])
    wrong = (predicted[60:] != clean.labels).nonzero()[:, 0].tolist()[:10]
    found = audit(model, digits.train, clean, queries=wrong, method="gradient", k=10)
    named = [h.index for q in found.queries for h in q.harmful]
    assert sum(i in flipped for i in named) / len(named) > 0.5
    network = Network.read(model.module, digits.train.images[:2])
    asked = clean.images[wrong]
    target = [Margin(labels[wrong]) for labels in (predicted[60:], clean.labels)]
    ours, theirs = (influence(network, digits.train, asked, t) for t in target)
    cosine = (ours.scores - theirs.scores).topk(10, dim=0).indices
    plain = [int(ours.indices[i]) for i in cosine.flatten()]
    assert sum(i in flipped for i in plain) / len(plain) < 1 / 3
