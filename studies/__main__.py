"""The paper's studies: trains and judges the networks that each compares, and writes tables and plots.

    python -m studies activations gradients --data cifar10  # small: CIFAR-10, for days of a small machine
    python -m studies activations --scale full --data /data/imagenet  # the commands of a cluster, and GPU-hours
    python -m studies page  # tables, plots and docs/results.md from the cells that are filled
"""
import argparse
import os
import shlex
import sys
import tempfile

from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

from files import output_folders
from machine import programs
from ranks.command_line import OneLineParser, examples
from ranks.end import fail
from ranks.launched import launched_rank
from ranks.terminal import bar
from settings.checks import at_least
from studies import cluster, estimate, report
from studies.cells import in_order
from studies.places import Place, make_part
from studies.registry import STUDIES
from studies.running import Failed, Fill, core_sets
from studies.scales import SCALES

_PROGRAM = 'python -m studies'
_PAGE = 'page'
_KEPT = os.path.join(programs.ROOT, 'docs', 'results')


def get_parser():
    parser = OneLineParser(prog=programs.name(_PROGRAM), allow_abbrev=False,
                           formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__.split('\n')[0],
                           epilog=examples(__doc__))
    parser.add_argument('names', nargs='+', choices=[*STUDIES, _PAGE], metavar='NAME', help='; '.join(
        '{}: {}'.format(study.name, study.question) for study in STUDIES.values()) + '; {}: no cell is filled'.format(
            _PAGE))
    parser.add_argument('--scale', choices=list(SCALES), default='small', help='; '.join(
        '{}: {}'.format(scale.name, scale.data) for scale in SCALES.values()) + ' (default: %(default)s)')
    parser.add_argument('--data', metavar='DIR', help='the images')
    parser.add_argument('--arms', metavar='NAME,NAME,...', help='fill only the cells of these arms of the studies '
                        '(default: of all)')
    parser.add_argument('--seeds', type=at_least(1), metavar='N', help='of every arm (default: 3 or 1, by the arm)')
    parser.add_argument('--at-once', type=at_least(1), metavar='N', help='cells at the same time, each on its part of '
                        'the cores; figures depend on the cores of a cell in their last bits (default: one for each '
                        'core; with --scale full 1)')
    parser.add_argument('--run', action='store_true', help='with --scale full: run the commands, on this machine, '
                        'instead of printing them')
    parser.add_argument('--launcher', default='mpirun -np {}', metavar='WORDS', help='before a command of several '
                        'ranks, with {} for their number (default: %(default)s)')
    parser.add_argument('--images-per-second', type=float, metavar='N', help='with --scale full: of one GPU in a step '
                        'of the first network, as benchmarks/train_speed.py measured it there; without it a step is '
                        'measured here')
    parser.add_argument('--work', default='studies_log', metavar='DIR', help='trainings and logs, to go on with '
                        '(default: %(default)s)')
    parser.add_argument('--results', default=_KEPT, metavar='DIR', help='filled cells, tables and plots; the page is '
                        "written beside it (default: the checkout's docs/results)")
    return parser


def main(argv=None):
    sys.argv[0] = programs.name(_PROGRAM)  # as errors and usage name the program
    parser = get_parser()
    args = parser.parse_args(argv)
    if launched_rank() is not None:
        fail('starts the ranks itself: give it --launcher', launched_rank())
    if args.names != [_PAGE] and args.data is None:
        parser.error('--data: which images? {}'.format(SCALES[args.scale].data))
    if SCALES[args.scale].ranks == 1 and (args.run or args.images_per_second):
        parser.error('--run, --images-per-second: they are of --scale full; other scales run at once')
    try:
        if _PAGE not in args.names:
            _study(args)
        else:
            _tabulate(args, STUDIES.values(), SCALES.values())
    except (ValueError, OSError, Failed) as error:
        fail(error, 0)
    except KeyboardInterrupt:
        fail('stopped; the same command goes on from here', 0, 130)


def _study(args):
    scale = SCALES[args.scale]
    studies = [STUDIES[name] for name in args.names]
    place = Place(args.data, args.work, args.results, tuple(shlex.split(args.launcher)))
    cells = in_order(_cells(studies, scale, args))
    if scale.ranks > 1 and not args.run:
        _print_commands(args, cells, scale, place)
        return
    os.makedirs(args.work, exist_ok=True)
    with output_folders.locked(args.work, 'give another --work'):
        if scale.ranks == 1:
            make_part(place)
        _fill(args, cells, scale, place)
    _tabulate(args, studies, [scale])


def _cells(studies, scale, args):
    scales = [study.scaled(scale) for study in studies]
    rows = [study.rows(own, args.seeds) for study, own in zip(studies, scales)]
    known = list(dict.fromkeys(arm.name for of_study in rows for arm, _, _ in of_study))
    wanted = known if args.arms is None else args.arms.split(',')
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError("--arms: '{}' is none of the arms of {}: {}".format(
            unknown[0], ' and '.join(args.names), ', '.join(known)))
    return [cell for study, own, of_study in zip(studies, scales, rows)
            for cell in (*study.others(own), *(cell for arm, _, cell in of_study if arm.name in wanted))]


def _fill(args, cells, scale, place):
    at_once = args.at_once or (len(os.sched_getaffinity(0)) if scale.ranks == 1 else 1)
    fill = Fill(place, cells)
    speeds = estimate.Speeds(os.path.join(args.work, 'speeds.json'), scale, core_sets(at_once)[0], _say)
    seconds = {cell.name: cell.passes * speeds.of(cell) for cell in fill.todo}
    _say('{} of {} cells are to be filled: about {}, {} at once'.format(
        len(fill.todo), len(cells), estimate.in_words(sum(seconds.values()) / at_once), at_once))
    with bar(round(sum(seconds.values())), ' '.join(args.names)) as progress:
        fill.run(at_once, lambda: _show(progress, fill, seconds))


def _show(progress, fill, seconds):
    progress.update(round(sum(seconds[cell.name] * fill.done(cell) for cell in fill.todo)) - progress.n)


def _print_commands(args, cells, scale, place):
    todo = Fill(place, cells).todo
    _say('\n'.join(cluster.commands(todo, scale, place)))
    with tempfile.TemporaryDirectory() as folder:
        speeds = estimate.Speeds(os.path.join(folder, 'speeds'), scale, core_sets(1)[0], lambda text: _say('# ' + text))
        _say('# ' + cluster.hours(todo, scale, speeds.of, args.images_per_second))


def _tabulate(args, studies, scales):
    place = Place('', args.work, args.results)
    for study in studies:
        for scale in scales:
            text = report.write(study, scale, place)
            if text:
                print('\n' + text)
    print('{} is written anew'.format(report.write_page(place)))


def _say(text):
    print(text, flush=True)


if __name__ == '__main__':
    main()
