"""Multiply-adds of one image in a network: ``python -m studies.count --json FILE FLAGS OF THE NETWORK``."""
import json
import math

from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import nets
from commands.command_line import parse_args
from efficientnet.table import multiply_adds
from files.atomic import write_text
from ranks.command_line import OneLineParser


def count(flags):
    """Multiply-adds of an image, and trainable parameters.

    Args:
        flags (list of str): of ``main.py``, that say which network.
    """
    args = parse_args([*flags, '--data-format', 'NHWC'])
    model = nets.ARCHITECTURES[args.arch].model(args)
    with tf.Graph().as_default() as graph, TowerContext('', is_training=False):
        model.get_logits(tf.placeholder(tf.float32, [1, args.input_size, args.input_size, 3]))
        return (sum(map(multiply_adds, graph.get_operations())),
                sum(math.prod(v.shape.as_list()) for v in tf.trainable_variables()))


def main(argv=None):
    parser = OneLineParser(prog='python -m studies.count', allow_abbrev=False, description=__doc__)
    parser.add_argument('--json', required=True, metavar='FILE')
    own, flags = parser.parse_known_args(argv)
    products, parameters = count(flags)
    write_text(own.json, json.dumps({'millions': products / 1e6, 'parameters': parameters}) + '\n')


if __name__ == '__main__':
    main()
