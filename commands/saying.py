"""What a command says of itself before it begins."""
import tensorflow.compat.v1 as tf
from tensorpack.utils import logger

from machine import programs
from machine.devices import resolve_data_format
from settings import recipes
from smooth_activations import can_compile


def print_recipe(args):
    """Log every resolved flag, the recipe's own first."""
    named = recipes.names()
    logger.info('Recipe {}: {}'.format(args.recipe, ', '.join(
        '{}={}'.format(n, getattr(args, n)) for n in named)))
    logger.info('Flags: ' + ', '.join('{}={}'.format(n, v) for n, v in sorted(vars(args).items()) if n not in named))
    logger.info('Under attack the network computes in {}, {}, with {}'.format(
        args.attack_precision or 'float32', resolve_data_format(args.data_format),
        'compiled activations' if can_compile() and not args.xla else "activations of TensorFlow's ops"))
    for note in args.notes:
        logger.info(note)


def say_idle_gpus(ranks, beside=''):
    """Log how to use all GPUs of the machine, where this is the only process and uses one of several (SAT's release
    judges with all of them in one process). ``beside``: what several ranks need."""
    gpus = len(tf.config.list_physical_devices('GPU'))
    if ranks.size == 1 and gpus > 1:
        logger.info('1 of {0} GPUs is used; for all of them type:  mpirun -np {0} -bind-to none {1}{2}'.format(
            gpus, programs.to_type(), beside))
