"""Weights on disk: reading the released formats strictly, and writing a checkpoint whole or not at all."""
import contextlib
import os
import re
import shutil
from typing import List, NamedTuple, Tuple

import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.callbacks import Callback
from tensorpack.tfutils.sessinit import SessionInit
from tensorpack.utils import logger

from checksums import with_checksum, without_checksum
from third_party.typed import Malformed, list_of, number, parse, record, text, whole
from third_party.utils import reason
from zoo import published

CLASSES_FILE = 'classes.json'
BEST = 'best'
BEST_FILE = 'best.json'
_UNFINISHED = '.writing'
PARTS = ('.data-00000-of-00001', '.index')  # in this order: a prefix with an index is complete

# Moving average of a variable in the released EfficientNet checkpoints.
AVERAGE = '/ExponentialMovingAverage'
# What a training checkpoint holds beside the network; a checkpoint without them is still a network.
_SLOT = r'/(Momentum|RMSProp|RMSProp_1)'
_TRAINING_ONLY = re.compile(r'(^global_step|^learning_rate|{}|{})$'.format(_SLOT, AVERAGE))
MOST_CLASSES = 10 ** 6
_CLASS_NAMES = list_of(text(1000), MOST_CLASSES, 1)
_CLASSES = record({'classes': _CLASS_NAMES})
_BEST = record({'global_step': whole(0, 2 ** 62), 'epoch': whole(0, 2 ** 62)}, others=number())
_STEPS = re.compile(r'model-(\d+)\.index$')
_ANY_PART = re.compile(r'model-(\d+)({})'.format('|'.join(map(re.escape, PARTS))))
_SHOWN = 3  # names in an error message


def find(path):
    """What ``--load path`` means: an .npz or .npy file, or the prefix of a TensorFlow checkpoint.

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
    if path.endswith(('.npz', '.npy')):
        if not os.path.isfile(path):
            raise ValueError("--load '{}': no such file".format(path))
        return path
    prefix = re.sub(r'\.(index|meta|data-\d+-of-\d+)$', '', path)
    folder, name = os.path.split(prefix)
    if not os.path.isfile(prefix + '.index'):
        if name == BEST:
            prefix = _best_prefix(folder) or prefix
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
        raise ValueError("--load '{}': the file '{}' is damaged, or what it names is gone; give a checkpoint's own name{}"
                         .format(folder, state, ", such as '{}'".format(latest(folder)) if latest(folder) else ''))
    return newest


def read(path):
    """Read all variables of a checkpoint.

    Returns:
        dict: variable name, without ':0', to array.
    Raises:
        ValueError: not there, or not readable as a checkpoint.
    """
    path = find(path)
    try:
        if path.endswith('.npz'):
            with np.load(path, allow_pickle=False) as archive:
                values = {name: archive[name] for name in archive.files}
        elif path.endswith('.npy'):
            # tensorpack's older dictionaries are pickled; such a file can run code, as the README warns.
            values = np.load(path, allow_pickle=True, encoding='latin1').item()
        else:
            values = _read_tensors(path)
    except Exception as error:  # NumPy, zip and TensorFlow each have their own for a damaged file
        raise ValueError("--load '{}': not a readable checkpoint ({})".format(path, ' '.join(str(error).split()))) \
            from error
    return {re.sub(r':0$', '', name): value for name, value in values.items()}


def _read_tensors(prefix):
    reader = tf.train.NewCheckpointReader(prefix)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def is_of_training(name):
    """bool: whether the variable ``name`` is the optimizer's and such, or a moving average: not of the network."""
    return _TRAINING_ONLY.search(name) is not None


def network_variables(variables):
    """Those of ``variables`` that make up the network."""
    return [v for v in variables if not is_of_training(v.op.name)]


class Comparison(NamedTuple):
    """A network beside a checkpoint.

    pairs: (variable, array in its shape) of the variables that fit. missing: names that the checkpoint lacks.
    different: (name, shape in the network, shape in the checkpoint). extra: names that the network lacks, but for what
    training alone needs.
    """
    pairs: List[Tuple]
    missing: List[str]
    different: List[Tuple]
    extra: List[str]


