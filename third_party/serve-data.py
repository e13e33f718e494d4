#!/usr/bin/env python3
"""Data server of one machine: reads, augments and batches images in worker processes, and sends the batches to
trainers.

The released programs (FD, SAT) have a server of this name with --data, --fake, --batch, --benchmark and --no-zmq-ops.

    python third_party/serve-data.py --data /path/to/imagenet --batch 32
    python third_party/serve-data.py --data cifar10 --batch 64 --input-size 32
    python third_party/serve-data.py --data /path/to/imagenet --shard 0/2
"""
import logging
import signal
import sys

# A Ctrl-C while the imports below run ends the program without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

try:
    from data import handshake
    from data.addresses import AddressInUse
    from data.folders import default_data, open_dataset
    from data.policies import POLICIES
    from data.processes import Stopped, stop_on_signals
    from data.server import MAX_WORKERS, serve
    from data.stream import FakeStream, TrainingStream, available_cores
    from data.synsets import synsets
    from data.throughput import Sink, measure
    from data.views import AUGMENTATIONS, default_augmentation, settled
    from data.workers import WorkerDied, WorkerPool
    from machine import programs
    from ranks.command_line import OneLineParser, OneScreen, examples, helped
    from settings import flags, sections, serving
except ModuleNotFoundError as missing:
    sys.exit("serve-data: {} has no module {!r}; run `make setup`, then .venv/bin/python {}".format(
        sys.executable, missing.name, sys.argv[0]))

NAME = 'serve-data'
BENCHMARK_REPORT = 5.0  # seconds


def get_parser():
    return helped(_parser)


def _parser(typed):
    """See ``ranks.command_line.Maker``."""
    parser = OneLineParser(
        prog=programs.name(NAME), allow_abbrev=False, add_help=False, epilog=examples(__doc__),
        formatter_class=OneScreen,
        description='Serve augmented training batches, uint8 BGR images, to trainers.')
    options = serving.data_server_options()
    flags.add(parser, options if typed is None else flags.most_used(options), {
        'augmentations': flags.Named(AUGMENTATIONS), 'policies': flags.Named(POLICIES)},
              told={'workers': str(MAX_WORKERS)})
    return parser


def make_stream(args):
    """The stream to serve, and its description for trainers.

    Raises:
        ValueError: a flag or the data does not fit.
    """
    if not (args.data or args.fake):
        args.data = default_data()
    args.augmentation = args.augmentation or default_augmentation(args.data, args.input_size)
    view = settled(sections.view_of(vars(args)))
    if args.fake:
        num_classes = args.num_classes or 1000
        stream = FakeStream(args.batch, view.input_size, num_classes)
        classes, num_images, name = [], args.batch, handshake.FAKE
        if num_classes == 1000:
            classes = synsets()
    else:
        dataset = open_dataset(args.data, 'train', args.num_classes)
        stream = TrainingStream(dataset, args.batch, view, args.seed, args.shard)
        classes, num_images, name = dataset.classes, len(dataset.files), dataset.name
    told = {**vars(args), **vars(view)}
    return stream, {
        **{field: told[field] for field in serving.described()}, 'dtype': 'uint8', 'channels': 'BGR',
        'num_images': num_images, 'shard': args.shard, 'classes': classes, 'dataset': name}


def benchmark(stream, args, workers):
    with Sink() as sink, WorkerPool(stream, workers) as pool:
        found = measure(
            pool, sink, args.batch, serving.BENCHMARK_SECONDS, BENCHMARK_REPORT, lambda speed, seconds: say(
                "{:.0f} images/s after {:.0f} s".format(speed, seconds)))
    cores = available_cores()
    say("{:.0f} images/s, {:.0f} per core ({} workers, {} cores)".format(
        found.speed, found.speed / min(workers, cores), workers, cores))
    say("ms per image: {}".format(', '.join('{} {:.3f}'.format(*item) for item in found.milliseconds.items())))


def run(args):
    address = args.address or handshake.default_data_address(args.batch)
    handshake.info_address(address)
    stream, description = make_stream(args)
    workers = args.workers or min(available_cores(), MAX_WORKERS)
    if args.benchmark:
        return benchmark(stream, args, workers)
    with WorkerPool(stream, workers) as pool:
        try:
            serve(pool, address, args.hwm, description, on_ready=lambda: say(
                "ready at {}: {} ({} images, {} classes), batch {}, {} x {} pixels, augmentation {}, {} workers".format(
                    address, description['dataset'], description['num_images'], len(description['classes']), args.batch,
                    args.input_size, args.input_size, description['augmentation'], workers)))
        finally:
            if pool.unreadable:
                say("{} of {} images could not be decoded and were left out".format(
                    len(pool.unreadable), description['num_images']))


def say(text, file=None):
    """A line on stdout, or another file, under the program's name."""
    print('{}: {}'.format(programs.name(NAME), text), file=file, flush=True)


def main(argv=None):
    args = get_parser().parse_args(argv)
    logging.basicConfig(format=programs.name(NAME) + ': %(levelname)s: %(message)s')
    stop_on_signals()
    try:
        run(args)
    except Stopped as stopped:
        return stopped.exit_code
    except ValueError as error:
        say(error, sys.stderr)
        return 2
    except (WorkerDied, AddressInUse) as error:
        say(error, sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
