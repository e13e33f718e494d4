"""Threat models as they are typed: norms, each with its radius or at the usual one."""
import argparse
from typing import Container, List, NamedTuple, Optional, Tuple

from settings import lengths
from settings.attack import LINF

# "Revisiting Adversarial Training for ImageNet" (Singh et al. 2023): 4/255, 2 and 75 for images in [0, 1].
USUAL = {LINF: 4.0, 'L2': 2.0 * lengths.LEVELS, 'L1': 75.0 * lengths.LEVELS}
EVERY = ','.join(USUAL)

# Pixel levels below which a bare radius is taken for one of images in [0, 1], such as 2 or 75. Ours: over a whole image
# a real one is larger.
_LEAST_BARE = {'L2': 16.0, 'L1': 256.0}


class ThreatModel(NamedTuple):
    """norm. epsilon: the radius, step_size: of one step, where the attack has one; in pixel levels, 0-255."""
    norm: str
    epsilon: float
    step_size: Optional[float] = None

    @property
    def title(self) -> str:
        """As it may be typed."""
        return '{}:{:g}'.format(self.norm, self.epsilon)


def parse(text: str, norms: Container[str]) -> Tuple[ThreatModel, ...]:
    """The threat models of 'Linf,L2,L1' or 'Linf:8/255,L2:510', in their order.

    Args:
        norms: that there are.
    Raises:
        argparse.ArgumentTypeError: no such norm, or no radius; says what to type.
    """
    found: List[ThreatModel] = []
    for part in text.split(','):
        norm, colon, radius = part.strip().partition(':')
        if norm not in norms:
            raise argparse.ArgumentTypeError("'{}' is no norm with a radius such as {}".format(
                part, ', '.join('{}:{:g}'.format(*each) for each in USUAL.items())))
        if not colon and norm not in USUAL:
            raise argparse.ArgumentTypeError("'{}' has no usual radius; write {}:PIXELS".format(part, norm))
        model = ThreatModel(norm, _radius(norm, radius) if colon else USUAL[norm])
        if model in found:
            raise argparse.ArgumentTypeError('{} is named twice'.format(model.title))
        found.append(model)
    return tuple(found)


def _radius(norm: str, text: str) -> float:
    length = lengths.parse(text)
    slip = lengths.slip(length) if norm == LINF else None
    if not 0 < length.levels <= (lengths.LEVELS if norm == LINF else float('inf')):
        raise argparse.ArgumentTypeError('{}:{}: an attack needs a radius in (0, {}] pixel levels'.format(
            norm, text, lengths.LEVELS if norm == LINF else 'infinity'))
    if length.bare and length.levels < _LEAST_BARE.get(norm, 0):
        slip = '{0:g} pixel levels; did you mean {1:g} ({0:g} for images in [0, 1])? Write {0:g}px if not'.format(
            length.levels, length.levels * lengths.LEVELS)
    if slip:
        raise argparse.ArgumentTypeError('{}:{} is {}'.format(norm, text, slip))
    return length.levels