def compare(variables, values, averages=False):
    """Lay the network's variables beside a checkpoint's values.

    Args:
        variables (list of tf.Variable): those of training alone are not looked at.
        values (dict): from ``read``.
        averages (bool): take the moving averages of the values instead of the values.
    Returns:
        Comparison
    """
    variables = network_variables(variables)
    names = [v.op.name + (AVERAGE if averages else '') for v in variables]
    there = [(v, values[name]) for v, name in zip(variables, names) if name in values]
    pairs, different = _fit(there)
    known = {v.op.name for v in variables}
    return Comparison(pairs, [name for name in names if name not in values], different,
                      sorted(name for name in values if name not in known and not is_of_training(name)))


def match(variables, values, path, averages=False):
    """Pair the network's variables with a checkpoint's values.

    Args:
        variables, values, averages: see ``compare``; all variables must be in the checkpoint. path (str): for messages.
    Returns:
        list of (variable, array).
    Raises:
        ValueError: variables that the checkpoint lacks, or has in another shape; names some of them.
    """
    found = compare(variables, values, averages)
    if found.missing:
        variables = network_variables(variables)
        others = [v.op.name + ('' if averages else AVERAGE) for v in variables]
        advice = 'check --arch, --depth, --model-name and the other architecture flags'
        if all(name in values for name in others):
            advice = ('it has the plain weights alone: give --moving-average-decay 0' if averages else
                      'it has their moving averages alone: give --moving-average-decay 0.9999')
        raise ValueError("checkpoint '{}' lacks {} of the network's {} variables: {}; {}".format(
            path, len(found.missing), len(variables), _some(found.missing), advice))
    _refuse_other_shapes(found.different, path)
    return found.pairs


def _fit(pairs):
    """``pairs`` with the arrays in the variables' shapes, and (name, shape, stored shape) of those that do not fit.

    The release's evaluation graphs store batch norm's vectors as [1, 1, 1, 1, C], its training graphs as [C].
    """
    fitting, different = [], []
    for v, value in pairs:
        shape, stored = v.shape.as_list(), list(np.shape(value))
        if stored == [1] * (len(stored) - len(shape)) + shape:
            fitting.append((v, np.reshape(value, shape)))
        else:
            different.append((v.op.name, shape, stored))
    return fitting, different


def _refuse_other_shapes(different, path):
    if different:
        raise ValueError("checkpoint '{}' has other shapes: {}; check --num-classes, --group, --res2-bottleneck and "
                         "the other architecture flags".format(path, _some([
                             '{} is {} in the network and {} in the checkpoint'.format(*d) for d in different])))


def _pair(variables, values, path):
    """Variables with their values, in the variables' shapes."""
    pairs, different = _fit(zip(variables, values))
    _refuse_other_shapes(different, path)
    return pairs


def _some(items):
    return ', '.join(items[:_SHOWN]) + (' and {} more'.format(len(items) - _SHOWN) if len(items) > _SHOWN else '')


def load_into(session, pairs):
    """Assign ``pairs`` of (variable, array) in ``session``."""
    pairs = list(pairs)
    # What Variable.load does, for all in one run: one for each prepares the whole graph as often.
    session.run([v.initializer for v, _ in pairs], {
        v.initializer.inputs[1]: np.asarray(value, v.dtype.base_dtype.as_numpy_dtype) for v, value in pairs})


class LoadWeights(SessionInit):
    """Start training from a checkpoint's weights (``--load``), or continue a run exactly (``--resume``).

    Args:
        path (str): see ``find``. values (dict): from ``read(path)``.
        everything (bool): restore momentum, learning rate and global step too; all must be there.
        global_step (int): set the step counter to this instead, and take momentum where the checkpoint has it.
    """

    def __init__(self, path, values, everything=False, global_step=None):
        self.path, self.values, self.everything, self.global_step = path, values, everything, global_step

    def _setup_graph(self):
        variables = tf.global_variables()
        if self.everything:
            absent = [v.op.name for v in variables if v.op.name not in self.values]
            if absent:
                raise ValueError("cannot resume from '{}': it lacks {}".format(self.path, _some(absent)))
            self.pairs = _pair(variables, [self.values[v.op.name] for v in variables], self.path)
            return
        self.pairs = match(variables, self.values, self.path)
        # Moving averages go on from the checkpoint's, or start from its weights.
        averages = [v for v in variables if v.op.name.endswith(AVERAGE)]
        self.pairs += _pair(averages, [self.values.get(v.op.name, self.values[v.op.name[:-len(AVERAGE)]])
                                       for v in averages], self.path)
        if self.global_step is not None:
            slots = [v for v in variables if re.search(_SLOT + '$', v.op.name) and v.op.name in self.values]
            self.pairs += _pair(slots, [self.values[v.op.name] for v in slots], self.path)
            self.pairs.append((tf.train.get_global_step(), self.global_step))

    def _run_init(self, sess):
        load_into(sess, self.pairs)
        logger.info("Loaded {} variables from {}".format(len(self.pairs), self.path))


