"""What a kind of network's variables are called in PyTorch, and how their arrays lie there."""
import dataclasses
import re
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import numpy as np

Shapes = Mapping[str, Tuple[int, ...]]

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
        name: of a variable -> PyTorch's. variable: the way back. Both '' for a name that is not of the kind.
        begins (str): regular expression of how names of the kind begin in PyTorch.
        takes_image (str): regular expression of the names of the variables whose input channels are those of images.
        usual: values of options, by destination, of networks that come under these names from elsewhere, where nothing
            says otherwise.
        modules (str): which networks of PyTorch's libraries have these names.
        paddings: what is to be said to their users of where these networks pad otherwise, by the value of the option
            ``padding``, None for networks without it; nothing for a value at which they pad as theirs.
    """
    depthwise: str = '$^'
    name: Callable[[str], str] = _with_dots
    variable: Callable[[str], str] = _with_slashes
    begins: str = ''
    takes_image: str = '$^'
    usual: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    modules: str = "timm's"
    paddings: Mapping[Optional[str], str] = dataclasses.field(default_factory=dict)

    def names(self, shapes: Shapes) -> Dict[str, str]:
        """{variable: PyTorch's name} of those of a network's variables that have one."""
        return {variable: self.name(variable) for variable in shapes if self.name(variable)}

    def variables(self, shapes: Shapes) -> Dict[str, str]:
        """{PyTorch's name: variable} of those names of a state that are of the kind; ``shapes``: PyTorch's."""
        return {name: self.variable(name) for name in shapes
                if re.match(self.begins, name) and self.variable(name)}

    def axes(self, variable: str, rank: int) -> Tuple[int, ...]:
        """The axes of the variable in the order in which PyTorch's array has them."""
        if rank == 4:
            return _DEPTHWISE if re.search(self.depthwise, variable) else _CONVOLUTION
        return _DENSE if rank == 2 else tuple(range(rank))

    def shape(self, variable: str, shape: Tuple[int, ...]) -> Tuple[int, ...]:
        """The variable's shape, of PyTorch's array's."""
        return tuple(shape[axis] for axis in np.argsort(self.axes(variable, len(shape))))

    def to_pytorch(self, variable: str, array: np.ndarray) -> np.ndarray:
        """A variable's array as PyTorch has it."""
        return np.transpose(array, self.axes(variable, np.ndim(array)))

    def from_pytorch(self, variable: str, array: np.ndarray) -> np.ndarray:
        """PyTorch's array as the variable's."""
        return np.transpose(array, np.argsort(self.axes(variable, np.ndim(array))))
