#!/usr/bin/env python
"""Weights in another form: TensorFlow checkpoint, .npz, PyTorch; or a network as a SavedModel that serves.

    python convert.py weights --load Res50-silu/Res50-silu silu.npz      # names stay as they are
    python convert.py weights --load R152-Denoise.npz denoise/model      # a TensorFlow checkpoint
    python convert.py weights --load model-1000 b0.npz --keep averages   # moving averages, under the weights' names
    python convert.py weights --load weights_300.pt convnext.npz         # a file of PyTorch's, without PyTorch
    python convert.py weights --load zoo:Res50-silu silu.safetensors     # for PyTorch, under its names
    python convert.py saved-model --load zoo:Res50-silu served/1         # flags of the network as for main.py --eval
"""
import contextlib
import json
import os
import shutil
import sys
import tempfile

from machine.names_only import names_only_for_help
from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()
if __name__ == '__main__':
    names_only_for_help(sys.argv[1:])

try:
    import numpy as np
    import tensorflow.compat.v1 as tf

    import nets
    from commands.command_line import add_architecture_flags, add_averages_flag, resolve_architecture
    from commands.sources import usual_view
    from data.efficientnet_view import released_view
    from data.views import made_by_tensorflow
    from files.atomic import write_text
    from ranks.command_line import Mode, OneLineParser, run_mode
    from ranks.end import reason
    from settings.run import LOAD_HELP
    from smooth_activations import tensorflow_ops_only
    from weights import card
    from weights.classes import read_classes
    from weights.export import for_pytorch, padding
    from weights.find import PARTS, open_checkpoint
    from weights.flags import USUAL_DECAY, parse_with_checkpoint, published_as, refuse_another_network
    from weights.identity import AVERAGE, is_of_training, some
    from weights.match import load_into, match_variables
    from weights.pytorch import SAFETENSORS
    from weights.safetensors_files import write_file
    from weights.save import put_in_place
    from weights.selection import select
    from zoo import published
    from zoo.fetch import bring
except ModuleNotFoundError as missing:
    sys.exit("convert.py: error: {} has no module '{}'; run `make setup`, then .venv/bin/python convert.py".format(
        sys.executable, missing.name))

# Signatures of the SavedModel; the first one's name is TensorFlow's for what is used where none is named.
FROM_PIXELS, FROM_FILES = 'serving_default', 'encoded'
NOTES = 'assets.extra/network.json'  # a place in a SavedModel for what TensorFlow does not read


def add_weights(parser, brief):
    """Add the flags of ``convert_weights``."""
    parser.add_argument('--load', required=True, metavar='CHECKPOINT', help=LOAD_HELP.split(', and')[0])
    parser.add_argument('output', metavar='OUTPUT', help="FILE.npz; FILE.safetensors, in PyTorch's names and layouts; "
                                                         'or the name of a TensorFlow checkpoint')
    parser.add_argument('--keep', choices=('both', 'weights', 'averages'), default='both',
                        help="of weights and their moving averages: both; the weights; or the averages, which take the "
                             'names of the weights (default: %(default)s)')
    parser.add_argument('--optimizer', action='store_true',
                        help='also keep what only training needs: momentum, learning rate, global step')
    add_architecture_flags(parser, brief=brief)


def convert_weights(parser, argv):
    """Write a checkpoint's weights, in the form that OUTPUT's ending asks for: under their names, or for PyTorch."""
    given = parser.parse_args(argv)
    said = any(value != parser.get_default(name) for name, value in vars(given).items()
               if name not in ('load', 'output', 'keep', 'optimizer'))
    # As for training: --keep chooses the averages.
    args = parse_with_checkpoint(parser, argv, given.load, training=True)
    with _mistakes_in_one_line(parser):
        bring(args.load, print)
        stored = open_checkpoint(args.load)
        values = select(stored, args.keep, args.optimizer, args.load)
        to_torch = args.output.endswith(SAFETENSORS)
        network = _card(stored, any(name.endswith(AVERAGE) for name in values), args, parser, said or to_torch)
        if to_torch:
            write_safetensors(args.output, values, network, args.load)
        else:
            (write_npz if args.output.endswith('.npz') else write_checkpoint)(args.output, values, network)
    print('{} variables are in {}{}'.format(len(values), args.output, to_torch and padding(network) and
                                            '; in PyTorch too {}'.format(padding(network)) or ''))


