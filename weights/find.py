"""Where a checkpoint is: what ``--load`` means, and which of a run are whole."""
import os
import re

import tensorflow.compat.v1 as tf
from tensorpack.utils import logger

from files.checksums import without_checksum
from files.json_files import read_checked
from files.typed import number, parse, record, whole
from weights.pytorch import is_pytorch
from weights.stored import Stored
from zoo import published

BEST = 'best'
BEST_FILE = 'best.json'
PARTS = ('.data-00000-of-00001', '.index')  # in this order: a prefix with an index is complete
_BEST = record({'global_step': whole(0, 2 ** 62), 'epoch': whole(0, 2 ** 62)}, others=number())
_STEPS = re.compile(r'model-(\d+)\.index$')
_ANY_PART = re.compile(r'model-(\d+)({})'.format('|'.join(map(re.escape, PARTS))))


def find_checkpoint(path):
    """What ``--load path`` means: an .npz or .npy file, one of PyTorch's (.pt, .pth) or of safetensors, or the prefix
    of a TensorFlow checkpoint.

    ``path`` may also name a checkpoint's .index, .meta or .data file; a folder or the file ``checkpoint`` in it, for
    the newest one there; ``<log directory>/best`` for the most robust one of a run; or ``zoo:NAME`` for a published
    model, where it is downloaded.

    Raises:
        ValueError: there is no such checkpoint.
    """
    if published.is_named(path):
        try:
            return published.local_path(path)
        except ValueError as error:
            raise ValueError("--load '{}': {}".format(path, error)) from error
    if path.endswith(('.npz', '.npy')) or is_pytorch(path):
        if not os.path.isfile(path):
            raise ValueError("--load '{}': no such file".format(path))
        return path
    prefix = re.sub(r'\.(index|meta|data-\d+-of-\d+)$', '', path)
    folder, name = os.path.split(prefix)
    if not os.path.isfile(prefix + '.index'):
        if name == BEST:
            prefix = best_prefix(folder) or prefix
        elif name == 'checkpoint' or os.path.isdir(prefix):
            prefix = _newest_named(prefix if os.path.isdir(prefix) else folder or '.') or prefix
    if not os.path.isfile(prefix + '.index'):
        named = '' if prefix == path else ": it means '{}', which has no .index".format(prefix)
        raise ValueError("--load '{}': no such checkpoint{}; give an .npz file, or a TensorFlow checkpoint's name "
                         "without '.index'".format(path, named))
    return prefix


def _newest_named(folder):
    """The newest checkpoint according to the file ``checkpoint``; None without that file."""
    state = os.path.join(folder, 'checkpoint')
    try:
        newest = tf.train.latest_checkpoint(folder)
    except ValueError:  # it is empty
        newest = None
    if newest is None and os.path.isfile(state):
        found = latest_checkpoint(folder)
        raise ValueError("--load '{}': the file '{}' is damaged, or what it names is gone; give a checkpoint's own "
                         'name{}'.format(folder, state, ", such as '{}'".format(found) if found else ''))
    return newest


def open_checkpoint(path):
    """The variables of a checkpoint, of which no array has been read yet; see ``find_checkpoint`` and ``Stored``.

    Raises:
        ValueError: not there, or not readable as a checkpoint; the latter also where an array is asked for.
    """
    return Stored(find_checkpoint(path))


def read_checkpoint(path):
    """Read all variables of a checkpoint.

    Returns:
        dict: variable name, without ':0', to array.
    Raises:
        ValueError: not there, or not readable as a checkpoint.
    """
    return dict(open_checkpoint(path))


def saved_steps(folder):
    """Global steps of the complete checkpoints in ``folder``, ascending."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    steps = sorted(int(m.group(1)) for m in map(_STEPS.match, names) if m)
    return [s for s in steps if os.path.isfile(prefix_of(folder, s) + PARTS[0])]


def newest_whole(folder):
    """Step of the newest checkpoint in ``folder`` that can be read; None where none has been finished yet.

    Damaged ones after it get the ending ``.damaged``, so that they are neither overwritten nor counted any more.

    Raises:
        ValueError: there are checkpoints, and all are damaged, or the newest whole one is of another step than its name
            says. OSError: they cannot be renamed.
    """
    names = os.listdir(folder) if os.path.isdir(folder) else []
    steps = {int(m.group(1)) for m in map(_ANY_PART.fullmatch, names) if m}
    damaged = {}
    for step in sorted(steps, reverse=True):
        damage = _damage(prefix_of(folder, step))
        if not damage:
            break
        damaged[step] = damage
    else:
        if saved_steps(folder):
            raise ValueError("--resume: all checkpoints in '{}' are damaged; the newest, {}: {}".format(
                folder, os.path.basename(latest_checkpoint(folder)), damaged[saved_steps(folder)[-1]]))
        return None
    own = Stored(prefix_of(folder, step)).get('global_step', step)
    if own != step:
        raise ValueError("--resume: checkpoint '{}' holds step {}, so it was copied or renamed; move its files away, "
                         "or start a new run from it with --load".format(prefix_of(folder, step), own))
    for bad, damage in damaged.items():
        logger.warning("--resume: checkpoint '{}' is damaged ({}); '{}' is used instead".format(
            prefix_of(folder, bad), damage, prefix_of(folder, step)))
        for part in PARTS:
            if os.path.exists(prefix_of(folder, bad) + part):
                os.replace(prefix_of(folder, bad) + part, prefix_of(folder, bad) + part + '.damaged')
    return step


def _damage(prefix):
    """What is wrong with a checkpoint; None if it can be read in full."""
    for part in PARTS:
        if not os.path.isfile(prefix + part):
            return '{} is missing'.format(os.path.basename(prefix + part))
    try:
        dict(Stored(prefix))
    except ValueError as error:
        return ' '.join(str(error.__cause__).split())
    return None


def prefix_of(folder, step):
    return os.path.join(folder, 'model-{}'.format(step))


def latest_checkpoint(folder):
    """Prefix of the newest complete checkpoint in ``folder``, or None."""
    steps = saved_steps(folder)
    return prefix_of(folder, steps[-1]) if steps else None


def name_latest(folder):
    """The newest complete checkpoint in ``folder``, for a message."""
    found = latest_checkpoint(folder)
    return "the last good checkpoint is '{}'".format(found) if found else 'there is no checkpoint yet'


def best_record(folder):
    """Content of best.json: ``global_step``, ``epoch`` and the value by which it is the best; {} before there is
    one."""
    path = os.path.join(folder, BEST_FILE)
    return read_checked(path, _parse_best, '; name the checkpoint itself instead') if os.path.isfile(path) else {}


def _parse_best(content):
    checked = b'crc' in content  # those of earlier runs have none
    return parse(without_checksum(content.strip()) if checked else content, _BEST, 'in it')


def best_prefix(folder, step=None):
    step = step or best_record(folder).get('global_step')
    return step and os.path.join(folder, '{}-{}'.format(BEST, step))
