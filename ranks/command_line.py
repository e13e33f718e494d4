"""Command lines of programs that may run as several ranks: a mistake is one line of the first one."""
import argparse
from typing import Any, Callable, Dict, List, NoReturn

from ranks.end import fail
from ranks.launched import launched_rank


class OneLineParser(argparse.ArgumentParser):
    """Complains of a command line in one line, on the first rank only."""

    def error(self, message: str) -> NoReturn:
        fail(message, launched_rank() or 0)


def mode_parser(program: str, mode: Callable[..., Any]) -> OneLineParser:
    """The parser of one of a program's modes, a function that its docstring describes."""
    return OneLineParser(prog=program, description=mode.__doc__, allow_abbrev=False)


def run_mode(modes: Dict[str, Callable[[List[str]], Any]], description: str, argv: List[str]) -> Any:
    """Run the mode that ``argv`` begins with, on what follows in it.

    Args:
        modes (dict): name to function (list of str) -> exit code. description (str): its first line is the program's.
    Returns:
        what the mode returns.
    """
    parser = OneLineParser(description=description.split('\n')[0], allow_abbrev=False, epilog=' '.join(
        '{}: {}'.format(name, mode.__doc__) for name, mode in modes.items()))
    parser.add_argument('mode', choices=modes, help='`MODE --help` lists its flags')
    return modes[parser.parse_args(argv[:1]).mode](argv[1:])