def saved_steps(folder):
    """Global steps of the complete checkpoints in ``folder``, ascending."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    steps = sorted(int(m.group(1)) for m in map(_STEPS.match, names) if m)
    return [s for s in steps if os.path.isfile(prefix_of(folder, s) + PARTS[0])]


def newest_whole(folder):
    """Step of the newest checkpoint in ``folder`` that can be read; None where none has been finished yet.

    Damaged ones after it get the ending ``.damaged``, so that they are neither overwritten nor counted any more.

    Raises:
        ValueError: there are checkpoints, and all are damaged. OSError: they cannot be renamed.
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
                folder, os.path.basename(latest(folder)), damaged[saved_steps(folder)[-1]]))
        return None
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
        _read_tensors(prefix)
    except Exception as error:  # RuntimeError, ValueError and several of TensorFlow's own
        return ' '.join(str(error).split())
    return None


def prefix_of(folder, step):
    return os.path.join(folder, 'model-{}'.format(step))


def latest(folder):
    """Prefix of the newest complete checkpoint in ``folder``, or None."""
    steps = saved_steps(folder)
    return prefix_of(folder, steps[-1]) if steps else None


def name_latest(folder):
    """The newest complete checkpoint in ``folder``, for a message."""
    return "the last good checkpoint is '{}'".format(latest(folder)) if latest(folder) else 'there is no checkpoint yet'


def put_in_place(temporary, prefix):
    """Give a written TensorFlow checkpoint its name, ``prefix``; its index last, with which it is complete."""
    for part in PARTS:
        with open(temporary + part, 'rb') as f:
            os.fsync(f.fileno())
        os.replace(temporary + part, prefix + part)


def write_text(path, text):
    """Write a file whole or not at all."""
    temporary = path + _UNFINISHED
    with open(temporary, 'w') as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)


def keep_older(path):
    """Rename a file that is there already, by a number before its ending.

    Returns:
        str: its new path; None where there is none.
    """
    if not os.path.exists(path):
        return None
    stem, extension = os.path.splitext(path)
    number = 1
    while os.path.exists('{}.{}{}'.format(stem, number, extension)):
        number += 1
    os.rename(path, '{}.{}{}'.format(stem, number, extension))
    return '{}.{}{}'.format(stem, number, extension)


def read_json(path, check, advice=''):
    """Content of a JSON file, as ``check`` of ``third_party/typed.py`` lets it pass.

    Raises:
        ValueError: it is damaged or something else; ``advice`` is added to the message.
    """
    return _read_text(path, lambda content: parse(content, check, 'in it'), advice)


def _read_text(path, read, advice=''):
    with open(path, 'rb') as f:
        content = f.read()
    try:
        return read(content)
    except Malformed as error:
        raise ValueError("'{}' is damaged ({}){}".format(path, error, advice)) from error


def write_classes(folder, classes):
    write_text(os.path.join(folder, CLASSES_FILE), with_checksum({'classes': list(classes)}))


def read_classes(checkpoint):
    """Class names stored beside a checkpoint (see ``find``); None where there are none."""
    return classes_in(os.path.dirname(find(checkpoint)))


def classes_in(folder):
    """Class names, in label order, stored in ``folder``; None where there are none."""
    path = os.path.join(folder, CLASSES_FILE)
    return _read_text(path, _parse_classes) if os.path.isfile(path) else None


def _parse_classes(content):
    if content.startswith(b'['):  # a bare list: written by hand, or by runs before there was a checksum
        return parse(content, _CLASS_NAMES, 'in it')
    return parse(without_checksum(content.strip()), _CLASSES, 'in it')['classes']


