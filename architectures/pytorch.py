"""What PyTorch calls a network's variables, and how its arrays lie: data of an ``Architecture``, read by ``weights``.

PyTorch has [out, in, k, k] for a convolution, [C, 1, k, k] for a depthwise one and [out, in] for a dense layer, where
TensorFlow has [k, k, in, out], [k, k, C, 1] and [in, out]; all other arrays are the same.
"""
import dataclasses
from typing import Callable, Dict, Mapping, Tuple

Shapes = Mapping[str, Tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class PyTorchNames:
    """The names of one kind of network, in both directions. Names that are not of the kind are left out.

    Attributes:
        of_variables: shapes of variables by name -> {variable's name: PyTorch's name}.
        of_state: shapes of a PyTorch state by name -> {PyTorch's name: variable's name}.
        is_depthwise: variable's name -> whether it is the kernel of a depthwise convolution.
    """
    of_variables: Callable[[Shapes], Dict[str, str]]
    of_state: Callable[[Shapes], Dict[str, str]]
    is_depthwise: Callable[[str], bool] = lambda name: False

    def axes(self, variable: str, rank: int) -> Tuple[int, ...]:
        """The axes of PyTorch's array, in the variable's order: ``array.transpose(axes)`` is the variable's value, and
        of a value ``value.transpose(argsort(axes))`` PyTorch's array."""
        if rank == 4:
            return (2, 3, 0, 1) if self.is_depthwise(variable) else (2, 3, 1, 0)
        return (1, 0) if rank == 2 else tuple(range(rank))


def by_rule(to_pytorch: Callable[[str], str], to_variable: Callable[[str], str],
            is_depthwise: Callable[[str], bool] = lambda name: False) -> PyTorchNames:
    """Names each of which says by itself what it is.

    Args:
        to_pytorch, to_variable: name -> the other's name; '' for a name that is not of the kind.
    """
    def translated(rule: Callable[[str], str]) -> Callable[[Shapes], Dict[str, str]]:
        return lambda shapes: {name: other for name, other in ((name, rule(name)) for name in shapes) if other}
    return PyTorchNames(translated(to_pytorch), translated(to_variable), is_depthwise)
