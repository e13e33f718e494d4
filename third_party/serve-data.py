#!/usr/bin/env python3
"""Data server of one machine: reads, augments and batches images in worker processes, and sends the batches to trainers.

The released programs (FD, SAT) have a server of this name with --data, --fake, --batch, --benchmark and --no-zmq-ops.

    .venv/bin/python third_party/serve-data.py --data /path/to/imagenet --batch 32
"""
import argparse
import logging
import os
import re
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C while the imports below run ends the program without a traceback
sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

try:
    from data import handshake, server
    from data.augment import AUGMENTATIONS, default_augmentation
    from data.folders import default_data, open_dataset
    from data.policies import POLICIES, describe_policy, make_policy
    from data.stream import FakeStream, TrainingStream, available_cores
    from data.synsets import synsets
    from ranks.command_line import OneLineParser
except ModuleNotFoundError as missing:
    sys.exit("serve-data: {} has no module {!r}; run `make setup`, then .venv/bin/python {}".format(
        sys.executable, missing.name, sys.argv[0]))

BENCHMARK_SECONDS, BENCHMARK_REPORT = 30.0, 5.0


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("{} must be at least 1".format(value))
    return value


def shard(text):
    """(I, N) of 'I/N'."""
    found = re.fullmatch(r'(\d+)/(\d+)', text)
    if not found or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError("{!r} is not I/N with 0 <= I < N".format(text))
    return int(found[1]), int(found[2])


def get_parser():
    parser = OneLineParser(prog='serve-data', allow_abbrev=False, description=(
        'Serve augmented training batches (uint8 BGR images, int32 labels) to the trainers of one machine.'))
    data = parser.add_argument_group('data')
    source = data.add_mutually_exclusive_group()
    source.add_argument('--data', metavar='FOLDER', help='root of the data set, with train/<class>/ inside '
                                                         '(default: SAT_DATA of the environment, else the embedded '
                                                         '32x32 digits)')
    source.add_argument('--fake', action='store_true', help='serve one constant batch for ever (default: off)')
    data.add_argument('--batch', type=positive, default=32, metavar='IMAGES',
                      help='images per batch; the same number as --batch of main.py (default: %(default)s)')
    data.add_argument('--input-size', type=positive, default=224, metavar='PIXELS',
                      help='side of the square images (default: %(default)s)')
    data.add_argument('--augmentation', choices=AUGMENTATIONS,
                      help='(default: none for the digits, cifar for inputs below 64 pixels, else imagenet; that of '
                           'EfficientNet is efficientnet)')
    data.add_argument('--augment-name', choices=POLICIES, metavar='POLICY',
                      help='{} after the augmentation (default: none)'.format(' or '.join(POLICIES)))
    data.add_argument('--randaug-num-layers', type=positive, metavar='N',
                      help='operations of randaugment on an image (default: 2)')
    data.add_argument('--randaug-magnitude', type=int, metavar='M',
                      help='strength of randaugment, of 10 (default: 10)')
    data.add_argument('--num-classes', type=positive, metavar='CLASSES',
                      help='refuse labels from here on (default: the number of classes found; 1000 with --fake)')
    data.add_argument('--seed', type=int, default=0,
                      help='seed of order and augmentation, 0 or more; as --seed of main.py (default: %(default)s)')
    data.add_argument('--shard', type=shard, default=(0, 1), metavar='I/N',
                      help='serve part I of N (from 0) of the images: give each machine its own I, and all the same N and '
                           '--seed; each needs as many ranks (default: all images)')
    server_group = parser.add_argument_group('server')
    server_group.add_argument('--address', metavar='URL', help='where trainers connect, ipc://@<name> or tcp://*:<port>; the '
                              'next port or <name>-info answers their questions (default: {})'.format(
                                  handshake.DEFAULT_ADDRESS.format('<batch>')))
    server_group.add_argument('--no-zmq-ops', action='store_true', help='no effect, as main.py --no-zmq-ops reads the '
                              'same messages in Python; the released programs have it (default: off)')
    server_group.add_argument('--workers', type=positive, metavar='PROCESSES',
                              help='(default: the cores available, at most {})'.format(server.MAX_WORKERS))
    server_group.add_argument('--hwm', type=positive, default=server.HWM, metavar='BATCHES',
                              help='batches that may wait for each trainer. At most 2 x workers + 3, and HWM + 1 for each '
                              'trainer, are in memory (default: %(default)s)')
    server_group.add_argument('--benchmark', action='store_true', help='measure for {:g} s how many images go to a '
                              'receiver on this machine, and where the time goes (default: off)'.format(BENCHMARK_SECONDS))
    return parser


