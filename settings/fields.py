"""One option, one place: a field of a dataclass, which carries all that is known of its flags.

    label_smoothing: float = option(
        '--label-smoothing', TRAINED, "(default: the recipe's, 0.1)", check=probability, unit='S', fixes_run=True)

The parsers, the recipes, the refusals, what resumed runs and evaluations must share, and what trainers and data servers
tell each other are read from the fields; nothing else lists options.
"""
import dataclasses
import typing
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, NoReturn, Optional, Tuple, Type, Union

# How a value is read: a function of the typed text, for argparse; SWITCH; the words to choose from; or the name of a
# table whose owner hands it to ``flags.add``. None: any text.
SWITCH = 'switch'
Check = Union[Callable[[str], object], Tuple[str, ...], str, None]

# A written value that must be a word of the option's table; see ``option``.
WORD = 'word'
Written = Union[Callable[[Any, str], Any], str, None]

# When a trainer refuses a data server of another value: always, where it is not constant data, or where it is not
# constant data and the command does not leave its images to the server. None: never by this name.
ALWAYS, OF_IMAGES, OF_VIEW = 'always', 'of images', 'of the view'

_KEY = 'option'
_NEEDED = object()


@dataclasses.dataclass(frozen=True)
class Flag:
    """How an option is typed. See ``option`` for the arguments; of ``names`` the last one is that of messages."""
    names: Tuple[str, ...]
    modes: Tuple[str, ...]
    help: str
    check: Check = None
    unit: Optional[str] = None
    group: Optional[str] = None
    told: Optional[str] = None
    off: Optional[Tuple[str, str]] = None
    excludes: Optional[str] = None
    instead: Mapping[str, str] = dataclasses.field(default_factory=dict)
    alone: Optional[str] = None
    adds: bool = False
    brief: Optional[str] = None
    called: Tuple[str, ...] = ()
    meant: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def dest(self) -> str:
        """Name of its value in the namespace that argparse makes."""
        return self.names[-1].lstrip('-').replace('-', '_')


@dataclasses.dataclass(frozen=True)
class Served:
    """What a data server has of an option.

    Attributes:
        help (str): of its own flag. check, unit, default: likewise.
        wire: check (``files.typed``) of the value in its description, which has the option's name; None: the
            description does not have it by this name. compared: ALWAYS, OF_IMAGES, OF_VIEW or None, see there.
        maybe (bool): a description may lack it.
        excludes (str): name of the group of flags of which only one may be typed. brief (str): see ``option``.
    """
    help: str
    check: Check = None
    unit: Optional[str] = None
    default: Any = None
    wire: Optional[Callable[[Any, str], Any]] = None
    compared: Optional[str] = None
    maybe: bool = False
    excludes: Optional[str] = None
    brief: Optional[str] = None


class Option(NamedTuple):
    """A flag of a field.

    field (str): the field's name in its section. kind: type of its values, but for None. default: of the parser.
    late (bool): the default is filled in after parsing, because a recipe may go before it, or what else is decided must
    know whether the flag was given.
    """
    field: str
    kind: Any
    flag: Flag
    default: Any
    late: bool
    fixes_run: bool
    decides_verdict: bool
    served: Optional[Served]
    written: Written

    @property
    def dest(self) -> str:
        """Name of its value in the namespace that argparse makes."""
        return self.flag.dest


@dataclasses.dataclass(frozen=True)
class _Spec:
    flag: Flag
    judging: Optional[Flag]
    default: Any
    late: bool
    shared: bool
    fixes_run: bool
    decides_verdict: bool
    served: Optional[Served]
    written: Written


