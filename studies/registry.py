"""The studies by their names; another one is a module here and a word in this list."""
from studies import activations, cifar10, gradients, overfitting, sanity, scaling, transfer_learning

STUDIES = {module.STUDY.name: module.STUDY for module in (
    activations, gradients, scaling, sanity, cifar10, overfitting, transfer_learning)}