def _best_record(folder):
    """Content of best.json: ``global_step``, ``epoch`` and the value by which it is the best; {} before there is one."""
    path = os.path.join(folder, BEST_FILE)
    return _read_text(path, _parse_best, '; name the checkpoint itself instead') if os.path.isfile(path) else {}


def _parse_best(content):
    checked = b'crc' in content  # those of earlier runs have none
    return parse(without_checksum(content.strip()) if checked else content, _BEST, 'in it')


def _best_prefix(folder, step=None):
    step = step or _best_record(folder).get('global_step')
    return step and os.path.join(folder, '{}-{}'.format(BEST, step))


def _remove(prefix):
    for part in reversed(PARTS):  # the index first: without it the rest is no checkpoint
        if os.path.exists(prefix + part):
            os.remove(prefix + part)


class CheckpointSaver(Callback):
    """Saves all variables after each epoch: ``model-<step>``, the newest ``keep`` of them, and the best one.

    The best is that with the lowest ``monitor`` (a scalar), kept as ``best-<step>``, which best.json names. A
    checkpoint is written under a temporary name and renamed, its index last, so one with an index is whole. It is never
    written with a variable that is not finite. Where it cannot be written, OSError says why and which one is left.

    Args:
        folder (str). keep (int). monitor (str).
        statistics (Callback): brought up to date first, so that the history never lags behind the checkpoint.
    """

    def __init__(self, folder, keep, monitor, statistics=None):
        self.folder, self.keep, self.monitor, self.statistics = folder, keep, monitor, statistics

    def _setup_graph(self):
        self.saver = tf.train.Saver(tf.global_variables(), max_to_keep=None)
        self._finite = {v.op.name: tf.reduce_all(tf.is_finite(v)) for v in tf.global_variables() if v.dtype.is_floating}

    def _before_train(self):
        for name in os.listdir(self.folder):  # what a killed run of this directory left half-written
            if _UNFINISHED in name:
                os.remove(os.path.join(self.folder, name))

    def _trigger_epoch(self):
        with self._failing_in_one_line():
            self._check_finite()
            if self.statistics:
                self.statistics.trigger_epoch()
            self._save()
            self._keep_best(self.global_step)
            for old in saved_steps(self.folder)[:-self.keep]:
                _remove(prefix_of(self.folder, old))

    def save(self):
        """Save all variables as they are now, in the middle of an epoch too."""
        with self._failing_in_one_line():
            self._check_finite()
            self._save()

    @contextlib.contextmanager
    def _failing_in_one_line(self):
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            raise OSError('cannot write the checkpoint of step {}: {}; {}'.format(
                self.global_step, reason(error), name_latest(self.folder))) from error

    def _check_finite(self):
        finite = self.trainer.sess.run(self._finite)
        bad = sorted(name for name in finite if not finite[name])
        if bad:
            raise OSError('{} of {} variables are not finite, as {}'.format(len(bad), len(finite), _some(bad)))

    def _save(self):
        prefix = prefix_of(self.folder, self.global_step)
        temporary = prefix + _UNFINISHED
        self.saver.save(self.trainer.sess, temporary, write_meta_graph=False, write_state=False)
        put_in_place(temporary, prefix)
        write_text(os.path.join(self.folder, 'checkpoint'),
                   'model_checkpoint_path: "{}"\n'.format(os.path.basename(prefix)))

    def _keep_best(self, step):
        try:
            value = self.trainer.monitors.get_latest(self.monitor)
        except KeyError:  # not evaluated yet
            return
        try:
            before = _best_record(self.folder)
        except ValueError as error:
            logger.warning('{}: the best checkpoint is chosen anew'.format(error))
            before = {}
        # A resumed run may be judged by another number of steps; then the search starts anew.
        if before.get(self.monitor, float('inf')) <= value:
            return
        best = _best_prefix(self.folder, step)
        for part in PARTS:
            shutil.copyfile(prefix_of(self.folder, step) + part, best + _UNFINISHED + part)
            os.replace(best + _UNFINISHED + part, best + part)
        write_text(os.path.join(self.folder, BEST_FILE),
                   with_checksum({self.monitor: value, 'global_step': step, 'epoch': self.epoch_num}))
        if before and before['global_step'] != step:
            _remove(_best_prefix(self.folder, before['global_step']))
