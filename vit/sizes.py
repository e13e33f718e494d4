"""The sizes of vision transformers: DeiT's S and B, DeiT III's M (stem: Singh et al. 2023)."""
from typing import NamedTuple, Optional

from layers.stem import FOUR, ConvStem

PREFIX, CONVOLUTIONAL = 'vit-', '-cvst'


class Plan(NamedTuple):
    """What a vision transformer is made of.

    blocks (int). width (int): channels of a token. heads (int): of attention. patch_size (int): pixels along a side
    that become one token. stem (ConvStem): None for one convolution.
    later_class (bool): of DeiT III: the class token comes behind the position embedding and has none of it, and each
    branch of a block has a layer scale.
    """
    blocks: int
    width: int
    heads: int
    patch_size: int
    stem: Optional[ConvStem]
    later_class: bool = False


_SIZES = {'s': Plan(12, 384, 6, 16, FOUR), 'm': Plan(12, 512, 8, 16, FOUR, later_class=True),
          'b': Plan(12, 768, 12, 16, FOUR)}
SIZES = {PREFIX + name + ending: plan if ending else plan._replace(stem=None)
         for name, plan in _SIZES.items() for ending in ('', CONVOLUTIONAL)}
