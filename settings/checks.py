"""How values are typed: functions of the text for argparse, which say in a line what is wrong with it."""
import argparse
import re
from typing import Any, Callable, Tuple, Type, Union

Number = Union[int, float]


def at_least(low: Number, kind: Type[Any] = int) -> Callable[[str], Any]:
    """Check for a finite number of ``low`` or more; ``kind``: int or float."""
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError("'{}' is no {}".format(text, 'whole number' if kind is int else 'number'))
        if not value >= low or value == float('inf'):
            raise argparse.ArgumentTypeError('{} is below {}'.format(text, low) if value < low else
                                             '{} is not a finite number'.format(text))
        return value
    return parse


def epoch_list(text: str) -> Tuple[int, ...]:
    """'30,60,90' as a tuple in order; '' is none."""
    try:
        return tuple(sorted(int(part) for part in text.split(',') if part))
    except ValueError:
        raise argparse.ArgumentTypeError("'{}' is no list of epochs such as 30,60,90".format(text))


def step_list(text: str) -> Tuple[int, ...]:
    """'10,50' as a tuple of different numbers in order."""
    return tuple(sorted({at_least(1)(part) for part in text.split(',')}))


def of_each_stage(text: str) -> str:
    """'3, 3' as '3,3': whole numbers of 1 or more."""
    return ','.join(str(at_least(1)(part)) for part in text.split(','))


def probability(text: str) -> float:
    """A number in [0, 1]."""
    value = float(at_least(0.0, float)(text))
    if value > 1:
        raise argparse.ArgumentTypeError('{} is above 1'.format(text))
    return value


def below_one(text: str) -> float:
    """A number in [0, 1)."""
    value = probability(text)
    if value == 1:
        raise argparse.ArgumentTypeError('{} is not below 1'.format(text))
    return value


def above_zero(text: str) -> float:
    """A number above 0."""
    value = float(at_least(0.0, float)(text))
    if value == 0:
        raise argparse.ArgumentTypeError('{} is not above 0'.format(text))
    return value


def chance(text: str) -> float:
    """A number in (0, 1]."""
    return above_zero(str(probability(text)))


def several_of(*words: str) -> Callable[[str], Tuple[str, ...]]:
    """Check of some of ``words`` with commas between them; 'none' is none of them."""
    def parse(text: str) -> Tuple[str, ...]:
        found = tuple(dict.fromkeys(text.split(','))) if text != 'none' else ()
        for word in found:
            if word not in words:
                raise argparse.ArgumentTypeError("'{}' is none of {}".format(word, ', '.join(words)))
        return found
    return parse


def regular_expression(text: str) -> str:
    """A regular expression, as Python's ``re`` has them."""
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError("'{}' is no regular expression: {}".format(text, error))
    return text


def seed(text: str) -> int:
    """A whole number in [0, 2^31)."""
    value = int(at_least(0)(text))
    if value >= 2 ** 31:
        raise argparse.ArgumentTypeError('{} is not below 2^31'.format(text))
    return value


def positive(text: str) -> int:
    """A whole number of 1 or more, as the data server reads it."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("{} must be at least 1".format(value))
    return value


def shard(text: str) -> Tuple[int, int]:
    """(I, N) of 'I/N'."""
    found = re.fullmatch(r'(\d+)/(\d+)', text)
    if not found or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError("{!r} is not I/N with 0 <= I < N".format(text))
    return int(found[1]), int(found[2])
