"""The sizes of ConvNeXt (Liu et al. 2022, Sec 3 and App. A.1; stems: Singh et al. 2023)."""
from typing import NamedTuple, Optional, Tuple

from layers.stem import FOUR, THREE, TWO, ConvStem

PREFIX, CONVOLUTIONAL = 'convnext-', '-cvst'


class Plan(NamedTuple):
    """What a ConvNeXt is made of.

    blocks, widths (tuple of int): blocks and channels of each stage. patch_size (int): pixels along a side that become
    one position of the first stage. stem (ConvStem): None for one convolution. isotropic (bool): one stage, without
    layer scale, under other names.
    """
    blocks: Tuple[int, ...]
    widths: Tuple[int, ...]
    patch_size: int
    stem: Optional[ConvStem]
    isotropic: bool = False


_SIZES = {'t': Plan((3, 3, 9, 3), (96, 192, 384, 768), 4, TWO),
          's': Plan((3, 3, 27, 3), (96, 192, 384, 768), 4, TWO),
          'b': Plan((3, 3, 27, 3), (128, 256, 512, 1024), 4, THREE),
          'l': Plan((3, 3, 27, 3), (192, 384, 768, 1536), 4, THREE),
          'iso': Plan((18,), (384,), 16, FOUR, isotropic=True)}
SIZES = {PREFIX + name + ending: plan if ending else plan._replace(stem=None)
         for name, plan in _SIZES.items() for ending in ('', CONVOLUTIONAL)}
