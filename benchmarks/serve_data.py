#!/usr/bin/env python
"""Images per second of the data server, against tensorpack's pipeline of the same augmentation with as many processes.

    .venv/bin/python benchmarks/serve_data.py --data /path/to/imagenet

Both are made anew for each measurement, in turn, and a process outside them receives their batches: through the server's
own socket, and out of tensorpack's PrefetchDataZMQ. Prints a Markdown table, as median (lowest to highest); the processor
time, of all processes of a pipeline, tells the two apart on a busy machine too.
"""
import argparse
import contextlib
import itertools
import json
import os
import secrets
import statistics
import subprocess
import sys
import time

import cv2
import numpy as np
import psutil
import zmq

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from third_party.imagenet_utils import available_cores, open_dataset

WARM_UP = 3.0  # seconds
MEASURED = 'measured:'  # begins the line with one measurement's result
PLAIN, SERVER = 'AugmentImageComponent + BatchData + PrefetchDataZMQ', 'serve-data.py'


def plain_batches(args):
    """The batches of tensorpack's pipeline, endless, with the augmentors that FD's list consists of."""
    from tensorpack.dataflow import (AugmentImageComponent, BatchData, DataFromList, MapData, PrefetchDataZMQ, RepeatedData,
                                     imgaug)
    from third_party.imagedata import augment
    dataset = open_dataset(args.data, 'train')
    colors = [imgaug.BrightnessScale(augment.BRIGHTNESS, clip=False), imgaug.Contrast(augment.CONTRAST, clip=False),
              imgaug.Saturation(0.4, rgb=False),
              imgaug.Lighting(augment.LIGHTING_STD, eigval=augment.LIGHTING_EIGENVALUES,
                              eigvec=augment.LIGHTING_EIGENVECTORS)]
    augmentors = [imgaug.GoogleNetRandomCropAndResize(interp=cv2.INTER_CUBIC, target_shape=args.input_size),
                  imgaug.RandomOrderAug(colors), imgaug.Flip(horiz=True)]
    flow = DataFromList(list(zip(dataset.files, dataset.labels)), shuffle=True)
    flow = MapData(flow, lambda sample: [cv2.imread(sample[0], cv2.IMREAD_COLOR), sample[1]])
    flow = BatchData(AugmentImageComponent(flow, augmentors, copy=False), args.batch)
    flow = PrefetchDataZMQ(RepeatedData(flow, -1), args.workers)
    flow.reset_state()
    return iter(flow)


def served_batches(args):
    """The batches of the data server, endless."""
    address = 'ipc://@benchmark-serve-data-' + secrets.token_hex(8)
    server = subprocess.Popen(
        [sys.executable, os.path.join(ROOT, 'third_party', 'serve-data.py'), '--data', args.data, '--augmentation', 'imagenet',
         '--batch', str(args.batch), '--input-size', str(args.input_size), '--workers', str(args.workers),
         '--address', address], stdout=subprocess.PIPE, text=True)
    try:
        if 'ready' not in server.stdout.readline():
            raise RuntimeError('the data server did not start')
        with zmq.Context() as context, context.socket(zmq.PULL) as pull:
            pull.rcvhwm = 1
            pull.connect(address)
            while True:
                yield pull.recv(copy=False)
    finally:
        server.terminate()
        server.wait()


def processor_time():
    """Seconds that this process and all that live below it have used."""
    this = psutil.Process()
    return sum(time.user + time.system for time in (
        process.cpu_times() for process in [this] + this.children(recursive=True)))


def measure(batches, args):
    """What comes out of an iterator after a warm-up: images per second, images per second of processor time."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < WARM_UP:
        next(batches)
    used, begin = processor_time(), time.perf_counter()
    for count in itertools.count(1):
        next(batches)
        seconds = time.perf_counter() - begin
        if seconds >= args.seconds:
            return count * args.batch / seconds, count * args.batch / (processor_time() - used)


def run_one(variant, flags):
    """``measure`` in a process of its own."""
    done = subprocess.run([sys.executable, __file__, '--one', variant] + flags, stdout=subprocess.PIPE, check=True,
                          text=True)
    return next(json.loads(line[len(MEASURED):]) for line in done.stdout.splitlines() if line.startswith(MEASURED))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    parser.add_argument('--data', required=True, metavar='FOLDER', help='root of a data set of photographs')
    parser.add_argument('--batch', type=int, default=32, metavar='IMAGES', help='(default: %(default)s)')
    parser.add_argument('--input-size', type=int, default=224, metavar='PIXELS', help='(default: %(default)s)')
    parser.add_argument('--workers', type=int, default=available_cores(), metavar='PROCESSES',
                        help='(default: the cores available)')
    parser.add_argument('--repeats', type=int, default=5, help='measurements of each (default: %(default)s)')
    parser.add_argument('--seconds', type=float, default=10.0, help='length of each (default: %(default)s)')
    parser.add_argument('--json', metavar='FILE', help='write the figures there as well (default: no)')
    parser.add_argument('--one', choices=(PLAIN, SERVER), help=argparse.SUPPRESS)
    return parser.parse_args()


def spread(values, digits):
    """'median (lowest to highest)'."""
    return '{:.{d}f} ({:.{d}f} to {:.{d}f})'.format(statistics.median(values), min(values), max(values), d=digits)


def report(args, found):
    """Print the table of ``found``, {pipeline: measurements}. Returns: the figures as a dict."""
    print('| pipeline, {} processes | images/s | times the first | images per s of processor time | times the first |\n'
          '|---|---|---|---|---|'.format(args.workers))
    figures = {'args': vars(args), 'cores': available_cores()}
    first = list(zip(*found[PLAIN]))
    for pipeline, measured in found.items():
        cells, figures[pipeline] = [pipeline], {}
        for name, values, reference in zip(('images_per_second', 'images_per_processor_second'), zip(*measured), first):
            ratios = [value / other for value, other in zip(values, reference)]
            cells += [spread(values, 0), '1' if pipeline == PLAIN else spread(ratios, 2)]
            figures[pipeline][name] = {'values': values, 'times_the_first': ratios}
        print('| {} |'.format(' | '.join(cells)))
    return figures


def main():
    args = parse_args()
    if args.one:
        cv2.setNumThreads(0)
        with contextlib.closing(plain_batches(args) if args.one == PLAIN else served_batches(args)) as batches:
            print(MEASURED, json.dumps(measure(batches, args)))
        return
    for path in open_dataset(args.data, 'train').files[:5000]:
        np.fromfile(path, np.uint8)  # into the page cache, for whichever comes first
    found = {PLAIN: [], SERVER: []}
    for _ in range(args.repeats):
        for variant, measured in found.items():
            measured.append(run_one(variant, sys.argv[1:]))
    figures = report(args, found)
    if args.json:
        with open(args.json, 'w', encoding='utf-8') as target:
            json.dump(figures, target, indent=1)


if __name__ == '__main__':
    main()
