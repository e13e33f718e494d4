"""Command lines from the options: parsers, and the refusal of flags that mean nothing in a mode."""
import argparse
import dataclasses
from typing import Any, Callable, Container, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence

from settings import sections, serving
from settings.fields import SWITCH, Flag, Option
from settings.modes import DIRECTORY, EVAL, FAKE, SERVED, TRAINING
from settings.nearest import did_you_mean

# Groups of the help, in their order; others follow.
GROUPS = {
    'run': None, 'data': None,
    'attacker': 'of the training, or with --eval of the evaluation; lengths in pixel levels, 0-255: 4 or 4/255; below '
                '0.5 in Linf as 0.3px',
    'evaluation attacker': None, 'update': None, 'architecture': None}
_UNSET = object()


class Named(NamedTuple):
    """Words that an option may be. words: read anew for each parser. parse: text to value, where a word is not all of
    it; it raises ``argparse.ArgumentTypeError``. explain: word to what --help says of it, or ''."""
    words: Iterable[str]
    parse: Optional[Callable[[str], str]] = None
    explain: Optional[Callable[[str], str]] = None


Tables = Mapping[str, Named]


def add(parser: argparse.ArgumentParser, options: Sequence[Option], tables: Tables,
        defaults: Mapping[str, Any] = {}, told: Mapping[str, str] = {}, described: bool = True) -> None:
    """Add the flags of ``options`` to a parser.

    Args:
        tables (dict): name of a ``Check`` to what it may be. defaults (dict): by destination, other ones than the
            options' own. told (dict): by destination, for the help, likewise. described (bool): whether the help says
            more of a group than its name.
    """
    wanted = list(dict.fromkeys(str(option.flag.group) for option in options))
    exclusive: Dict[str, Any] = {}
    for title in sorted(wanted, key=lambda title: list(GROUPS).index(title) if title in GROUPS else len(GROUPS)):
        group = parser.add_argument_group(title, GROUPS.get(title) if described else None)
        for option in options:
            if option.flag.group != title:
                continue
            place: Any = group
            if option.flag.excludes:
                if option.flag.excludes not in exclusive:
                    exclusive[option.flag.excludes] = group.add_mutually_exclusive_group()
                place = exclusive[option.flag.excludes]
            default = defaults.get(option.dest, None if option.late else option.default)
            add_flag(place, option.flag, tables, default, told.get(option.dest, option.flag.told))


def most_used(options: Sequence[Option], modes: Optional[Sequence[str]] = None) -> List[Option]:
    """Of ``options`` those of the help of one screen, with its words; of some modes, or (None) of all."""
    return [option._replace(flag=dataclasses.replace(
        option.flag, names=option.flag.names[:1], help=option.flag.brief, off=None, unit=option.flag.unit or (
            None if option.flag.check in (None, SWITCH) or callable(option.flag.check) else 'NAME')))
        for option in options if option.flag.brief and (modes is None or set(modes) & set(option.flag.modes))]


def others_names(known: Container[str]) -> Dict[str, str]:
    """What the field calls the flags of a parser: its name there to that of the flag, one of ``known``."""
    return {name: option.flag.names[-1] for option in [*sections.options(), *serving.data_server_options()]
            for name in option.flag.called if option.flag.names[-1] in known}


def add_flag(place: Any, flag: Flag, tables: Tables, default: Any, told: Optional[str] = None) -> None:
    """Add one flag to a parser or a group of one; see ``add``."""
    words = _words(flag, tables)
    table = tables.get(flag.check) if isinstance(flag.check, str) else None
    said = {word: table.explain(word) for word in words} if table and table.explain else {}
    shown = flag.help.format(names=', '.join(words), either=' or '.join(words), told=told, explained='; '.join(
        '{}: {}'.format(word, text) for word, text in said.items() if text))
    if flag.check == SWITCH:
        place.add_argument(*flag.names, dest=flag.dest, action='store_true', default=default, help=shown)
        if flag.off:
            place.add_argument(flag.off[0], dest=flag.dest, action='store_false', help=flag.off[1])
        return
    parse = tables[flag.check].parse if isinstance(flag.check, str) else flag.check
    chosen = parse is None or isinstance(parse, tuple)
    if words:
        parse = _word_of(flag, words, None if chosen else parse)
    place.add_argument(*flag.names, type=None if isinstance(parse, tuple) else parse,
                       choices=words or None if chosen else None, default=default, metavar=flag.unit, help=shown,
                       const=flag.alone, nargs=None if flag.alone is None else '?',
                       action=_Add if flag.adds else 'store')


class _Add(argparse.Action):
    """What is typed again comes to what was typed before; tuples."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        before = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, tuple(dict.fromkeys((*(before if isinstance(before, tuple) else ()), *values))))


def _word_of(flag: Flag, words: Sequence[str], parse: Any) -> Callable[[str], Any]:
    """``parse``, or (None) the text itself if it is of ``words``; a mistake is told with what was meant."""
    def parsed(text: str) -> Any:
        try:
            if parse:
                return parse(text)
            if text not in words:
                raise argparse.ArgumentTypeError("invalid choice: '{}' (choose from {})".format(
                    text, ', '.join("'{}'".format(word) for word in words)))
            return text
        except argparse.ArgumentTypeError as error:
            # In what is more than a word the mistake may be in the rest.
            known = parse and text.split(':')[0].lower() in map(str.lower, words)
            raise argparse.ArgumentTypeError(str(error) + ('' if known else did_you_mean(text, words, flag.meant)))
    return parsed


def _words(flag: Flag, tables: Tables) -> List[str]:
    if isinstance(flag.check, tuple):
        return list(flag.check)
    return list(tables[flag.check].words) if isinstance(flag.check, str) and flag.check != SWITCH else []


def typed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> Dict[str, Any]:
    """What ``argv`` itself sets, also to a flag's default: destinations to values."""
    unset = dict.fromkeys(vars(parser.parse_args([])), _UNSET)
    known = argparse.Namespace(**unset)  # defaults replace nothing
    return {name: value for name, value in vars(parser.parse_args(argv, known)).items() if value is not _UNSET}


def spelling(dest: str, value: Any) -> str:
    """The flag that set a destination to ``value``, as it is typed."""
    flag = {option.dest: option.flag for option in sections.options()}[dest]
    return flag.off[0] if flag.off and value is False else flag.names[-1]


def refusal(given: Mapping[str, Any], modes: Sequence[str]) -> Optional[str]:
    """Why flags mean nothing in a command, in a line, or None.

    Args:
        given (dict): see ``typed``. modes: see ``modes_of``.
    """
    flags = {option.dest: option.flag for option in sections.options()}
    for name, value in given.items():
        wanted = flags[name].modes
        if not set(modes) & set(wanted):
            here = modes[0] if SERVED not in wanted or modes[0] in (EVAL, DIRECTORY) else \
                'a process that reads or makes its images itself; --serve-address names a server'
            shown = [mode for mode in wanted if mode != FAKE or TRAINING not in wanted]
            instead = flags[name].instead.get(modes[0])
            return '{} is for {}, not for {}; {}'.format(
                spelling(name, value), ' and '.join(shown), here,
                'type {}'.format(instead) if instead else 'leave it out')
    return None
