"""A network's state as PyTorch's programs save it, under this project's names and in its layouts.

Which entry of a file is the state, which prefixes its names have and what is beside the parameters is known here; what
the parameters are called is the network's own (``architectures.pytorch``).
"""
import collections
import functools
import json
import os
import re
from typing import Any, Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from architectures.pytorch import PyTorch
from files.typed import one_of, parse, record, text
from layers.scaling import INPUT_SCALINGS
from nets import ARCHITECTURES
from weights.identity import AVERAGE, Network, describe, some
from weights.safetensors_files import SafetensorsFile
from weights.torch_files import TorchFile
from weights.torch_pickle import Tensor

SAFETENSORS = '.safetensors'
_ENDINGS, _ENDINGS_OF_FILES = ('.pt', '.pth', SAFETENSORS), ('.ckpt', '.tar', '.bin')
# In the metadata of a file of ``convert.py``: which variable each of its arrays is.
VARIABLES = 'variables'
_VARIABLES = record({'arch': one_of(*ARCHITECTURES), 'channel_order': one_of('BGR', 'RGB'),
                     'names': record({}, others=text(1000))})

# Entries of a file that may be a network's state, the first that is there; and of its averages.
_STATES, _AVERAGES = ('model_state_dict', 'state_dict', 'model'), ('state_dict_ema', 'model_ema')
# Parts of names, in the order in which they are taken away: of PyTorch's distributed wrapper, of its compiler, and of a
# wrapper of "Revisiting Adversarial Training" for attacks.
_WRAPPERS = ('module', '_orig_mod', 'base_model')
# Around a network that normalises its images: `model.`, of which the library `robustness` has a copy in `attacker.`.
_INNER, _COPY = 'model.', 'attacker.'
_NORMALISATION = re.compile(r'(?:normali[sz](?:e|er|ation)\.(?:new_)?)?(?:(mean|mu)|(std|sigma))')
_COUNTER = 'num_batches_tracked'  # of batch norm, for a momentum that no network here has
_SCALINGS = ('unit', 'imagenet')  # what a normalisation may be
_AGREES = 1e-4


def is_pytorch(path: str) -> bool:
    """bool: whether a path means a file of these forms. A TensorFlow checkpoint ``model.ckpt`` is no file of that name.
    """
    return path.endswith(_ENDINGS) or path.endswith(_ENDINGS_OF_FILES) and os.path.isfile(path)


class _Array(NamedTuple):
    """An array that has not been read. place: equal for two that are the same numbers of a file."""
    shape: Tuple[int, ...]
    read: Callable[[], np.ndarray]
    place: Any


class Told(NamedTuple):
    """What a file says of its network beside names and shapes.

    network (Network): None for none of this project's. scaling (str): of ``INPUT_SCALINGS``, of a normalisation that is
    with the weights; None without one. averages (str): 'none', 'both' where there are plain weights too, or 'alone'.
    """
    network: Optional[Network]
    scaling: Optional[str]
    averages: str


class PyTorchFile:
    """The variables of a file of PyTorch's or of safetensors, as one of the forms of ``weights.stored``.

    Attributes:
        metadata (dict): texts by name, of a file of safetensors.
        told (Told): None of a file of ``convert.py``'s, in which a card says more.
    Raises:
        ValueError and others: not readable, no state of a network, or ambiguous.
    """

    def __init__(self, path: str) -> None:
        self.metadata: Dict[str, str] = {}
        self.told: Optional[Told] = None
        self._arrays: Dict[str, _Array] = {}
        if path.endswith(SAFETENSORS):
            file = SafetensorsFile(path)
            self.metadata = file.metadata
            states, averages = {'': {name: _Array(shape, functools.partial(file.array, name), name)
                                     for name, shape in file.shapes.items()}}, 'none'
        else:
            states, averages = _open_torch(path)
        if VARIABLES in self.metadata:
            self._take_said(states[''], parse(self.metadata[VARIABLES], _VARIABLES, "its '{}'".format(VARIABLES)))
        else:
            self._take(states, averages)

    def headers(self) -> Iterator[Tuple[str, Tuple[int, ...]]]:
        return ((name, array.shape) for name, array in self._arrays.items())

    def read(self, key: str) -> np.ndarray:
        return self._arrays[key].read()

    def _add(self, name: str, array: _Array) -> None:
        if name in self._arrays:
            raise ValueError('{} is there twice'.format(name))
        self._arrays[name] = array

    def _take_said(self, arrays: Mapping[str, _Array], said: Mapping[str, Any]) -> None:
        """Under the names that the file itself gives them."""
        pytorch = ARCHITECTURES[said['arch']].pytorch
        for name, array in arrays.items():
            variable = said['names'].get(name)
            self._add(variable or name, _as_variable(array, variable, pytorch, said['channel_order'] == 'BGR')
                      if variable else array)

    def _take(self, states: Mapping[str, Mapping[str, _Array]], averages: str) -> None:
        scalings = set()
        for end, state in states.items():
            arrays, scaling = _unwrapped(state)
            network, pytorch, variables = _recognised({name: array.shape for name, array in arrays.items()})
            scalings.add(scaling)
            for name, array in arrays.items():
                self._add(variables.get(name, name) + end, _as_variable(array, variables[name], pytorch)
                          if name in variables else array)
        if len(scalings) > 1:
            raise ValueError('its weights and their averages have different normalisations')
        self.told = Told(network, *scalings, averages)


