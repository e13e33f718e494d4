"""Options as keyword arguments: the fields of ``settings`` by their names, and as the command line reads them.

A keyword becomes the flag that it names, so that the library and ``main.py --eval`` know the same options, defaults and
refusals; what a message says of a flag is said of the keyword.
"""
import contextlib
import difflib
import re

from commands.command_line import parse_args
from ranks.end import raising
from settings import sections
from settings.fields import SWITCH, options_of
from settings.modes import EVAL

# What the library calls otherwise than the field.
_CALLED = {'num_iter': 'steps', 'kind': 'attack', 'data': 'folder'}
# What the function that is called says, and the network that it is called of.
_SAID = ('load', 'eval', 'eval_directory')
_FLAG = re.compile(r'(?<![\w-])(--[a-z][a-z0-9]*(-[a-z0-9]+)*|-[a-z](?= ))')


def _of(*names):
    """Keyword to option: what means something in an evaluation, of sections of the settings by their names."""
    kinds, found = sections.sections(), {}
    for option in (option for name in names for option in options_of(kinds[name])):
        if EVAL in option.flag.modes and option.field not in _SAID:
            found.setdefault(_CALLED.get(option.field, option.field), option)
    return found


def of_loading():
    """What says which network there is, and how it is shown images."""
    found = _of('network', 'view', 'data', 'run')
    return {name: option for name, option in found.items() if name not in ('folder', 'seed')}


def of_attacks():
    """What says how images are attacked."""
    return _of('evaluation_attack')


def of_evaluations():
    """What says how a validation set is judged."""
    everywhere = _of('data', 'run')
    return {**of_attacks(), **_of('evaluation'), **{name: everywhere[name] for name in ('folder', 'seed')}}


def words(function, known, given):
    """The flags of keyword arguments.

    Args:
        function (str): which they were given to. known (dict): keyword to option. given (dict): keyword to value; None
            is left out.
    Returns:
        list of str.
    Raises:
        TypeError: there is no such keyword. ValueError: a switch is neither True nor False.
    """
    found = []
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise TypeError('{}() has no {}; {}'.format(
                function, name, 'did you mean {}?'.format(near[0]) if near else 'it has ' + ', '.join(sorted(known))))
        if value is not None:
            found += _word(known[name].flag, name, value)
    return found


def _word(flag, name, value):
    if flag.check == SWITCH:
        if value not in (True, False):
            raise ValueError('{} {!r}: True or False'.format(name, value))
        return [flag.names[-1]] if value else [flag.off[0]] if flag.off else []
    text = ','.join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
    return ['{}={}'.format(flag.names[-1], text)]


def parse(flags):
    """The resolved flags of ``main.py --eval FLAGS`` (list of str); raises as ``in_words``."""
    with in_words():
        return parse_args(['--eval', *flags])


@contextlib.contextmanager
def in_words():
    """Meanwhile what would end a program raises ValueError, with keywords in place of flags."""
    with raising():
        try:
            yield
        except ValueError as error:
            raise ValueError(_FLAG.sub(_keyword, str(error))) from None


def _keyword(found):
    for name, option in {**of_loading(), **of_evaluations()}.items():
        if found.group() in option.flag.names:
            return name
        if option.flag.off and found.group() == option.flag.off[0]:
            return name + '=False'
    return 'load' if found.group() == '--load' else found.group()
