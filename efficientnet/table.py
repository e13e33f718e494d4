#!/usr/bin/env python
"""One Markdown table of EfficientNet's sizes: parameters and multiply-adds of the graphs here, beside published ones.

    python efficientnet/table.py
"""
import math

from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

from efficientnet.scaling import PREFIX, SIZES
from ranks.command_line import OneLineParser

# Millions of parameters and billions of multiply-adds, None where not published. b0 to b7: EN Table 2. b8: not in a
# paper; of timm's port of the AdvProp checkpoint (Xie et al. 2019; its paper says 9.4 times less than 829 million
# parameters). l2: Noisy Student (Xie et al. 2019). SAT gives none of bL1.
PUBLISHED = {PREFIX + name: figures for name, figures in {
    'b0': (5.3, 0.39), 'b1': (7.8, 0.70), 'b2': (9.2, 1.0), 'b3': (12, 1.8), 'b4': (19, 4.2), 'b5': (30, 9.9),
    'b6': (43, 19), 'b7': (66, 37), 'b8': (87.4, 63.5), 'bL1': (None, None), 'l2': (480, None)}.items()}
NUM_CLASSES = 1000
HEADER = ('name', 'input', 'width', 'depth', 'parameters (M)', 'published', 'multiply-adds (B)', 'published')


def count(model_name):
    """Trainable parameters, and multiply-adds of one image, of the network of a size."""
    import tensorflow.compat.v1 as tf  # a mistake in the command is said sooner

    from efficientnet.network import Style, efficientnet
    size = SIZES[model_name]
    with tf.Graph().as_default() as graph:
        image = tf.placeholder(tf.float32, [1, size.resolution, size.resolution, 3])
        efficientnet(image, model_name, size.width, size.depth, NUM_CLASSES,
                     Style(data_format='NHWC', training=False, activation='silu'))
        parameters = sum(v.shape.num_elements() for v in tf.trainable_variables())
        return parameters, sum(map(multiply_adds, graph.get_operations()))


def multiply_adds(op):
    """Products that an op of a convolution or of a fully connected layer sums up, 0 for other ops."""
    if op.type not in ('Conv2D', 'DepthwiseConv2dNative', 'MatMul'):
        return 0
    weights = op.inputs[1].shape.as_list()
    # How many weights one output takes: [k, k, in, out], [k, k, in, 1] of which each output has its own in, [in, out].
    summed = weights[:2] if op.type == 'DepthwiseConv2dNative' else weights[:-1]
    return op.outputs[0].shape.num_elements() * math.prod(summed)


def rows():
    """The table's cells, a list of str for each size."""
    for name, size in SIZES.items():
        parameters, products = count(name)
        published = ['-' if figure is None else '{:g}'.format(figure) for figure in PUBLISHED[name]]
        yield [name, str(size.resolution), str(size.width), str(size.depth), '{:.2f}'.format(parameters / 1e6),
               published[0], '{:.2f}'.format(products / 1e9), published[1]]


def get_parser():
    return OneLineParser(description=__doc__.split('\n')[0], allow_abbrev=False)


def main(argv=None):
    get_parser().parse_args(argv)
    print('| {} |\n|{}'.format(' | '.join(HEADER), '---|' * len(HEADER)))
    for row in rows():
        print('| {} |'.format(' | '.join(row)), flush=True)


if __name__ == '__main__':
    main()
