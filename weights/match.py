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

from files.checksums import with_checksum, without_checksum
from files.typed import Malformed, list_of, number, parse, record, text, whole
from ranks.gather import reason
from weights import card
from weights.identity import AVERAGE, SLOT, describe, is_of_training, network_part, refuse_another_network, some
from weights.stored import Stored, fault_of
from zoo import published

CLASSES_FILE = 'classes.json'
BEST = 'best'
BEST_FILE = 'best.json'
_UNFINISHED = '.writing'
PARTS = ('.data-00000-of-00001', '.index')  # in this order: a prefix with an index is complete

_CLASS_NAMES = list_of(text(1000), 10 ** 6, 1)
_CLASSES = record({'classes': _CLASS_NAMES})
_BEST = record({'global_step': whole(0, 2 ** 62), 'epoch': whole(0, 2 ** 62)}, others=number())
_STEPS = re.compile(r'model-(\d+)\.index$')
_ANY_PART = re.compile(r'model-(\d+)({})'.format('|'.join(map(re.escape, PARTS))))


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


def stored(path):
    """The variables of a checkpoint, of which no array has been read yet; see ``find`` and ``Stored``.

    Raises:
        ValueError: not there, or not readable as a checkpoint; the latter also where an array is asked for.
    """
    return Stored(find(path))


def read(path):
    """Read all variables of a checkpoint.

    Returns:
        dict: variable name, without ':0', to array.
    Raises:
        ValueError: not there, or not readable as a checkpoint.
    """
    return dict(stored(path))


def network_variables(variables):
    """Those of ``variables`` that make up the network."""
    return [v for v in variables if not is_of_training(v.op.name)]


class Comparison(NamedTuple):
    """A network beside a checkpoint.

    pairs: (variable, name in the checkpoint) of the variables that fit. missing: names that the checkpoint lacks.
    different: (name, shape in the network, shape in the checkpoint). extra: names that the network lacks, but for what
    training alone needs.
    """
    pairs: List[Tuple]
    missing: List[str]
    different: List[Tuple]
    extra: List[str]


def _shapes(values):
    return values.shapes if isinstance(values, Stored) else {name: np.shape(value) for name, value in values.items()}


def compare(variables, values, averages=False):
    """Lay the network's variables beside a checkpoint's names and shapes; no array is read.

    Args:
        variables (list of tf.Variable): those of training alone are not looked at.
        values (dict or Stored): from ``read`` or ``stored``.
        averages (bool): take the moving averages of the values instead of the values.
    Returns:
        Comparison
    """
    variables, shapes = network_variables(variables), _shapes(values)
    wanted = [(v, v.op.name + (AVERAGE if averages else '')) for v in variables]
    pairs, different = _fit([(v, name) for v, name in wanted if name in shapes], shapes)
    return Comparison(pairs, [name for _, name in wanted if name not in shapes], different,
                      sorted(network_part(shapes).keys() - {v.op.name for v in variables}))


def match(variables, values, path, averages=False):
    """Pair the network's variables with a checkpoint's values.

    Args:
        variables, values, averages: see ``compare``; all variables must be in the checkpoint, and no other network's.
        path (str): for messages.
    Returns:
        list of (variable, array).
    Raises:
        ValueError: the checkpoint is of another network, lacks variables, has them in other shapes or others besides,
            or with values that are no weights; names some of them.
    """
    refuse_another_network(describe({v.op.name: tuple(v.shape.as_list()) for v in variables}),
                           describe(_shapes(values)), path)
    found = compare(variables, values, averages)
    if found.missing:
        variables = network_variables(variables)
        others = [v.op.name + ('' if averages else AVERAGE) for v in variables]
        advice = 'check --arch, --depth, --model-name and the other architecture flags'
        if all(name in values for name in others):
            advice = ('it has the plain weights alone: give --moving-average-decay 0' if averages else
                      'it has their moving averages alone: give --moving-average-decay 0.9999')
        raise ValueError("checkpoint '{}' lacks {} of the network's {} variables: {}; {}".format(
            path, len(found.missing), len(variables), some(found.missing), advice))
    _refuse_other_shapes(found.different, path)
    if found.extra:
        raise ValueError("checkpoint '{}' holds {} variables that the network lacks: {}; {}".format(
            path, len(found.extra), some(found.extra), 'check the architecture flags' if describe(_shapes(values)) else
            'these are variables of no network of this project'))
    return _take(found.pairs, values, path)


def _fit(pairs, shapes):
    """Those of ``pairs`` of (variable, stored name) that fit, and (name, shape, stored shape) of the others.

    The release's evaluation graphs store batch norm's vectors as [1, 1, 1, 1, C], its training graphs as [C].
    """
    fitting, different = [], []
    for v, name in pairs:
        shape, found = v.shape.as_list(), list(shapes[name])
        if found == [1] * (len(found) - len(shape)) + shape:
            fitting.append((v, name))
        else:
            different.append((v.op.name, shape, found))
    return fitting, different


def _refuse_other_shapes(different, path):
    if different:
        raise ValueError("checkpoint '{}' has other shapes: {}; check --num-classes, --group, --res2-bottleneck and "
                         "the other architecture flags".format(path, some([
                             '{} is {} in the network and {} in the checkpoint'.format(*d) for d in different])))


