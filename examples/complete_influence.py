"""An influence that adds up: on an X-DNN, the pixels of a training image share it out exactly.

The influence of a training image on a prediction is a product of two gradients. On a network that
is homogeneous, such as one without biases, it grows in proportion to the training image, so that
X-Gradient shares it out over the pixels without a rest. On other networks no gradient method does.
"""

from torch import nn

from whence import Network
from whence.attribution import InputXGradient, IntegratedGradients
from whence.convert import x_dnn
from whence.core import ImageData, Margin, Method
from whence.influence import GradCos, influence
from whence.recipes import planted_digits, train_network
from whence.training_features import InfluenceXGradient, training_features

QUERIES, PROPONENTS = 4, 5


def missed(model: nn.Module, train: ImageData, test: ImageData, method: Method) -> float:
    """Return the share of the influences of proponents that a map's pixels miss, on average."""
    (batch,) = test.batches(QUERIES, range(QUERIES))
    network = Network.read(model, batch.images)
    predicted = network(batch.images).argmax(dim=1)
    scores = influence(network, train, batch.images, Margin(predicted), scorer=GradCos())
    best = scores.proponents(PROPONENTS).indices
    total = 0.0
    for query in range(QUERIES):
        found = training_features(
            scores, query, train, best[query].tolist(), method, hold_weights=True
        ).attribution
        gaps = (found.total - found.explained).abs() / found.explained.abs()
        total += float(gaps.mean()) / QUERIES
    return total


def main() -> None:
    """Share out influences on a network, and on the X-DNN that it becomes."""
    digits = planted_digits(probes=0)
    plain = train_network(digits, epochs=3).module
    (batch,) = digits.train.batches(64, range(64))
    exact = x_dnn(plain, batch.images).model
    print("share of the influence that the pixels of training images miss")
    gaps = {}
    for name, model, method in (
        ("as trained, input x gradient", plain, InputXGradient()),
        ("as trained, integrated gradients", plain, IntegratedGradients(steps=64)),
        ("as an X-DNN, X-Gradient", exact, InfluenceXGradient()),
    ):
        gaps[name] = missed(model, digits.train, digits.test, method)
        print(f"{name:34} {gaps[name]:.1e}")
    assert gaps["as an X-DNN, X-Gradient"] < 1e-3 < gaps["as trained, input x gradient"]


if __name__ == "__main__":
    main()
