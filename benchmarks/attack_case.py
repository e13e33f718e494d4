"""What the benchmarks of attacks work on: a network with its weights and some images, by main.py's flags of --eval."""
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import measure
import nets
from adv_model import AdvImageNetModel, image_preprocess
from commands.command_line import parse_args
from commands.networks import matched, open_session
from commands.run import bring_weights
from ranks.command_line import OneLineParser
from ranks.gather import together
from ranks.launched import Ranks
from sat.adapters.tensors import Tensors
from sat.images import open_images
from settings.resolve import resolve
from weights.find import open_checkpoint


class Case(NamedTuple):
    """``network`` is ``model`` with weights; image: as it takes them. label, index: int32 [N], as of ``Images``."""
    model: AdvImageNetModel
    network: Tensors
    image: np.ndarray
    label: np.ndarray
    index: np.ndarray

    def batches(self, rows, batch):
        """``rows`` in parts of ``batch``."""
        return [rows[begin:begin + batch] for begin in range(0, len(rows), batch)]


def get_parser(document, needed):
    """A parser with ``--images``, described by a program's docstring; ``needed``: which flags of main.py are meant."""
    parser = OneLineParser(description=document.split('\n')[0], allow_abbrev=False, epilog='All other flags are those '
                           'of `python main.py {}`.'.format(needed))
    parser.add_argument('--images', type=measure.positive, default=1000, metavar='N',
                        help='images, spread evenly over the validation set (default: %(default)s)')
    return parser


def parse(parser, argv, first=()):
    """The parser's own flags, and the resolved others, of an evaluation; ``first``: flags that typed ones replace."""
    own, others = parser.parse_known_args(argv)
    return own, parse_args(['--eval', *first, *others])


def asked(action):
    """``action()``; a mistake in what was asked for ends the program with one line."""
    return together(Ranks(), action)


def open_case(args, count):
    """The network and weights of resolved flags, in the default graph, and ``count`` images.

    Raises:
        ValueError: no such data or none of the images can be read; the checkpoint does not fit the network.
    """
    bring_weights(args.load, Ranks())
    values = open_checkpoint(args.load)
    images = open_images(args, count)
    model = nets.build(resolve(args))
    pixels = tf.placeholder(tf.float32, [None, *images.pixels.shape[1:]])
    prepared = image_preprocess(pixels, model.data_format, model.channels)
    image, label = tf.placeholder(tf.float32, prepared.shape), tf.placeholder(tf.int32, [None])
    with TowerContext('', is_training=False):
        logits = model.get_logits(image)
    session = open_session(Ranks(), matched(args, values))
    return Case(model, Tensors(session, image, label, logits), session.run(prepared, {pixels: images.pixels}),
                images.label, images.index)
