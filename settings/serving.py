"""What the data server alone is told, beside the options that are ``Served``."""
import dataclasses
from typing import Any, Callable, ClassVar, Dict, List, Mapping, Optional, Tuple

from settings import checks, sections
from settings.data import Data
from settings.fields import OF_IMAGES, SWITCH, Flag, Option, option, options_of

BENCHMARK_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Serving:
    """Flags of ``third_party/serve-data.py`` that no other program has; modes are those of ``main.py``, so none."""
    GROUP: ClassVar[str] = 'server'

    shard: Tuple[int, int] = option(
        '--shard', (), 'serve part I of N (from 0) of the images: give each machine its own I, and all the same N and '
        '--seed; each needs as many ranks (default: all images)', default=(0, 1), check=checks.shard, unit='I/N',
        group='data', brief='serve part I of N, on each of several machines another')
    address: Optional[str] = option(
        '--address', (), 'where trainers connect, ipc://@<name> or tcp://*:<port>; the next port or <name>-info '
        'answers their questions (default: ipc://@imagenet-train-b<batch>)', default=None, unit='URL',
        brief='where trainers connect (default: ipc://@imagenet-train-b<batch>)')
    no_zmq_ops: bool = option(
        '--no-zmq-ops', (), 'no effect, as main.py --no-zmq-ops reads the same messages in Python; the released '
        'programs have it (default: off)', default=False, check=SWITCH)
    workers: Optional[int] = option(
        '--workers', (), '(default: the cores available, at most {told})', default=None, check=checks.positive,
        unit='PROCESSES', brief='(default: the cores available, at most {told})',
        called=('--num-workers', '--processes', '--threads', '-j'))
    hwm: int = option(
        '--hwm', (), 'batches that may wait for each trainer. At most 2 x workers + 3, and HWM + 1 for each trainer, '
        'are in memory (default: %(default)s)', check=checks.positive, unit='BATCHES',
        default=150)  # FD and SAT, released code: on the sending side
    benchmark: bool = option(
        '--benchmark', (), 'measure for {:g} s how many images go to a receiver on this machine, and where the time '
        'goes (default: off)'.format(BENCHMARK_SECONDS), default=False, check=SWITCH,
        brief='measure how many images go out a second, and end')


def data_server_options() -> List[Option]:
    """The flags of ``third_party/serve-data.py``: those that ``main.py`` has too, in the server's words, and its own
    ones."""
    shared = []
    for shown in sections.served():
        served = shown.served
        assert served
        flag = Flag(shown.flag.names[-1:], (), served.help, served.check, served.unit, Data.GROUP,
                    excludes=served.excludes, brief=served.brief, called=shown.flag.called, meant=shown.flag.meant)
        shared.append(shown._replace(flag=flag, default=served.default, late=False))
    return shared + options_of(Serving)


def described() -> Dict[str, Callable[[Any, str], Any]]:
    """The options that stand in a data server's description, and the checks of what comes from another process."""
    return {option.dest: option.served.wire for option in sections.served() if option.served and option.served.wire}


def perhaps_described() -> Tuple[str, ...]:
    """Those of ``described`` that a description may lack."""
    return tuple(option.dest for option in sections.served() if option.served and option.served.maybe)


def compared(*when: str) -> Tuple[str, ...]:
    """Names of the described options that trainers compare then: ALWAYS, OF_IMAGES or OF_VIEW."""
    return tuple(option.dest for option in sections.served() if option.served and option.served.compared in when)


def flags_for(expected: Mapping[str, Any]) -> List[str]:
    """The flags of a data server that is as a trainer expects it (dict: option to value, where it expects any)."""
    words: List[str] = []
    for shown in sections.served():
        value, served = expected.get(shown.dest), shown.served
        if served and served.compared and value is not None and (
                served.compared != OF_IMAGES or value != served.default):
            words += [shown.flag.names[-1], str(value)]
    return words
