"""JSON from outside (files, sockets, other processes): checked in full before anything believes it.

A check is a function (value, where) -> value that raises ``Malformed``. Checks are made of the ones here:

    HELLO = record({'request': one_of('hello', 'bye'), 'job': text(100), 'pid': whole(1, 2 ** 31)})
    request = parse(message, HELLO, 'a request')

Needs nothing but Python: the data server imports it and stays free of TensorFlow.
"""
import json
import math
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

Check = Callable[[Any, str], Any]


class Malformed(ValueError):
    """What came is not what it should be; the message says what and where in it."""


def parse(content: Union[bytes, str], check: Check, what: str) -> Any:
    """Decode JSON and check it.

    Args:
        content (bytes or str). check: of the whole value. what (str): names the content in messages.
    Returns:
        the checked value.
    Raises:
        Malformed: not JSON, or ``check`` refuses it. No other exception comes from any content.
    """
    try:
        value = json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_without_doubles)
    except Malformed as error:
        raise Malformed('{}: {}'.format(what, error)) from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and too many digits are ValueErrors
        raise Malformed('{}: no JSON ({})'.format(what, ' '.join(str(error).split()))) from None
    return check(value, what)


def _refuse_constant(name: str) -> Any:
    raise Malformed('{} is no JSON number'.format(name))


def _without_doubles(pairs: Sequence[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Malformed('a name stands twice in one object')
    return found


def whole(low: int, high: int) -> Check:
    """Check for a whole number in [low, high]; true and 1.0 are none."""
    def check(value: Any, where: str) -> Any:
        if type(value) is not int or not low <= value <= high:
            raise Malformed('{}: {} is no whole number in {} to {}'.format(where, shown(value), low, high))
        return value
    return check


def number(low: float = -math.inf, high: float = math.inf) -> Check:
    """Check for a finite number in [low, high], which becomes a float."""
    def check(value: Any, where: str) -> Any:
        try:
            found = float(value) if type(value) in (int, float) else math.nan
        except OverflowError:
            found = math.inf
        if not (math.isfinite(found) and low <= found <= high):
            raise Malformed('{}: {} is no finite number{}'.format(
                where, shown(value), '' if (low, high) == (-math.inf, math.inf) else ' in {} to {}'.format(low, high)))
        return found
    return check


def text(longest: int) -> Check:
    """Check for a string of at most ``longest`` characters."""
    def check(value: Any, where: str) -> Any:
        if type(value) is not str or len(value) > longest:
            raise Malformed('{}: {} is no text of at most {} characters'.format(where, shown(value), longest))
        return value
    return check


def truth(value: Any, where: str) -> bool:
    """Check for true or false."""
    if type(value) is not bool:
        raise Malformed('{}: {} is neither true nor false'.format(where, shown(value)))
    return value


def anything(value: Any, where: str) -> Any:
    """Check that lets every JSON value pass, for what is only shown."""
    return value


def one_of(*choices: Any) -> Check:
    """Check for one of these strings, numbers or None, of the same type."""
    def check(value: Any, where: str) -> Any:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise Malformed('{}: {} is none of {}'.format(where, shown(value), ', '.join(map(repr, choices))))
        return value
    return check


def optional(check: Check) -> Check:
    """Check for null, or what ``check`` lets pass."""
    return lambda value, where: None if value is None else check(value, where)


def list_of(check: Check, longest: int, shortest: int = 0) -> Check:
    """Check for a list of ``shortest`` to ``longest`` values that ``check`` lets pass."""
    def check_all(value: Any, where: str) -> List[Any]:
        if type(value) is not list or not shortest <= len(value) <= longest:
            raise Malformed('{}: {} is no list of {} to {} values'.format(where, shown(value), shortest, longest))
        return [check(element, '{}[{}]'.format(where, place)) for place, element in enumerate(value)]
    return check_all


def record(fields: Dict[str, Check], others: Optional[Check] = None, maybe: Sequence[str] = ()) -> Check:
    """Check for an object.

    Args:
        fields (dict): name to check. maybe (sequence of str): names that may be absent. others: check of the values
        under all other names; None refuses such names.
    """
    def check(value: Any, where: str) -> Any:
        if type(value) is not dict:
            raise Malformed('{}: {} is no object'.format(where, shown(value)))
        missing = [name for name in fields if name not in value and name not in maybe]
        unknown = [name for name in value if name not in fields] if others is None else []
        if missing or unknown:
            raise Malformed('{}: {} {}'.format(where, *(('lacks', missing[0]) if missing else
                                                        ('has an unknown', shown(unknown[0])))))
        known = {name: name if name in fields else shown(name) for name in value}
        return {name: fields.get(name, others or anything)(element, '{}.{}'.format(where, known[name]))
                for name, element in value.items()}
    return check


def shown(value: Any, longest: int = 60) -> str:
    """A value for a message, cut to some characters; never the whole of a huge one."""
    if isinstance(value, (list, dict)):
        return 'a {} of {}'.format('list' if isinstance(value, list) else 'object', len(value))
    if isinstance(value, int) and value.bit_length() > 64:
        return 'a number of {} bits'.format(value.bit_length())
    found = repr(value if not isinstance(value, str) else value[:longest + 1])
    return found if len(found) <= longest else found[:longest] + '...'
