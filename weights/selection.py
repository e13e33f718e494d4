"""Which of a checkpoint's variables go into another form of it."""
import numpy as np

from weights.identity import AVERAGE, is_of_training


def select(values, keep='both', optimizer=False, path=''):
    """Choose among a checkpoint's variables.

    Batch norm's vectors, which the SAT release's EfficientNets may hold as [1, 1, 1, 1, C], become [C].

    Args:
        values (dict): from ``read_checkpoint``. keep (str): 'both', 'weights' or 'averages'. optimizer (bool): keep
            what only training needs. path (str): for messages.
    Returns:
        dict: name to array.
    Raises:
        ValueError: no averages in it, or no weights.
    """
    averages = {name: value for name, value in values.items() if name.endswith(AVERAGE)}
    training = {name: value for name, value in values.items()
                if is_of_training(name) and name not in averages}
    weights = {name: value for name, value in values.items() if name not in averages and name not in training}
    kept = {'weights': weights, 'both': dict(weights, **averages),
            'averages': {name[:-len(AVERAGE)]: value for name, value in averages.items()}}[keep]
    if not kept:
        raise ValueError("'{}' holds no {}".format(path, 'weights' if keep == 'both' else keep))
    if optimizer:
        kept.update(training)
    return {name: _vector(value) for name, value in kept.items()}


def _vector(value):
    """The value, or the vector that the release's evaluation graphs keep as [1, 1, 1, 1, C]."""
    shape = np.shape(value)
    return np.reshape(value, shape[4:]) if len(shape) == 5 and shape[:4] == (1, 1, 1, 1) else value
