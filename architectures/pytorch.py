"""What a kind of network's variables are called in PyTorch, and how their arrays lie there."""
import dataclasses
import re
from typing import Callable, Tuple

import numpy as np

# Axes of an array of PyTorch's in those of the variable: of a convolution [k,k,in,out] -> [out,in,k,k], of one of each
# channel [k,k,C,1] -> [C,1,k,k], of a dense layer [in,out] -> [out,in].
_CONVOLUTION, _DEPTHWISE, _DENSE = (3, 2, 0, 1), (2, 3, 0, 1), (1, 0)


def _with_dots(name: str) -> str:
    return name.replace('/', '.')


def _with_slashes(name: str) -> str:
    return name.replace('.', '/')


@dataclasses.dataclass(frozen=True)
class PyTorch:
    """Names and layouts of a kind of network in PyTorch.

    Attributes:
        depthwise (str): regular expression, found in the names of the variables that are depthwise convolutions.
        name: of a variable -> PyTorch's. variable: the way back.
    """
    depthwise: str = '$^'
    name: Callable[[str], str] = _with_dots
    variable: Callable[[str], str] = _with_slashes

    def axes(self, variable: str, rank: int) -> Tuple[int, ...]:
        """The axes of the variable in the order in which PyTorch's array has them."""
        if rank == 4:
            return _DEPTHWISE if re.search(self.depthwise, variable) else _CONVOLUTION
        return _DENSE if rank == 2 else tuple(range(rank))

    def to_pytorch(self, variable: str, array: np.ndarray) -> Tuple[str, np.ndarray]:
        """Name and array in PyTorch, of a variable's."""
        return self.name(variable), np.transpose(array, self.axes(variable, np.ndim(array)))

    def from_pytorch(self, name: str, array: np.ndarray) -> Tuple[str, np.ndarray]:
        """The variable of that name in PyTorch, and its array."""
        variable = self.variable(name)
        return variable, np.transpose(array, np.argsort(self.axes(variable, np.ndim(array))))
