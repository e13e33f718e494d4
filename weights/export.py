"""A network for PyTorch: its state, and in words what a module that has these weights must do beside them."""
import json

import numpy as np

from layers.scaling import INPUT_SCALINGS
from nets import ARCHITECTURES
from weights import card as cards
from weights.identity import network_of_flags
from weights.pytorch import VARIABLES, to_pytorch
from weights.stored import ENTRY


def for_pytorch(values, card):
    """A network as PyTorch has it.

    Channels are RGB: the first kernels of a network that takes BGR are reversed. The scaling of images is not in the
    weights, as zeros around an image would then be another colour; the metadata has it as ``mean`` and ``std``.

    Args:
        values (dict): all variables of the network, by name. card (dict): of ``weights.card``.
    Returns:
        (state, metadata): arrays by PyTorch's name; texts by name.
    Raises:
        ValueError: a variable without a name there.
    """
    flags = card['flags']
    state, said = to_pytorch(values, flags['arch'], card['channel_order'])
    pytorch, (mean, std) = ARCHITECTURES[flags['arch']].pytorch, _normalisation(flags)
    metadata = {
        'format': 'pt', 'network': str(network_of_flags(flags)), 'modules': pytorch.modules,
        'input': 'RGB in [0, 1], [N,3,{0},{0}], less mean, by std'.format(flags['input_size']),
        'mean': json.dumps(mean), 'std': json.dumps(std), 'input_size': str(flags['input_size']),
        'activation': flags['activation_name'], 'padding': padding(card) or "as PyTorch's",
        'flags': json.dumps(flags), ENTRY: cards.as_text(card), VARIABLES: said}
    if flags.get('batch_norm_epsilon') is not None:
        metadata['batch_norm_epsilon'] = repr(flags['batch_norm_epsilon'])
    if card['classes'] is not None:
        metadata['classes'] = json.dumps(card['classes'])
    return state, metadata


def padding(card):
    """What is to be said of where the network of a card pads otherwise than PyTorch's of these names; ''."""
    flags = card['flags']
    return ARCHITECTURES[flags['arch']].pytorch.paddings.get(flags.get('padding'), '')


def _normalisation(flags):
    """(mean, std), of images RGB in [0, 1], each a list of three numbers."""
    scaling = flags.get('input_scaling') or ARCHITECTURES[flags['arch']].model.input_scaling
    if INPUT_SCALINGS[scaling] is None:  # [-1, 1]
        return [0.5] * 3, [0.5] * 3
    return [np.round(np.array(values) / 255, 6).tolist() for values in INPUT_SCALINGS[scaling]]