def make_stream(args):
    """The stream to serve, and its description for trainers.

    Raises:
        ValueError: a flag or the data does not fit.
    """
    if not (args.data or args.fake):
        args.data = default_data()
    augmentation = args.augmentation or default_augmentation(args.data, args.input_size)
    policy = make_policy(args.augment_name, args.randaug_num_layers, args.randaug_magnitude)
    if args.fake:
        num_classes = args.num_classes or 1000
        stream = FakeStream(args.batch, args.input_size, num_classes)
        classes, num_images, name = [], args.batch, handshake.FAKE
        if num_classes == 1000:
            classes = synsets()
    else:
        dataset = open_dataset(args.data, 'train', args.num_classes)
        stream = TrainingStream(dataset, args.batch, args.input_size, augmentation, args.seed, policy,
                                args.shard)
        classes, num_images, name = dataset.classes, len(dataset.files), dataset.name
    return stream, {
        'batch': args.batch, 'input_size': args.input_size, 'dtype': 'uint8', 'channels': 'BGR', 'num_images': num_images,
        'shard': args.shard,
        'classes': classes, 'dataset': name, 'augmentation': augmentation, 'seed': args.seed, 'fake': args.fake,
        **describe_policy(policy)}


def benchmark(stream, args, workers):
    with server.Sink() as sink, server.WorkerPool(stream, workers) as pool:
        found = server.measure(pool, sink, args.batch, BENCHMARK_SECONDS, BENCHMARK_REPORT, lambda speed, seconds: print(
            "serve-data: {:.0f} images/s after {:.0f} s".format(speed, seconds), flush=True))
    cores = available_cores()
    print("serve-data: {:.0f} images/s, {:.0f} per core ({} workers, {} cores)".format(
        found.speed, found.speed / min(workers, cores), workers, cores))
    print("serve-data: ms per image: {}".format(', '.join(
        '{} {:.3f}'.format(*item) for item in found.milliseconds.items())), flush=True)


def run(args):
    address = args.address or handshake.default_data_address(args.batch)
    handshake.info_address(address)
    stream, description = make_stream(args)
    workers = args.workers or min(available_cores(), server.MAX_WORKERS)
    if args.benchmark:
        return benchmark(stream, args, workers)
    with server.WorkerPool(stream, workers) as pool:
        try:
            server.serve(pool, address, args.hwm, description, on_ready=lambda: print(
                "serve-data: ready at {}: {} ({} images, {} classes), batch {}, {} x {} pixels, augmentation {}, "
                "{} workers".format(address, description['dataset'], description['num_images'],
                                    len(description['classes']), args.batch, args.input_size, args.input_size,
                                    description['augmentation'], workers), flush=True))
        finally:
            if pool.unreadable:
                print("serve-data: {} of {} images could not be decoded and were left out".format(
                    len(pool.unreadable), description['num_images']), flush=True)


def main():
    args = get_parser().parse_args()
    logging.basicConfig(format='serve-data: %(levelname)s: %(message)s')
    server.stop_on_signals()
    try:
        run(args)
    except server.Stopped as stopped:
        return stopped.exit_code
    except ValueError as error:
        print("serve-data: {}".format(error), file=sys.stderr)
        return 2
    except (server.WorkerDied, server.AddressInUse) as error:
        print("serve-data: {}".format(error), file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
