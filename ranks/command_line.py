"""Command lines of programs that may run as several ranks: a mistake is one line of the first one, which says what was
meant; the help is one screen, and all of it where that is asked for."""
import argparse
from typing import Any, Callable, Dict, List, NamedTuple, NoReturn, Optional, Sequence

from machine import programs
from ranks.end import fail
from ranks.launched import launched_rank
from settings import flags
from settings.nearest import did_you_mean


class OneLineParser(argparse.ArgumentParser):
    """Complains of a command line in one line, on the first rank only, and names what is spelt nearly like a mistake."""

    def error(self, message: str) -> NoReturn:
        fail(message, launched_rank() or 0)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            name = next((word.split('=')[0] for word in rest if word.startswith('-')), None)
            self.error('unrecognized arguments: {}{}'.format(' '.join(rest), '' if name is None else did_you_mean(
                name, self._option_string_actions, flags.others_names(self._option_string_actions))))
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            raise argparse.ArgumentError(action, error.message + did_you_mean(str(value), map(
                str, action.choices or ())))


class _Help(argparse.Action):
    """Prints what ``text`` makes of the flags before it, and ends the program."""

    def __init__(self, option_strings: Sequence[str], dest: str, text: Callable[[argparse.Namespace], str],
                 help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self._text = text

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: Optional[str] = None) -> None:
        print(self._text(namespace), end='')
        parser.exit()


# A parser without help: of all flags, or of those that the help of one screen shows where these were typed.
Maker = Callable[[Optional[argparse.Namespace]], OneLineParser]


def helped(make: Maker) -> OneLineParser:
    """The parser of all flags, with ``-h`` for one screen of them and ``--help-all`` for all."""
    parser = make(None)
    parser.add_argument('-h', '--help', action=_Help, text=lambda args: make(args).format_help(),
                        help='the most-used flags, with examples')
    parser.add_argument('--help-all', dest='help', action=_Help, text=lambda args: parser.format_help(),
                        help='all flags')
    return parser


class Mode(NamedTuple):
    """One of a program's modes. run: of its parser and of what is typed behind the mode; the docstring describes it.
    fill: adds flags to a parser, all or (True) those that the help of one screen shows."""
    run: Callable[[OneLineParser, List[str]], Any]
    fill: Callable[[OneLineParser, bool], None]


def mode_parser(program: str, name: str, mode: Mode) -> OneLineParser:
    """The parser of a mode of the program that calls itself ``program``."""
    def make(typed: Optional[argparse.Namespace]) -> OneLineParser:
        parser = OneLineParser(
            prog='{} {}'.format(programs.name(program), name), description=mode.run.__doc__, allow_abbrev=False,
            add_help=False, epilog=None if typed is None else '--help-all: all flags')
        mode.fill(parser, typed is not None)
        return parser
    return helped(make)


def run_mode(program: str, modes: Dict[str, Mode], description: str, argv: List[str]) -> Any:
    """Run the mode that ``argv`` begins with, on what follows in it.

    Args:
        program (str): as the program calls itself. description (str): its first line is the program's, its indented
            ones are examples.
    Returns:
        what the mode returns.
    """
    text, _, examples = description.partition('\n\n')
    lines = ['{:<12} {}'.format(name, (mode.run.__doc__ or '').split('\n')[0]) for name, mode in modes.items()]
    parser = OneLineParser(
        prog=programs.name(program), description=text.split('\n')[0], allow_abbrev=False, add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog='\n'.join(lines))
    parser.add_argument('mode', choices=modes, help='`MODE --help` lists its flags')
    parser.add_argument('-h', '--help', '--help-all', action='help', help='this')
    name = parser.parse_args(argv[:1]).mode
    return modes[name].run(mode_parser(program, name, modes[name]), argv[1:])