def add_export(parser, brief):
    """Add the flags of ``export``."""
    parser.add_argument('output', metavar='DIR', help='folder to make; TensorFlow Serving wants a number for its name')
    parser.add_argument('--load', required=True, metavar='CHECKPOINT', help=LOAD_HELP)
    add_averages_flag(parser)
    add_architecture_flags(parser, brief=brief)


def export(parser, argv):
    """Write a network as a SavedModel, whose `serving_default` takes images uint8 [N,S,S,3], RGB, 0-255."""
    args = parse_with_checkpoint(parser, argv, parser.parse_args(argv).load)
    if args.data_format is None:
        args.data_format = 'NHWC'  # works on CPUs and on GPUs, wherever it will be served
    resolve_architecture(args, parser)
    with _mistakes_in_one_line(parser):
        bring(args.load, print)
        write_saved_model(args.output, args)
    print('{} is in {}'.format(nets.network_name(args), args.output))


def _card(stored, averages, args, parser, wanted):
    """What is written with weights that come from a checkpoint: see ``weights.card``.

    Args:
        stored (Stored). averages (bool): whether there are moving averages beside the weights still. args: parsed, not
            resolved. parser: of them. wanted (bool): take the flags where no card says what network it is.
    Returns:
        dict, or None where the checkpoint is not known.
    Raises:
        ValueError: of PyTorch's names, and no network of this project.
    """
    network, model = card.read(stored), published_as(stored)
    if stored.told and not stored.told.network:
        raise ValueError("'{}' is of no network of this project: its names are {}".format(
            stored.path, some(sorted(stored.shapes))))
    if args.ignore_checkpoint_flags or network is None and (wanted or stored.told):
        args.moving_average_decay = USUAL_DECAY
        resolve_architecture(args, parser)
        refuse_another_network(args)
        network = card.make(args, network and network['classes'])
    elif network is None and model:
        network = card.make(_resolved(published.flags_of(model.name)), None)
    return network and dict(network, moving_average_decay=network['moving_average_decay'] * averages)


def _resolved(words):
    """Resolved flags of a network, from words of a command line that are right."""
    parser = OneLineParser(allow_abbrev=False)
    add_averages_flag(parser)
    add_architecture_flags(parser)
    args = parser.parse_args(words)
    resolve_architecture(args, parser)
    return args


@contextlib.contextmanager
def _mistakes_in_one_line(parser):
    try:
        yield
    except ValueError as error:
        parser.error(error)
    except (OSError, tf.errors.OpError) as error:
        parser.error(reason(error))


