#!/usr/bin/env python
"""The published checkpoints: what there is, bringing it here, and whether a file fits its network.

    python model_zoo.py list                      # all models with their published figures
    python model_zoo.py list Res50-silu           # all about one: flags, files, addresses
    python model_zoo.py download Res50-silu R152  # into $SAT_ZOO, or else ~/.cache/sat-zoo
    python model_zoo.py verify Res50-silu         # are its names and shapes those of its network?
    python model_zoo.py verify my/checkpoint --arch ResNet -d 50 --activation-name silu
    python main.py --eval --load zoo:Res50-silu --data /path/to/imagenet
"""
import shlex
import sys

from machine.names_only import names_only_for_help
from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()
if __name__ == '__main__':
    names_only_for_help(sys.argv[1:])

try:
    from machine import programs
    from ranks.command_line import Mode, run_mode
    from zoo import published
except ModuleNotFoundError as missing:
    sys.exit("model_zoo.py: error: {} has no module '{}'; run `make setup`, then .venv/bin/python model_zoo.py".format(
        sys.executable, missing.name))

PROGRAM = 'model_zoo.py'
SHOWN = 20  # names of each kind in verify's report


def list_models(parser, argv):
    """All models and their published figures; with names, all about these."""
    args = parser.parse_args(argv)
    models = _find(args.names, parser)
    for line in [line for model in models for line in describe(model, args.dir)] or table():
        print(line)


def download(parser, argv):
    """Download models, each into a folder of its name; what is there is left as it is."""
    args = parser.parse_args(argv)
    models = _find(args.names, parser)
    from zoo.fetch import fetch
    code = 0
    for model in models:
        try:
            print('{}: {}'.format(model.name, fetch(model, args.dir, print)))
        except OSError as error:
            print('{}: error: {}'.format(programs.name(PROGRAM), error), file=sys.stderr)
            code = 2
    return code


def verify(parser, argv):
    """Compare the names and shapes in a checkpoint with those of its network; exit code 1 if they differ."""
    from commands.command_line import resolve_architecture
    from weights.find import find_checkpoint
    from weights.flags import parse_with_checkpoint
    from zoo.fetch import check_unchanged
    load = parser.parse_args(argv).checkpoint
    try:
        load = published.PREFIX + published.find(load).name
        if published.find(load).is_in(published.folder()):
            check_unchanged(published.find(load), published.folder())
    except OSError as error:
        parser.error(error)
    except ValueError as unknown:
        try:
            find_checkpoint(load)
        except ValueError:
            parser.error("'{}': no such checkpoint; {}".format(load, unknown))
    args = parse_with_checkpoint(parser, argv, load)
    resolve_architecture(args, parser)
    try:
        return report(load, args)
    except ValueError as error:
        parser.error(error)


def _add_names(nargs):
    def add(parser, brief):
        parser.add_argument('names', nargs=nargs, metavar='NAME')
        _add_folder(parser)
    return add


def _add_network(parser, brief):
    from commands.command_line import add_architecture_flags, add_averages_flag
    parser.add_argument('checkpoint', metavar='NAME|FILE', help='a downloaded model, whose flags are then the '
                                                                'defaults, or whatever --load of main.py takes')
    add_averages_flag(parser)
    add_architecture_flags(parser, brief=brief)


def _add_folder(parser):
    parser.add_argument('--dir', metavar='DIR', default=published.folder(),
                        help='folder of the downloaded models (default: ${}, else {})'.format(
                            published.FOLDER_VARIABLE, published.DEFAULT_FOLDER))


def _find(names, parser):
    try:
        return [published.find(name) for name in names]
    except ValueError as error:
        parser.error(error)


def table():
    """All models, a table for each release; lines of text."""
    for release in dict.fromkeys(model.release for model in published.MODELS):
        rows = [('name', 'pixels', 'clean', *(under.title for under in release.attacks), 'flags of main.py')]
        for model in published.MODELS:
            if model.release == release:
                rows += [_row(model, figures) for figures in model.figures or [None]]
        widths = [max(map(len, column)) for column in zip(*rows)]
        yield release.title
        for name, *numbers, flags in rows:
            yield '  '.join(['', name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:-1]), flags])
        if release.note:
            yield '  ' + release.note
        yield ''