def _take(pairs, values, path):
    """The arrays of ``pairs`` of (variable, stored name), in the variables' shapes.

    Raises:
        ValueError: they are no weights, such as NaN.
    """
    taken = [(v, np.asarray(values[name])) for v, name in pairs]
    faults = ['{} is {}'.format(v.op.name, fault) for v, fault in ((v, fault_of(value)) for v, value in taken) if fault]
    if faults:
        raise ValueError("checkpoint '{}': {} of {} variables are no weights: {}".format(
            path, len(faults), len(pairs), some(faults)))
    return [(v, np.reshape(value, v.shape.as_list())) for v, value in taken]


def load_into(session, pairs):
    """Assign ``pairs`` of (variable, array) in ``session``."""
    pairs = list(pairs)
    # What Variable.load does, for all in one run: one for each prepares the whole graph as often.
    session.run([v.initializer for v, _ in pairs], {
        v.initializer.inputs[1]: np.asarray(value, v.dtype.base_dtype.as_numpy_dtype) for v, value in pairs})


class LoadWeights(SessionInit):
    """Start training from a checkpoint's weights (``--load``), or continue a run exactly (``--resume``).

    Args:
        path (str): see ``find``. values (dict or Stored): from ``read(path)`` or ``stored(path)``.
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
                raise ValueError("cannot resume from '{}': it lacks {}".format(self.path, some(absent)))
            self.pairs = self._pair((v, v.op.name) for v in variables)
            return
        self.pairs = match(variables, self.values, self.path)
        # Moving averages go on from the checkpoint's, or start from its weights.
        averages = [v for v in variables if v.op.name.endswith(AVERAGE)]
        self.pairs += self._pair((v, v.op.name if v.op.name in self.values else v.op.name[:-len(AVERAGE)])
                                 for v in averages)
        if self.global_step is not None:
            self.pairs += self._pair((v, v.op.name) for v in variables
                                     if re.search(SLOT + '$', v.op.name) and v.op.name in self.values)
            self.pairs.append((tf.train.get_global_step(), self.global_step))

    def _pair(self, pairs):
        """Pairs of (variable, stored name), all of which must fit, with the arrays in the variables' shapes."""
        fitting, different = _fit(pairs, _shapes(self.values))
        _refuse_other_shapes(different, self.path)
        return _take(fitting, self.values, self.path)

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
                folder, os.path.basename(latest(folder)), damaged[saved_steps(folder)[-1]]))
        return None
    own = Stored(prefix_of(folder, step)).get('global_step', step)
    if own != step:
        raise ValueError("--resume: checkpoint '{}' holds step {}, so it was copied or renamed; move its files away, or "
                         "start a new run from it with --load".format(prefix_of(folder, step), own))
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


def latest(folder):
    """Prefix of the newest complete checkpoint in ``folder``, or None."""
    steps = saved_steps(folder)
    return prefix_of(folder, steps[-1]) if steps else None


def name_latest(folder):
    """The newest complete checkpoint in ``folder``, for a message."""
    return "the last good checkpoint is '{}'".format(latest(folder)) if latest(folder) else 'there is no checkpoint yet'


def put_in_place(temporary, prefix, network=None):
    """Give a written TensorFlow checkpoint its name, ``prefix``; its index last, with which it is complete.

    network (dict): its card, written beside it; see ``weights.card``.
    """
    if network:
        write_text(prefix + card.ENDING, card.as_text(network))
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
    """Content of a JSON file, as ``check`` of ``files/typed.py`` lets it pass.

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
    """Class names stored with a checkpoint (see ``find``) or beside it, in label order; None where there are none."""
    said = card.read(stored(checkpoint))
    return said['classes'] if said and said['classes'] else classes_in(os.path.dirname(find(checkpoint)))


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
    for part in (*reversed(PARTS), card.ENDING):  # the index first: without it the rest is no checkpoint
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
        network (dict): what the network is, see ``weights.card``, kept beside each checkpoint; None for nothing.
    """

    def __init__(self, folder, keep, monitor, statistics=None, network=None):
        self.folder, self.keep, self.monitor, self.statistics = folder, keep, monitor, statistics
        self.network = network

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
            raise OSError('{} of {} variables are not finite, as {}'.format(len(bad), len(finite), some(bad)))

    def _save(self):
        prefix = prefix_of(self.folder, self.global_step)
        temporary = prefix + _UNFINISHED
        self.saver.save(self.trainer.sess, temporary, write_meta_graph=False, write_state=False)
        put_in_place(temporary, prefix, self.network)
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
        if self.network:
            write_text(best + card.ENDING, card.as_text(self.network))
        for part in PARTS:
            shutil.copyfile(prefix_of(self.folder, step) + part, best + _UNFINISHED + part)
            os.replace(best + _UNFINISHED + part, best + part)
        write_text(os.path.join(self.folder, BEST_FILE),
                   with_checksum({self.monitor: value, 'global_step': step, 'epoch': self.epoch_num}))
        if before and before['global_step'] != step:
            _remove(_best_prefix(self.folder, before['global_step']))