def _open_torch(path: str) -> Tuple[Dict[str, Dict[str, _Array]], str]:
    """({end of the names of variables: state}, ``Told.averages``) of a file of PyTorch's."""
    file = TorchFile(path)
    held = file.content if type(file.content) is dict else {}
    shares: Dict[str, int] = collections.Counter(
        tensor.storage.key for state in (held, *held.values()) for tensor in _tensors(state).values())

    def first(names: Tuple[str, ...]) -> Dict[str, _Array]:
        found = next((held[name] for name in names if name in held and _tensors(held[name])), {})
        return arrays(found)

    def arrays(state: Any) -> Dict[str, _Array]:
        return {str(name): _Array(tensor.shape, functools.partial(
            file.array, tensor, shares[tensor.storage.key] > 1), tensor) for name, tensor in _tensors(state).items()}
    plain, averages = arrays(held) or first(_STATES), first(_AVERAGES)
    if not (plain or averages):
        raise ValueError('it holds no tensors by their names, neither itself nor as {}'.format(
            ', '.join(_STATES + _AVERAGES)))
    if not averages:
        return {'': plain}, 'none'
    return ({'': plain, AVERAGE: averages}, 'both') if plain else ({'': averages}, 'alone')


def _tensors(state: Any) -> Dict[Any, Tensor]:
    """Those of the values of a dictionary that are tensors."""
    return {name: value for name, value in state.items() if type(value) is Tensor} if type(state) is dict else {}


def _unwrapped(state: Mapping[str, _Array]) -> Tuple[Dict[str, _Array], Optional[str]]:
    """A state without what stands around the network: its parameters under their own names, and the input scaling."""
    found: Dict[str, _Array] = {}
    normalisation: Dict[str, _Array] = {}
    for name, array in state.items():
        parts = name.split('.')
        for wrapper in _WRAPPERS:
            parts = [part for part in parts if part != wrapper]
        inner = '.'.join(parts) or name
        inner = inner[len(_COPY):] if inner.startswith(_COPY) else inner
        normal = _NORMALISATION.fullmatch(inner)
        inner = inner[len(_INNER):] if inner.startswith(_INNER) else inner
        if parts[-1:] == [_COUNTER]:
            continue
        held, key = (normalisation, 'mean' if normal.group(1) else 'std') if normal else (found, inner)
        before = held.setdefault(key, array)
        if before.place != array.place and not np.array_equal(before.read(), array.read()):
            raise ValueError('{} is there twice, with different numbers'.format(inner))
    return found, _scaling(normalisation)


def _scaling(normalisation: Mapping[str, _Array]) -> Optional[str]:
    """The input scaling of buffers ``mean`` and ``std``; None where there are none."""
    if not normalisation:
        return None
    values = {name: np.ravel(array.read()).astype(float) for name, array in normalisation.items()}
    for word in _SCALINGS:
        mean, std = (np.array(each) / 255 for each in INPUT_SCALINGS[word])
        if values.keys() == {'mean', 'std'} and all(
                found.shape == (3,) and np.abs(found - wanted).max() < _AGREES
                for found, wanted in ((values['mean'], mean), (values['std'], std))):
            return word
    raise ValueError('it normalises its images by {}, and --input-scaling has that of ImageNet and none alone'.format(
        ', '.join('{} {}'.format(name, np.round(value[:3], 4).tolist()) for name, value in values.items())))


def _recognised(shapes: Mapping[str, Tuple[int, ...]]) -> Tuple[Optional[Network], Optional[PyTorch], Dict[str, str]]:
    """Which network a state is of, or else is nearest to, how its names are made, and its variables by their names."""
    nearest: Tuple[Optional[PyTorch], Dict[str, str]] = None, {}
    for arch, entry in ARCHITECTURES.items():
        variables = entry.pytorch.variables(shapes) if entry.pytorch else {}
        network = describe({variable: entry.pytorch.shape(variable, shapes[name])
                            for name, variable in variables.items()})
        if network and network.arch == arch:
            return network, entry.pytorch, variables
        if len(variables) > len(nearest[1]):
            nearest = entry.pytorch, variables
    return (None, *nearest)


def _as_variable(array: _Array, variable: str, pytorch: PyTorch, reverse: bool = False) -> _Array:
    """An array of PyTorch's as that of a variable; ``reverse``: of a network that takes BGR."""
    def read() -> np.ndarray:
        value = pytorch.from_pytorch(variable, array.read())
        if reverse and re.search(pytorch.takes_image, variable):
            value = value[:, :, ::-1]
        return np.ascontiguousarray(value).reshape(np.shape(value))
    return _Array(pytorch.shape(variable, array.shape), read, array.place)


def to_pytorch(values: Mapping[str, np.ndarray], arch: str, channel_order: str) -> Tuple[Dict[str, np.ndarray], str]:
    """A network's variables as PyTorch has them: for images in RGB, whatever order it takes here.

    Args:
        values (dict): all variables of the network, by name. arch (str). channel_order (str): that of the network.
    Returns:
        (state, said): arrays by PyTorch's name, and what is to be written as ``VARIABLES``.
    Raises:
        ValueError: variables that have no name there.
    """
    pytorch = ARCHITECTURES[arch].pytorch
    names = pytorch.names({name: np.shape(value) for name, value in values.items()}) if pytorch else {}
    if len(names) < len(values):
        raise ValueError('PyTorch has no names for {}'.format(some(sorted(values.keys() - names.keys()))))
    state = {}
    for variable, name in names.items():
        value = np.asarray(values[variable])
        if channel_order == 'BGR' and re.search(pytorch.takes_image, variable):
            value = value[:, :, ::-1]
        value = pytorch.to_pytorch(variable, value)
        state[name] = np.ascontiguousarray(value).reshape(np.shape(value))
    return state, json.dumps({'arch': arch, 'channel_order': channel_order,
                              'names': {name: variable for variable, name in names.items()}})
