"""What is said of a command line of ``main.py`` before TensorFlow is imported, which takes seconds."""
import collections

from machine.names_only import HELP, names_only_for_help
from ranks.command_line import OneLineParser
from settings import flags, sections


def first_look(argv):
    """Make a help quick; else refuse, in one line, a flag that is none and a value that is no number. Words that the
    libraries' modules know are left to ``parse_args``.

    Args:
        argv (list of str).
    """
    names_only_for_help(argv)
    _parser().parse_args(argv)


def load_flag_first(argv):
    """A command line of which one word belongs to no flag, as one in which that is the value of --load; another one as
    it is.

    Args:
        argv (list of str).
    Returns:
        list of str.
    """
    parser = _parser()
    found, rest = parser.parse_known_args(argv)
    if found.load is None and len(rest) == 1 and not rest[0].startswith('-'):
        for place, word in enumerate(argv):
            others = argv[:place] + argv[place + 1:]
            if word == rest[0] and not parser.parse_known_args(others)[1]:
                return ['--load', word] + others
    return argv


def _parser():
    parser = OneLineParser(allow_abbrev=False, add_help=False)
    parser.add_argument(*HELP, dest='help', action='store_true')
    flags.add(parser, sections.options(), collections.defaultdict(lambda: flags.Named(())))
    return parser
