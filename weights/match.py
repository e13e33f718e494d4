"""A checkpoint's arrays beside a network's variables: refused where they do not fit, else loaded."""
import re
from typing import List, NamedTuple, Optional, Tuple

import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.sessinit import SessionInit
from tensorpack.utils import logger

from nets import ARCHITECTURES
from ranks.terminal import row, say
from training.optimizers import is_of_optimizer
from weights.identity import (
    AVERAGE,
    OR_TRAIN_ANOTHER,
    describe,
    is_of_training,
    network_part,
    refuse_another_network,
    some,
)
from weights.stored import Stored, fault_of


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


def compare_variables(variables, values, averages=False, fresh=None):
    """Lay the network's variables beside a checkpoint's names and shapes; no array is read but those to be adapted.

    Args:
        variables (list of tf.Variable): those of training alone are not looked at.
        values (dict or Stored): from ``read_checkpoint`` or ``open_checkpoint``.
        averages (bool): take the moving averages of the values instead of the values.
        fresh (str): regular expression of whole names that are not looked at, in neither; None: there are none.
    Returns:
        Comparison
    """
    variables, shapes = _without(fresh, network_variables(variables)), _shapes(values)
    wanted = [(v, v.op.name + (AVERAGE if averages else '')) for v in variables]
    pairs, different = _fit([(v, name) for v, name in wanted if name in shapes], values)
    return Comparison(pairs, [name for _, name in wanted if name not in shapes], different,
                      sorted(name for name in network_part(shapes).keys() - {v.op.name for v in variables}
                             if not _is_fresh(fresh, name)))


def _is_fresh(fresh, name):
    return fresh is not None and re.fullmatch(fresh, name) is not None


def _without(fresh, variables):
    return [v for v in variables if not _is_fresh(fresh, v.op.name)]


def has_averages(values):
    """bool: whether a checkpoint has the moving averages of all variables of a network."""
    shapes = _shapes(values)
    names = network_part(shapes)
    return bool(names) and all(name + AVERAGE in shapes for name in names)


def match_variables(variables, values, path, averages=False, fresh=None):
    """Pair the network's variables with a checkpoint's values.

    Args:
        variables, values, averages, fresh: see ``compare_variables``; all variables but the fresh ones must be in the
        checkpoint, and no other network's. path (str): for messages.
    Returns:
        list of (variable, array).
    Raises:
        ValueError: the checkpoint is of another network, lacks variables, has them in other shapes or others besides,
            or with values that are no weights; names some of them.
    """
    network, stored = describe({v.op.name: tuple(v.shape.as_list()) for v in variables}), describe(_shapes(values))
    if network and stored and fresh:
        stored = stored.with_classes(network.options.get('num_classes'))
    refuse_another_network(network, stored, path)
    found = compare_variables(variables, values, averages, fresh)
    if found.missing:
        variables = _without(fresh, network_variables(variables))
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


def _has_shape(found, shape):
    """bool: whether an array of the shape ``found`` is one of ``shape``, but for axes in front.

    The release's evaluation graphs store batch norm's vectors as [1, 1, 1, 1, C], its training graphs as [C].
    """
    return list(found) == [1] * (len(found) - len(shape)) + list(shape)


def _adapted(variable, values, name):
    """A stored array of another shape, as its kind of network goes on with it; None where it does not fit."""
    network = describe(_shapes(values))
    return network and ARCHITECTURES[network.arch].adapt(
        re.sub(AVERAGE + '$', '', name), np.asarray(values[name]), tuple(variable.shape.as_list()))


def _fit(pairs, values):
    """Those of ``pairs`` of (variable, stored name) that fit, and (name, shape, stored shape) of the others."""
    fitting, different, shapes = [], [], _shapes(values)
    for v, name in pairs:
        if _has_shape(shapes[name], v.shape.as_list()) or _adapted(v, values, name) is not None:
            fitting.append((v, name))
        else:
            different.append((v.op.name, v.shape.as_list(), list(shapes[name])))
    return fitting, different


def _refuse_other_shapes(different, path):
    if different:
        raise ValueError("checkpoint '{}' has other shapes: {}; check --num-classes, --group, --res2-bottleneck and "
                         "the other architecture flags{}".format(path, some([
                             '{} is {} in the network and {} in the checkpoint'.format(*d) for d in different]),
                             OR_TRAIN_ANOTHER if _of_a_classifier([name for name, _, _ in different]) else ''))


