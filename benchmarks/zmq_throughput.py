#!/usr/bin/env python
"""How fast batches come from one sending process into TensorFlow tensors, against a bare ZMQ socket and tensorpack.

    .venv/bin/python benchmarks/zmq_throughput.py

Prints a Markdown table: median (lowest to highest), and the ratios to the runs of bare and of tensorpack next to each.
The ways:

    bare           pyzmq sends and receives the same bytes, copy=False on both sides; nobody looks at them
    bare, threads  the same with as many sending threads of ZMQ's as serve-data.py has; ZMQ's default is one
    op             the same message again and again, as serve-data.py sends what its workers have assembled; ZMQPull,
                   one pull a step as in training, and ops that read the tensors
    op, written    the sender writes every batch into a message with write_message
    tensorpack     send_dataflow_zmq and RemoteDataZMQ, up to NumPy arrays
"""
import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'third_party')]

from third_party.quiet_tensorflow import quieten_tensorflow  # noqa: E402

quieten_tensorflow()

import numpy as np  # noqa: E402  (behind the path, like what follows)
import zmq  # noqa: E402

import measure  # noqa: E402
from zmq_ops import message_size, write_message  # noqa: E402

WAYS = ('bare', 'bare, threads', 'op', 'op, written', 'tensorpack')
REFERENCES = ('bare', 'tensorpack')  # those of them that are measured, else the first way
WARM_UP = 20  # messages of each receiver before its clock starts
PATIENCE = 60  # seconds beyond the measurement until a receiver counts as stuck
SPEED = measure.Quantity('GB/s')
RING = 4  # buffers that 'op, written' writes to in turn


def batch(size, side):
    image = np.random.default_rng(0).integers(0, 256, (size, side, side, 3), np.uint8)
    return [image, np.arange(size, dtype=np.int32)]


def send(way, arrays, address, hwm):
    """Sends batches until this process is killed."""
    if way == 'tensorpack':
        from tensorpack.dataflow import DataFromList, send_dataflow_zmq
        send_dataflow_zmq(DataFromList([arrays] * 1000, shuffle=False), address, hwm=hwm, bind=True)
    from third_party.imagedata.server import SENDING_THREADS
    context = zmq.Context() if way == 'bare' else zmq.Context(SENDING_THREADS)
    socket = context.socket(zmq.PUSH)
    socket.sndhwm = hwm
    socket.bind(address)
    buffers = [bytearray(message_size(arrays)) for _ in range(RING)]
    for buffer in buffers:
        write_message(arrays, buffer)
    if way != 'op, written':
        while True:
            socket.send(buffers[0], copy=False)
    trackers = [None] * RING
    while True:
        for k, buffer in enumerate(buffers):
            if trackers[k]:
                wait_until_free(trackers[k], socket)
            write_message(arrays, buffer)
            trackers[k] = socket.send(buffer, copy=False, track=True)


def wait_until_free(tracker, socket):
    while not tracker.done:
        with contextlib.suppress(zmq.NotDone):
            tracker.wait(0.1)
        socket.getsockopt(zmq.EVENTS)  # only in a call of the socket's does ZMQ free what an ended receiver had queued


def receiver(way, arrays, address, hwm, receivers):
    """A function that takes the next batch; ``receivers``: how many processes of this machine do so."""
    if way == 'tensorpack':
        from tensorpack.dataflow import RemoteDataZMQ
        flow = RemoteDataZMQ(address, hwm=hwm, bind=False)
        flow.reset_state()
        batches = iter(flow)
        return lambda: next(batches)
    if way.startswith('bare'):
        socket = zmq.Context.instance().socket(zmq.PULL)
        socket.rcvhwm = hwm
        socket.connect(address)
        return lambda: socket.recv(copy=False)
    import tensorflow.compat.v1 as tf
    from third_party.utils import Ranks, session_config
    from zmq_ops import ZMQPullSocket
    tf.disable_v2_behavior()
    image, label = ZMQPullSocket(address, [tf.uint8, tf.int32], hwm=hwm, bind=False).pull()
    # As in training, where the machine's ranks share its cores.
    config = session_config(Ranks(0, receivers, 0, receivers))
    step = tf.Session(config=config).make_callable([image[-1, -1, -1, -1], label[-1]])
    last = arrays[0][-1, -1, -1, -1], arrays[1][-1]

    def pull():
        if tuple(step()) != last:
            raise SystemExit('the batch that arrived is not the one that was sent')
    return pull


