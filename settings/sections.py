"""All sections together, and what is read from their fields."""
import dataclasses
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type

from settings import recipes
from settings.attack import Attack
from settings.data import Data, View
from settings.fields import Option, options_of, section_of, without_none
from settings.network import Network
from settings.run import Evaluation, Run
from settings.update import Schedule, Update


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that a command has decided.

    ``training_attack`` is None in commands that do not train.
    """
    data: Data
    network: Network
    view: View
    training_attack: Optional[Attack]
    evaluation_attack: Attack
    run: Run
    evaluation: Evaluation
    update: Update
    schedule: Schedule


# What every program reads the options from.
ALL: Type[Settings] = Settings


def sections() -> Dict[str, Type[Any]]:
    """Name to type of each section of ``ALL``."""
    return {field.name: without_none(field.type) for field in dataclasses.fields(ALL)}


def view_of(values: Mapping[str, Any]) -> View:
    """The view of a namespace (dict), of which no more need be decided."""
    view: View = section_of(sections()['view'], values)
    return view


def options() -> List[Option]:
    """The flags of ``main.py``, each once, in the order of the sections and of their fields."""
    decided = recipes.names()
    return [option._replace(late=option.late or option.dest in decided)
            for section in dict.fromkeys(sections().values()) for option in options_of(section)]


def fixing_a_run() -> Tuple[str, ...]:
    """Names of the values that a resumed run must share with the run it continues."""
    return tuple(option.dest for option in options() if option.fixes_run)


def deciding_verdicts() -> Tuple[str, ...]:
    """Names of the values that decide an evaluation's verdicts, beside checkpoint, data and attacks."""
    return tuple(option.dest for option in options() if option.decides_verdict)


def served() -> List[Option]:
    """The options that a data server has too."""
    return [option for option in options() if option.served]


def written() -> List[Option]:
    """The options that say what a network is, which the card beside its weights has."""
    return [option for option in options() if option.written]
