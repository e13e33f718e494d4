"""Where the training images of a command come from: made up, read here, or served."""
import atexit
import json
import socket
from typing import Callable, List, NamedTuple

from tensorpack.utils import logger

from commands import sources
from data.handshake import Job, default_data_address, new_job
from data.lease import Lease, check_servers
from data.stream import FakeStream, TrainingStream
from ranks.gather import gather_texts, together
from ranks.terminal import warn_anywhere
from settings.sections import view_of
from training.inputs import ServedBatches, local_input, served_input
from weights.classes import read_classes


class TrainingData(NamedTuple):
    """Where the training batches come from.

    num_images (int); classes (list of str); seed (int): of order and augmentation; source: (first step) -> InputSource;
    unreadable: () -> files that could not be read so far, as far as this process reads them. origin (str): who reads
    them, in words.
    """
    num_images: int
    classes: List[str]
    seed: int
    source: Callable
    unreadable: Callable = tuple
    origin: str = 'read by this process'


def open_training_data(args, ranks):
    if args.fake and not args.serve_address:
        stream = FakeStream(args.batch, args.input_size, args.num_classes)
        return TrainingData(args.batch, [str(c) for c in range(args.num_classes)], args.seed,
                             lambda step: local_input(stream, step), origin='made up')
    own = args.new_classifier or args.ignore_checkpoint_flags  # the data's
    classes = read_classes(args.load) if args.load and not own else None
    if ranks.size == 1 and not args.serve_address:
        dataset = sources.open_images(args, 'train', classes)
        stream = TrainingStream(dataset, args.batch, view_of(vars(args)), args.seed)
        return TrainingData(len(dataset.files), dataset.classes, args.seed,
                             lambda step: local_input(stream, step), lambda: stream.unreadable)
    return _served_data(args, ranks, classes)


def _served_data(args, ranks, classes):
    """Claim this machine's data server for this job, check that it serves what this run needs, and take from it what
    the command has left open.

    ``classes`` (list of str): of the checkpoint that training starts from; None for any.
    """
    address = args.serve_address or default_data_address(args.batch)
    job = Job(*json.loads(gather_texts(ranks, json.dumps(new_job()))[0]))
    # Its warnings as errors, which ranks beside the first one say too.
    expected = sources.expected_of_server(args)
    lease = together(ranks, lambda: Lease(address, expected, job, args.serve_timeout, warn=logger.error))
    atexit.register(lease.close)
    served = lease.description
    try:
        here = {field: served.get(field) for field in (
            'server', 'shard', 'shared', 'num_images', 'fake', *sources.taken())}
        here['host'] = socket.gethostname()
        of_all = [json.loads(text) for text in gather_texts(ranks, json.dumps(here))]
        sources.take_served(args, served, address, of_all)
        check_servers(of_all)
        if len(served['classes']) > args.num_classes:
            raise ValueError('--num-classes {}: the data server at {} serves {} classes'.format(
                args.num_classes, address, len(served['classes'])))
        if classes and list(served['classes']) != list(classes) and not args.fake:
            raise ValueError(
                "--load '{}': its {} classes ({}, ...) are not the {} of the data server at {} ({}, ...), or in "
                'another order; --new-classifier has a fresh last layer for them, and with --ignore-checkpoint-flags '
                'its weights are trained on other labels'.format(
                    args.load, len(classes), classes[0], len(served['classes']), address, served['classes'][0]))
    except ValueError:
        lease.close()  # now: the program that called may live on
        raise
    # A server is silent to all ranks that it feeds; one of each machine says so.
    batches = ServedBatches(lease, args.data_timeout, len(served['classes']) or args.num_classes,
                            warn_anywhere if ranks.local_rank == 0 else (lambda text: None))
    return TrainingData(served['num_images'], served['classes'], served['seed'],
                         lambda step: served_input(batches, not args.no_zmq_ops),
                        origin='from the data server' + (' at ' + address if args.serve_address else ''))