def _of_a_classifier(names):
    return any(entry.classifier and all(re.fullmatch(entry.classifier, name) for name in names)
               for entry in ARCHITECTURES.values())


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
    return [(v, np.reshape(value, v.shape.as_list()) if _has_shape(np.shape(value), v.shape.as_list()) else
             _adapted(v, values, name)) for (v, value), (_, name) in zip(taken, pairs)]


def load_into(session, pairs):
    """Assign ``pairs`` of (variable, array) in ``session``."""
    pairs = list(pairs)
    # What Variable.load does, for all in one run: one for each prepares the whole graph as often.
    session.run([v.initializer for v, _ in pairs], {
        v.initializer.inputs[1]: np.asarray(value, v.dtype.base_dtype.as_numpy_dtype) for v, value in pairs})


class Tuning(NamedTuple):
    """What a training takes of a checkpoint whose layers it goes on from; its own averages begin with the same.

    fresh: as of ``match_variables``; these keep their initial values. averages: whether the moving averages stand for
    the weights, as where the checkpoint is judged by them; None: where there are averages of all weights.
    """
    fresh: Optional[str] = None
    averages: Optional[bool] = None


class LoadWeights(SessionInit):
    """Start training from a checkpoint's weights (``--load``), or continue a run exactly (``--resume``).

    Args:
        path (str): see ``find_checkpoint``. values (dict or Stored): from it.
        everything (bool): restore momentum, learning rate and global step too; all must be there.
        global_step (int): set the step counter to this instead, and take momentum where the checkpoint has it.
        tuning (Tuning): take that instead of weights and averages each for itself.
    """

    def __init__(self, path, values, everything=False, global_step=None, tuning=None):
        self.path, self.values, self.everything, self.global_step = path, values, everything, global_step
        self.tuning = tuning

    def _setup_graph(self):
        variables = tf.global_variables()
        if self.everything:
            absent = [v.op.name for v in variables if v.op.name not in self.values]
            if absent:
                raise ValueError("cannot resume from '{}': it lacks {}".format(self.path, some(absent)))
            self.pairs = self._pair((v, v.op.name) for v in variables)
            return
        if self.tuning is not None:
            self.pairs = self._tuned(variables)
            return
        self.pairs = match_variables(variables, self.values, self.path)
        # Moving averages go on from the checkpoint's, or start from its weights.
        averages = [v for v in variables if v.op.name.endswith(AVERAGE)]
        self.pairs += self._pair((v, v.op.name if v.op.name in self.values else v.op.name[:-len(AVERAGE)])
                                 for v in averages)
        if self.global_step is not None:
            self.pairs += self._pair((v, v.op.name) for v in variables
                                     if is_of_optimizer(v.op.name) and v.op.name in self.values)
            self.pairs.append((tf.train.get_global_step(), self.global_step))

    def _tuned(self, variables):
        averages = has_averages(self.values) if self.tuning.averages is None else self.tuning.averages
        pairs = match_variables(variables, self.values, self.path, averages, self.tuning.fresh)
        values = {v.op.name: value for v, value in pairs}
        begun = [v for v in network_variables(variables) if v.op.name not in values]
        say(row('weights', "{} of '{}'{}".format(
            'moving averages' if averages else 'those', self.path,
            '; new for these classes: ' + ', '.join(v.op.name for v in begun) if begun else '')))
        # The averages of fresh variables begin with their initial values, as all do without a checkpoint.
        return pairs + [(v, values[v.op.name[:-len(AVERAGE)]]) for v in variables
                        if v.op.name.endswith(AVERAGE) and v.op.name[:-len(AVERAGE)] in values]

    def _pair(self, pairs):
        """Pairs of (variable, stored name), all of which must fit, with the arrays in the variables' shapes."""
        fitting, different = _fit(pairs, self.values)
        _refuse_other_shapes(different, self.path)
        return _take(fitting, self.values, self.path)

    def _run_init(self, sess):
        load_into(sess, self.pairs)
        logger.info("Loaded {} variables from {}".format(len(self.pairs), self.path))