def receive(pull, seconds):
    """Prints the times at which batches arrived, a JSON list in seconds of the machine's monotonic clock."""
    for _ in range(WARM_UP):
        pull()
    times = [time.monotonic()]
    while times[-1] < times[0] + seconds:
        pull()
        times.append(time.monotonic())
    print(json.dumps(times), flush=True)


def batches_per_second(way, receivers, args):
    """Of all receivers together, while all of them were receiving."""
    address = 'ipc://@zmq-throughput-' + uuid.uuid4().hex
    common = [sys.executable, __file__, '--batch', str(args.batch), '--input-size', str(args.input_size),
              '--hwm', str(args.hwm), '--seconds', str(args.seconds), '--address', address, '--way', way,
              '--receivers', str(receivers)]
    # What a receiver says at its start goes the same way as in training: nowhere.
    running = [subprocess.Popen(common + ['--role', 'receive'], stdout=subprocess.PIPE, text=True)
               for _ in range(receivers)]
    sender = None
    try:
        for process in running:
            if process.stdout.readline() != 'ready\n':
                raise SystemExit('a receiver ended before it was ready')
        sender = subprocess.Popen(common + ['--role', 'send'], stderr=subprocess.DEVNULL)
        arrivals = [json.loads(process.communicate(timeout=args.seconds + PATIENCE)[0]) for process in running]
    finally:
        for process in running + [sender] * bool(sender):
            process.kill()
            process.wait()
    begin, end = max(times[0] for times in arrivals), min(times[-1] for times in arrivals)
    return sum(begin < t <= end for times in arrivals for t in times) / (end - begin)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--receivers', type=int, nargs='+', default=[1, 2, 4], metavar='N',
                        help='numbers of receiving processes (default: 1 2 4)')
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=WAYS, metavar='WAY', help='(default: all)')
    parser.add_argument('--batch', type=int, default=32, help='images in a message (default: %(default)s)')
    parser.add_argument('--input-size', type=int, default=224, metavar='PIXELS', help='(default: %(default)s)')
    parser.add_argument('--hwm', type=int, default=30, help='batches queued on each side (default: %(default)s)')
    parser.add_argument('--seconds', type=float, default=3.0, help='of each measurement (default: %(default)s)')
    measure.add_flags(parser)
    for name in ('--role', '--way', '--address'):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    arrays = batch(args.batch, args.input_size)
    if args.role == 'send':
        send(args.way, arrays, args.address, args.hwm)
    if args.role == 'receive':
        pull = receiver(args.way, arrays, args.address, args.hwm, *args.receivers)
        print('ready', flush=True)
        receive(pull, args.seconds)
        os._exit(0)  # tensorpack's receiver would wait for its socket
    report(args, message_size(arrays))


def report(args, size):
    names = {'{}, receivers: {}'.format(way, count): (way, count) for count in args.receivers for way in args.ways}
    found = measure.interleaved(
        names, args.repeats, lambda name: {SPEED.name: batches_per_second(*names[name], args) * size / 1e9})
    print('a message: {} images, {} bytes\n'.format(args.batch, size))

    def of(way):
        return lambda name: '{}, receivers: {}'.format(way, names[name][1])
    references = [way for way in REFERENCES if way in args.ways] or args.ways[:1]
    measure.report(found, [SPEED], args.json, {way: of(way) for way in references})


if __name__ == '__main__':
    main()
