"""Lengths of attacks as they are typed: pixel levels, 0-255, in every norm.

The field writes the radius of images in [0, 1], as 4/255 or 0.0157. The first is understood; the second is refused in
L-infinity, where it would be an attack of a sixtieth of what is meant. In L2 and L1 the lengths of other images than
these are not told from a slip, and a small one is taken as it stands.
"""
import argparse
import math
from typing import NamedTuple, Optional

LEVELS = 255
LEAST_BARE = 0.5  # pixel levels: a smaller radius or step in L-infinity has to be said with its unit. Ours
_UNIT = 'px'
_ROUNDED = 0.002  # part of a number that rounding to three digits may have taken from or added to k/255


class Length(NamedTuple):
    """levels: in pixel levels. bare: typed without a unit that says so."""
    levels: float
    bare: bool


def parse(text: str) -> Length:
    """The ``Length`` of '4', '4/255' (4 pixel levels) or '0.3px', for argparse.

    Raises:
        argparse.ArgumentTypeError: not a finite number of 0 or more.
    """
    number, bare = ''.join(text.split()), True
    for unit in ('/{}'.format(LEVELS), _UNIT):
        if number.endswith(unit):
            number, bare = number[:-len(unit)], False
            break
    try:
        levels = float(number)
    except ValueError:
        raise argparse.ArgumentTypeError("'{}' is no length such as 4, 4/{} or 0.3{}".format(text, LEVELS, _UNIT))
    if not 0 <= levels < math.inf:
        raise argparse.ArgumentTypeError('{} is {}'.format(text, 'below 0' if levels < 0 else 'not a finite number'))
    return Length(levels, bare)


def slip(length: Length) -> Optional[str]:
    """What is wrong with a ``Length`` of an attack in L-infinity, to follow what was typed; None if nothing is."""
    if not (length.bare and 0 < length.levels < LEAST_BARE):
        return None
    meant = length.levels * LEVELS
    if round(meant) and abs(meant - round(meant)) <= _ROUNDED * meant:
        meant = round(meant)
    return '{0:.3g} of 255 pixel levels; did you mean {1:.3g} ({0:.3g} of 1)? Write {0:g}{2} if not'.format(
        length.levels, meant, _UNIT)


def parse_linf(text: str) -> float:
    """The pixel levels of a length in L-infinity, a float, for argparse.

    Raises:
        argparse.ArgumentTypeError: as ``parse``; or a bare number so small that another unit is meant.
    """
    length = parse(text)
    wrong = slip(length)
    if wrong:
        raise argparse.ArgumentTypeError(wrong)
    return length.levels