def _row(model, figures):
    if figures is None:
        return model.name, *['-'] * (2 + len(model.release.attacks)), _flags(model)
    attacked = [_percent(figure) for figure in figures.attacked] or ['-'] * len(model.release.attacks)
    if figures.success:
        attacked = ['{} / {}'.format(a, _percent(s)) for a, s in zip(attacked, figures.success)]
    return model.name, str(figures.size), _percent(figures.clean), *attacked, _flags(model)


def _percent(figure):
    return '-' if figure is None else '{:.1f}'.format(figure)


def _flags(model):
    return 'none: a folder of models' if model.flags is None else shlex.join(model.flags + model.judged_flags)


def describe(model, folder):
    """All about one model; lines of text."""
    yield model.name
    yield '  from        {}; {}'.format(model.release.title, model.release.page)
    for figures in model.figures:
        _, size, clean, *attacked, _ = _row(model, figures)
        yield '  figures     {} pixels: clean {}, {}'.format(
            size, clean, ', '.join('{} {}'.format(under.title, figure) for under, figure in zip(
                model.release.attacks, attacked)))
    if model.epochs:
        yield '  trained     {} epochs'.format(model.epochs)
    if model.robustbench:
        yield '  RobustBench ' + model.robustbench
    yield '  flags       ' + _flags(model)
    if model.flags is not None:
        yield '  judge it    ' + programs.spelt('python main.py --eval --load {}{} --data DIR'.format(
            published.PREFIX, model.name))
    for file in model.files:
        yield '  file        {}  {}'.format(file.name, file.address)
    for page in model.pages:
        yield '  page        ' + page
    if model.flags is not None:
        yield '  downloaded  ' + (model.path(folder) if model.is_in(folder) else 'no')


def report(load, args):
    """Print how a checkpoint fits the network of resolved flags.

    Args:
        load (str): see ``find_checkpoint``. args: with ``moving_average_decay``.
    Returns:
        int: exit code, 0 if it fits.
    Raises:
        ValueError: not a readable checkpoint.
    """
    import tensorflow.compat.v1 as tf

    import nets
    from weights.find import open_checkpoint
    from weights.identity import describe, network_of_flags
    from weights.match import compare_variables
    from weights.stored import fault_of
    values = open_checkpoint(load)
    with tf.Graph().as_default():
        model = nets.ARCHITECTURES[args.arch].model(args)
        model.classify(tf.placeholder(tf.uint8, model.inputs()[0].shape))
        found = compare_variables(tf.global_variables(), values, args.moving_average_decay > 0)
    different = ['{}: {} in the network, {} in the checkpoint'.format(*each) for each in found.different]
    faults = {}
    for v, name in found.pairs:
        faults.setdefault(fault_of(values[name]), []).append(v.op.name)
    faults.pop(None, None)
    print('{}: {} of {} variables of {} fit'.format(
        load, len(found.pairs), len(found.pairs) + len(found.missing) + len(different), nets.network_name(args)))
    problems = {'missing in the checkpoint': found.missing, 'of another shape': different,
                'unknown to the network': found.extra, **faults}
    for problem, names in problems.items():
        if names:
            print('{} {}:'.format(len(names), problem))
            print('\n'.join('  ' + name for name in names[:SHOWN]))
            if len(names) > SHOWN:
                print('  and {} more'.format(len(names) - SHOWN))
    asked, held = network_of_flags(vars(args)), describe(values.shapes)
    if held and not held.is_same(asked):
        print('It is {}: {}'.format(held, ' '.join(held.flags(asked))))
    elif not held:
        print('These are variables of no network of this project')
    return int(any(problems.values()))


MODES = {'list': Mode(list_models, _add_names('*')), 'download': Mode(download, _add_names('+')),
         'verify': Mode(verify, _add_network)}


def main(argv=None):
    return run_mode(PROGRAM, MODES, __doc__, sys.argv[1:] if argv is None else list(argv))


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
