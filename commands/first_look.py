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
    parser = OneLineParser(allow_abbrev=False, add_help=False)
    parser.add_argument(*HELP, dest='help', action='store_true')
    flags.add(parser, sections.options(), collections.defaultdict(lambda: flags.Named(())))
    parser.parse_args(argv)