def option(names: Union[str, Tuple[str, ...]], modes: Tuple[str, ...], help: str, *, default: Any = _NEEDED,
           late: bool = False, judging: Optional[Flag] = None, shared: bool = False, fixes_run: bool = False,
           decides_verdict: bool = False, served: Optional[Served] = None, written: Written = None,
           **flag: Any) -> Any:
    """A field of a section.

    Args:
        names (str or tuple): the flag; among several the long one comes last.
        modes (tuple): of ``settings.modes``, in which it means something; elsewhere a typed flag is refused.
        help (str): as of argparse. ``{names}`` and ``{either}`` stand for the words of its table, with commas or 'or',
            ``{explained}`` for what the table says of each, ``{told}`` for ``told``.
        default: of the flag; left out where a recipe, the network or another option decides it.
        late (bool): see ``Option``.
        judging (Flag): of an attack, the flag of the evaluations during training, beside that of the training.
        shared (bool): of an attack, those evaluations have the training's value.
        fixes_run (bool): ``--resume`` refuses another value. decides_verdict (bool): ``--resume-eval`` does.
        served (Served): the data server has it too.
        written: the card beside a checkpoint has it, because it says what the network is: the check
            (``files.typed``) of a card's value, or WORD.
        flag: of ``Flag``. check: see ``Check``. unit (str): of the value, as --help shows it. group (str): of the
            help, where it is not the section's. told (str): for the help, see there. off: the flag that switches a
            SWITCH off, and its help. excludes (str): name of a group of flags of which only one may be typed.
            instead (dict): mode to what to type there instead. alone (str): the text that the flag stands for where no
            value follows it; None: it needs one. adds (bool): typed again, it adds to the tuple. brief (str): help in a
            line or two; a flag that has it is of the most used, which the help of one screen shows. called (tuple):
            other names that the field has for the flag, in lower case with - for _. meant (dict): likewise for its
            values, regular expressions, to what to type behind the flag, in which {0} is the expression's first group.
            Neither is accepted; both are told to who types them.
    """
    names = (names,) if isinstance(names, str) else names
    spec = _Spec(Flag(names, modes, help, **flag), judging, None if default is _NEEDED else default, late, shared,
                 fixes_run, decides_verdict, served, written)
    if default is not _NEEDED:
        return dataclasses.field(default=default, metadata={_KEY: spec})

    def missing() -> NoReturn:
        raise TypeError('{} has no value'.format(names[-1]))
    return dataclasses.field(default_factory=missing, metadata={_KEY: spec})


def without_none(kind: Any) -> Any:
    """T of Optional[T], and what else there is as it is."""
    parts = typing.get_args(kind)
    return next(part for part in parts if part is not type(None)) if type(None) in parts else kind


def _specs(section: Type[Any]) -> Dict[str, _Spec]:
    return {field.name: field.metadata[_KEY] for field in dataclasses.fields(section) if _KEY in field.metadata}


def options_of(section: Type[Any]) -> List[Option]:
    """The flags of a section, a dataclass with a ``GROUP``, in the order of its fields."""
    found, kinds = [], {field.name: without_none(field.type) for field in dataclasses.fields(section)}
    for name, spec in _specs(section).items():
        own = spec.flag if spec.flag.group else dataclasses.replace(spec.flag, group=section.GROUP)
        found.append(Option(name, kinds[name], own, spec.default, spec.late, spec.fixes_run, spec.decides_verdict,
                            spec.served, spec.written))
    return found + [Option(name, kinds[name], spec.judging, None, False, False, False, None, None)
                    for name, spec in _specs(section).items() if spec.judging]


def section_of(section: Type[Any], values: Mapping[str, Any], mode: Optional[str] = None) -> Any:
    """A section with the values of a namespace, by the first flag of each field.

    Args:
        values (dict): of the namespace; may lack fields that have a default.
        mode (str): what means nothing in it has its default; None: take every value.
    """
    return section(**{name: values[spec.flag.dest] for name, spec in _specs(section).items()
                      if spec.flag.dest in values and (mode is None or mode in spec.flag.modes)})


def for_evaluations(attack: Any, values: Mapping[str, Any]) -> Any:
    """The attack of the evaluations during training: what has a flag of its own there or is ``shared``; else defaults.

    Args:
        attack: of the training. values (dict): of the namespace.
    """
    specs = _specs(type(attack))
    return type(attack)(**{name: values[spec.judging.dest] for name, spec in specs.items() if spec.judging},
                        **{name: getattr(attack, name) for name, spec in specs.items() if spec.shared})
