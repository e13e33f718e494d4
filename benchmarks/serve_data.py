#!/usr/bin/env python
"""Images per second of the data server, against tensorpack's pipeline of FD's augmentation with as many processes.

    .venv/bin/python benchmarks/serve_data.py --data /path/to/imagenet

Both are made anew for each measurement, in turn, and a process outside them receives their batches: through the
server's own socket, and out of tensorpack's PrefetchDataZMQ. Prints a Markdown table, as median (lowest to highest);
the processor time, of all processes of a pipeline, tells the two apart on a busy machine too.
"""
import argparse
import contextlib
import itertools
import os
import secrets
import subprocess
import sys
import time

import cv2
import numpy as np
import psutil
import zmq

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

import measure
from data.folders import DATA_VARIABLE, open_dataset
from data.handshake import new_job
from data.lease import Lease
from data.stream import available_cores
from data.views import AUGMENTATIONS

WARM_UP = 3.0  # seconds
PLAIN, SERVER = 'AugmentImageComponent + BatchData + PrefetchDataZMQ', 'serve-data.py'
QUANTITIES = [measure.Quantity('images/s', 0), measure.Quantity('images per s of processor time', 0)]


def plain_batches(args):
    """The batches of tensorpack's pipeline, endless, with the augmentors that FD's list consists of."""
    from tensorpack.dataflow import (
        AugmentImageComponent,
        BatchData,
        DataFromList,
        MapData,
        PrefetchDataZMQ,
        RepeatedData,
        imgaug,
    )

    from data import augment
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
        [sys.executable, os.path.join(ROOT, 'third_party', 'serve-data.py'), '--data', args.data,
         '--augmentation', args.augmentation, '--batch', str(args.batch), '--input-size',
         str(args.input_size), '--workers', str(args.workers), '--address', address], stdout=subprocess.PIPE, text=True)
    try:
        if 'ready' not in server.stdout.readline():
            raise RuntimeError('the data server did not start')
        with Lease(address, {}, new_job()) as lease, zmq.Context() as context, lease.receiver(context, 1) as pull:
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


def rates(batches, args):
    """The two quantities of what comes out of an iterator after a warm-up."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < WARM_UP:
        next(batches)
    used, begin = processor_time(), time.perf_counter()
    for count in itertools.count(1):
        next(batches)
        seconds = time.perf_counter() - begin
        if seconds >= args.seconds:
            images = count * args.batch
            return dict(zip((quantity.name for quantity in QUANTITIES),
                            (images / seconds, images / (processor_time() - used))))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    data = os.environ.get(DATA_VARIABLE)
    parser.add_argument('--data', required=not data, default=data, metavar='FOLDER',
                        help='root of a data set of photographs (default: SAT_DATA of the environment)')
    parser.add_argument('--augmentation', choices=AUGMENTATIONS, default='imagenet',
                        help="the server's; imagenet is FD's (default: %(default)s)")
    parser.add_argument('--batch', type=int, default=32, metavar='IMAGES', help='(default: %(default)s)')
    parser.add_argument('--input-size', type=int, default=224, metavar='PIXELS', help='(default: %(default)s)')
    parser.add_argument('--workers', type=int, default=available_cores(), metavar='PROCESSES',
                        help='(default: the cores available)')
    parser.add_argument('--seconds', type=float, default=10.0, help='length of each measurement (default: %(default)s)')
    measure.add_flags(parser)
    parser.add_argument('--one', choices=(PLAIN, SERVER), help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parse_args()
    if args.one:
        cv2.setNumThreads(0)
        with contextlib.closing(plain_batches(args) if args.one == PLAIN else served_batches(args)) as batches:
            measure.say(rates(batches, args))
        return
    for path in open_dataset(args.data, 'train').files[:5000]:
        np.fromfile(path, np.uint8)  # into the page cache, for whichever comes first
    found = measure.interleaved((PLAIN, SERVER), args.repeats, lambda pipeline: measure.run(
        [sys.executable, __file__, '--one', pipeline] + sys.argv[1:]))
    measure.report(found, QUANTITIES, args.json)


if __name__ == '__main__':
    main()
