"""Images attacked with one network, judged by others."""
from typing import List, NamedTuple

import numpy as np

from analysis.masking import LEVEL, stronger
from analysis.sweep import accuracy


class Transfer(NamedTuple):
    """clean: Outcomes of the networks. attacked: [source][target], the target's outcomes on the source's images."""
    names: List[str]
    clean: list
    attacked: list

    def accuracies(self):
        """float [sources, targets]."""
        return np.array([[outcome.standing.mean() for outcome in row] for row in self.attacked])

    def surprises(self):
        """Pairs (source, target) where another network's images break significantly more than the target's own."""
        found, count = [], len(self.names)
        for target in range(count):
            own = self.attacked[target][target].standing
            for source in range(count):
                comparisons = max(1, count * (count - 1))
                if source != target and stronger(self.attacked[source][target].standing, own) * comparisons < LEVEL:
                    found.append((self.names[source], self.names[target]))
        return found


def measure(subjects, images, attacker):
    """Attack ``images`` with each of ``subjects``, and show the results to all.

    Args:
        subjects (list of Subject): of the same input size and classes. attacker: the same for all.
    Returns:
        Transfer.
    """
    attacked = []
    for source in subjects:
        adv = images.moved_to(source.judge(images, attacker, keep=True).adv)
        attacked.append([target.judge(adv) for target in subjects])
    return Transfer([s.name for s in subjects], [s.judge(images) for s in subjects], attacked)


def in_words(transfer):
    """What the matrix says of masked gradients, in a sentence."""
    found = transfer.surprises()
    if not found:
        return 'No network falls to images made with another one more often than to its own attack, beyond chance.'
    return 'Sign of masked gradients: {}.'.format('; '.join(
        'images made with {} break {} more often than its own attack does'.format(*pair) for pair in found))


def as_json(transfer):
    """JSON-ready."""
    return {'names': transfer.names, 'num_images': len(transfer.clean[0].standing),
            'clean': [accuracy(outcome) for outcome in transfer.clean],
            'attacked': [[accuracy(outcome) for outcome in row] for row in transfer.attacked],
            'verdict': in_words(transfer)}