@contextlib.contextmanager
def _unfinished(output):
    """A new folder beside ``output`` to write in, gone afterwards; ``output`` must not be there.

    Raises:
        ValueError: ``output``, or part of a checkpoint of that name, is there.
    """
    for path in (output, *(output + part for part in (*PARTS, card.ENDING))):
        if os.path.lexists(path):
            raise ValueError("'{}' is there already; choose another name, nothing is overwritten".format(path))
    parent = os.path.dirname(os.path.abspath(output))
    os.makedirs(parent, exist_ok=True)
    folder = tempfile.mkdtemp(prefix='.writing-', dir=parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def write_npz(path, values, network=None):
    """Write a dictionary of arrays as .npz, whole or not at all, with the card ``network`` (see ``weights.card``).

    Raises:
        ValueError: there is one. OSError: it cannot be written.
    """
    with _unfinished(path) as folder:
        temporary = os.path.join(folder, 'X.npz')
        with open(temporary, 'wb') as f:
            np.savez(f, **values, **(card.as_entry(network) if network else {}))
            f.flush()
            os.fsync(f.fileno())
        os.rename(temporary, path)


def write_checkpoint(prefix, values, network=None):
    """Write a dictionary of arrays as a TensorFlow checkpoint, whole or not at all, and its card ``network`` beside it.

    Raises:
        ValueError: there is one. OSError, tf.errors.OpError: it cannot be written.
    """
    with _unfinished(prefix) as folder, tf.Graph().as_default(), tf.Session() as session:
        temporary = os.path.join(folder, 'model')
        names = sorted(values)
        # Fed, because a graph's constants may have 2 GB at most.
        fed = [tf.placeholder(np.asarray(values[name]).dtype) for name in names]
        save = tf.raw_ops.SaveV2(prefix=temporary, tensor_names=names, shape_and_slices=[''] * len(names), tensors=fed)
        session.run(save, dict(zip(fed, (values[name] for name in names))))
        put_in_place(temporary, prefix, network)


def write_safetensors(path, values, network, load):
    """Write a network's variables as .safetensors for PyTorch, whole or not at all; see ``weights.export``.

    Args:
        values (dict): all of its variables, and no others. network (dict): its card. load (str): for messages.
    Raises:
        ValueError: there is one; the values are not those of the network. OSError: it cannot be written.
    """
    others = sorted(filter(is_of_training, values))
    if others:
        raise ValueError("'{}' has also {}: for PyTorch give --keep weights or --keep averages, and no "
                         '--optimizer'.format(load, some(others)))
    args = _resolved(card.words(network, training=False))
    with tf.Graph().as_default():
        nets.ARCHITECTURES[args.arch].model(args).classify(tf.zeros([1, args.input_size, args.input_size, 3]))
        pairs = match_variables(tf.global_variables(), values, load)
    with _unfinished(path) as folder:
        temporary = os.path.join(folder, 'X' + SAFETENSORS)
        write_file(temporary, *for_pytorch({v.op.name: value for v, value in pairs}, network))
        os.rename(temporary, path)


def write_saved_model(output, args):
    """Write the network of resolved flags, with the weights of ``args.load``, as a SavedModel.

    ``serving_default`` takes ``images``, uint8 [N,S,S,3] (batch, height, width, channels), RGB, 0-255. EfficientNets
    also have ``encoded``: ``files``, string [N], whole JPEG or PNG files, of which each is seen as in an evaluation.
    Both give ``logits`` and ``probabilities``, float32 [N,classes], and ``class``, int64 [N]. The same is said in the
    file assets.extra/network.json, beside the class names where they are known.

    Args:
        output (str): folder to make. args: flags of the architecture, ``load`` and ``moving_average_decay``.
    Raises:
        ValueError: the folder is there, or the checkpoint does not fit. OSError, tf.errors.OpError: it cannot be
            written.
    """
    values = open_checkpoint(args.load)
    # Who serves the model has no compiled ops of ours.
    with _unfinished(output) as folder, tf.Graph().as_default(), tf.Session() as session, tensorflow_ops_only():
        model = nets.ARCHITECTURES[args.arch].model(args)
        size = args.input_size
        images = tf.placeholder(tf.uint8, [None, size, size, 3], name='images')
        signatures = {FROM_PIXELS: _signature('images', images, model.classify(tf.reverse(images, [3])))}
        if made_by_tensorflow(usual_view(args)):
            files = tf.placeholder(tf.string, [None], name='files')
            views = tf.map_fn(lambda content: released_view(content, size), files, tf.float32)
            signatures[FROM_FILES] = _signature('files', files, model.classify(tf.reverse(views, [3])))
        load_into(session, match_variables(
            tf.global_variables(), values, args.load, averages=args.moving_average_decay > 0))
        temporary = os.path.join(folder, 'model')
        builder = tf.saved_model.Builder(temporary)
        builder.add_meta_graph_and_variables(session, [tf.saved_model.SERVING], signatures)
        builder.save()
        os.mkdir(os.path.dirname(os.path.join(temporary, NOTES)))
        write_text(os.path.join(temporary, NOTES), json.dumps(_notes(args, signatures), indent=1))
        os.rename(temporary, output)


def _signature(name, tensor, logits):
    outputs = {'logits': logits, 'probabilities': tf.nn.softmax(logits), 'class': tf.argmax(logits, axis=1)}
    return tf.saved_model.predict_signature_def({name: tensor}, outputs)


def _notes(args, signatures):
    inputs = {FROM_PIXELS: 'images: uint8 [N,{0},{0},3], RGB, 0-255; batch, height, width, channels'.format(
                  args.input_size),
              FROM_FILES: 'files: string [N], JPEG or PNG files; the middle of each is cut out and resized'}
    flags = {name: value for name, value in vars(args).items() if name != 'output'}
    return {'network': nets.network_name(args), 'flags': flags, 'classes': read_classes(args.load),
            'inputs': {name: inputs[name] for name in signatures},
            'outputs': 'logits, probabilities: float32 [N,{}]; class: int64 [N]'.format(args.num_classes)}


MODES = {'weights': Mode(convert_weights, add_weights), 'saved-model': Mode(export, add_export)}


def main(argv=None):
    return run_mode('convert.py', MODES, __doc__, sys.argv[1:] if argv is None else list(argv))


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
