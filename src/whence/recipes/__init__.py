"""The use cases, from end to end: explain images, audit or train a classifier, see a demo."""

from whence.recipes.audit import audit
from whence.recipes.demo import Demonstration, PatchShare, demonstrate
from whence.recipes.digits import PlantedDigits, planted_digits, train_network
from whence.recipes.evaluate import evaluate
from whence.recipes.explain import Explanation, explain
from whence.recipes.fit import fit
from whence.recipes.fit_record import FitRecord
from whence.recipes.fix import Fixed, fix, load_fixed
from whence.recipes.groups import read_group
from whence.recipes.load import Case, load_architecture, load_case, load_images, load_subject
from whence.recipes.removal import (
    GroupInfluence,
    RemovalCurve,
    Retrain,
    group_influence,
    removal_curve,
    retrain_each,
)
from whence.recipes.retrain import FineTune, LastLayer, Removal
from whence.recipes.roar import Retraining, RetrainingCell, roar
from whence.recipes.transfer import transfer
from whence.recipes.transfer_networks import TransferNetwork, transfer_network
from whence.recipes.verify import verify

__all__ = [
    "Case",
    "Demonstration",
    "Explanation",
    "FineTune",
    "FitRecord",
    "Fixed",
    "GroupInfluence",
    "LastLayer",
    "PatchShare",
    "PlantedDigits",
    "Removal",
    "RemovalCurve",
    "Retrain",
    "Retraining",
    "RetrainingCell",
    "TransferNetwork",
    "audit",
    "demonstrate",
    "evaluate",
    "explain",
    "fit",
    "fix",
    "group_influence",
    "load_architecture",
    "load_case",
    "load_fixed",
    "load_images",
    "load_subject",
    "planted_digits",
    "read_group",
    "removal_curve",
    "retrain_each",
    "roar",
    "train_network",
    "transfer",
    "transfer_network",
    "verify",
]
