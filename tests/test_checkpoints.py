"""Reading the released formats strictly, and writing checkpoints that a crash at any moment leaves whole."""
import json
import os
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

from files.atomic import write_text
from networks import make_network
from weights.classes import read_classes, write_classes
from weights.find import latest_checkpoint, read_checkpoint, saved_steps
from weights.match import LoadWeights, load_into, match_variables, network_variables
from weights.save import CheckpointSaver

VALUES = {'conv0/W': np.arange(12, dtype=np.float32).reshape(3, 4), 'conv0/bn/mean/EMA': np.ones(4, np.float32)}
MONITOR = 'eval-10step-top1-error'


def same(found, expected):
    return found.keys() == expected.keys() and all(np.array_equal(found[k], expected[k]) for k in expected)


def make_variables(values, dtype=tf.float32):
    return [tf.get_variable(name, np.shape(value), dtype, tf.zeros_initializer()) for name, value in values.items()]


def save(session, prefix, write_meta_graph=True):
    """What TensorFlow's own saver leaves behind: the three files and ``checkpoint``."""
    return tf.train.Saver().save(session, str(prefix), write_meta_graph=write_meta_graph)


@pytest.mark.parametrize('suffix', ['', ':0'])
def test_npz_names_may_end_in_the_output_number(tmp_path, suffix):
    path = str(tmp_path / 'X.npz')
    np.savez(path, **{name + suffix: value for name, value in VALUES.items()})
    assert same(read_checkpoint(path), VALUES)


@pytest.mark.parametrize('suffix', ['', ':0'])
def test_tensorpack_s_older_npy_dictionaries_are_read(tmp_path, suffix):
    path = str(tmp_path / 'X.npy')
    np.save(path, {name + suffix: value for name, value in VALUES.items()}, allow_pickle=True)
    assert same(read_checkpoint(path), VALUES)


def test_a_npz_with_pickled_objects_is_refused_unread(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'code-has-run'),)
    path = str(tmp_path / 'X.npz')
    np.savez(path, W=np.array([Trap()], dtype=object))
    with pytest.raises(ValueError, match='not a readable checkpoint'):
        read_checkpoint(path)
    assert not (tmp_path / 'code-has-run').exists()


@pytest.fixture
def saved(tmp_path, sess):
    """Prefix of a checkpoint that TensorFlow's own saver wrote."""
    for variable, value in zip(make_variables(VALUES), VALUES.values()):
        variable.load(value, sess)
    (tmp_path / 'run').mkdir()
    return save(sess, tmp_path / 'run' / 'model-500')


@pytest.mark.parametrize('name', ['model-500', 'model-500.index', 'model-500.meta', 'model-500.data-00000-of-00001',
                                  'checkpoint', '.', ''])
def test_a_tensorflow_checkpoint_may_be_named_by_prefix_file_or_folder(saved, name):
    path = os.path.join(os.path.dirname(saved), name)
    assert same(read_checkpoint(path), VALUES)


def test_a_folder_s_checkpoint_may_be_named_from_inside(saved, monkeypatch):
    monkeypatch.chdir(os.path.dirname(saved))
    for name in ('checkpoint', '.', 'model-500'):
        assert same(read_checkpoint(name), VALUES)


def test_the_checkpoint_file_decides_which_of_the_checkpoints_is_meant(tmp_path, sess):
    variable, = make_variables({'W': 0.0})
    for step in (100, 200, 300):
        variable.load(float(step), sess)
        save(sess, tmp_path / 'net.ckpt-{}'.format(step))
    assert read_checkpoint(str(tmp_path / 'checkpoint'))['W'] == 300


def test_a_folder_beside_a_checkpoint_of_the_same_name_does_not_hide_it(saved):
    os.mkdir(saved)
    assert same(read_checkpoint(saved), VALUES)


@pytest.mark.parametrize('damage', ['truncated', 'swapped'])
def test_a_damaged_tensorflow_checkpoint_is_refused_by_name(saved, damage):
    path = saved + '.data-00000-of-00001'
    with open(path, 'rb') as f:
        content = f.read()
    with open(path, 'wb') as f:
        f.write(content[:10] if damage == 'truncated' else content[::-1])
    with pytest.raises(ValueError, match=re.escape(saved)):
        read_checkpoint(saved)


def test_a_tensorflow_checkpoint_without_its_data_is_refused_by_name(saved):
    os.remove(saved + '.data-00000-of-00001')
    with pytest.raises(ValueError, match=re.escape(saved)):
        read_checkpoint(saved)


def test_absent_variables_are_counted_and_named(graph):
    variables = make_variables({'W{}'.format(k): 0.0 for k in range(5)})
    with pytest.raises(ValueError, match=r"'X.npz' lacks 4 of the network's 5 variables: W1, W2, W3 and 1 more"):
        match_variables(variables, {'W0': np.float32(0)}, 'X.npz')


def test_other_shapes_are_refused_with_both(graph):
    variables = make_variables({'linear/W': np.zeros([64, 10])})
    with pytest.raises(ValueError, match=r"'X.npz'.*linear/W is \[64, 10\] in the network and \[64, 7\] in the checkp"):
        match_variables(variables, {'linear/W': np.zeros([64, 7])}, 'X.npz')


def test_a_shape_that_would_broadcast_is_refused_too(graph):
    with pytest.raises(ValueError, match='other shapes'):
        match_variables(make_variables({'b': np.zeros(3)}), {'b': np.zeros([1])}, 'X.npz')


def test_what_only_training_has_is_neither_wanted_nor_loaded(graph):
    variables = make_variables({'linear/W': 0.0, 'linear/W/Momentum': 0.0, 'learning_rate': 0.0, 'global_step': 0.0})
    values = {'linear/W': np.float32(3), 'learning_rate': np.float32(3), 'unused/Momentum': np.zeros(9)}
    assert [v.op.name for v, _ in match_variables(variables, values, 'X.npz')] == ['linear/W']


@pytest.mark.parametrize('slot', ['Momentum', 'RMSProp', 'RMSProp_1', 'ExponentialMovingAverage'])
def test_neither_slots_nor_averages_are_of_the_network(graph, slot):
    variables = make_variables({'W': 0.0, 'W/' + slot: 0.0, 'W/Other': 0.0, 'RMSProp/W': 0.0, 'global_step': 0.0})
    assert [v.op.name for v in network_variables(variables)] == ['W', 'W/Other', 'RMSProp/W']


def with_averages(values):
    return dict(values, **{name + '/ExponentialMovingAverage': -value - 1 for name, value in values.items()})


@pytest.mark.parametrize('averages', [False, True])
def test_plain_weights_or_their_averages_are_taken_as_asked(graph, averages):
    pairs = match_variables(make_variables(VALUES), with_averages(VALUES), 'X.npz', averages)
    assert len(pairs) == len(VALUES)
    for variable, value in pairs:
        np.testing.assert_array_equal(value, -VALUES[variable.op.name] - 1 if averages else VALUES[variable.op.name])


def test_a_checkpoint_without_averages_is_refused_with_the_flag_for_its_plain_weights(graph):
    with pytest.raises(ValueError, match=r"'X.npz' lacks 2 of the network's 2 variables: conv0/W/ExponentialMoving"
                                         r"Average, .*plain weights alone: give --moving-average-decay 0$"):
        match_variables(make_variables(VALUES), VALUES, 'X.npz', averages=True)


def test_a_checkpoint_of_averages_alone_is_refused_with_the_flag_for_them(graph):
    values = {name + '/ExponentialMovingAverage': value for name, value in VALUES.items()}
    with pytest.raises(ValueError, match=r"lacks 2 .*averages alone: give --moving-average-decay 0.9999$"):
        match_variables(make_variables(VALUES), values, 'X.npz')


@pytest.mark.parametrize('averages', [False, True])
def test_a_checkpoint_of_another_network_is_refused_with_the_architecture_flags(graph, averages):
    # One of the network's two variables is there, in both kinds.
    values = with_averages({'conv0/W': VALUES['conv0/W'], 'other/W': np.zeros(1)})
    with pytest.raises(ValueError, match='lacks 1 of .* check --arch, --depth, --model-name') as error:
        match_variables(make_variables(VALUES), values, 'X.npz', averages)
    assert '--moving-average-decay' not in str(error.value)


@pytest.mark.parametrize('averages', [False, True])
def test_batch_norm_vectors_of_rank_five_are_loaded_as_vectors(sess, averages):
    """As the EfficientNet release's evaluation graph stores them."""
    values = {'W': np.arange(8.0).reshape(1, 1, 2, 4), 'tpu_batch_normalization/gamma': np.arange(4.0)}
    variables = make_variables(values)
    stored = dict(values, **{'tpu_batch_normalization/gamma': np.arange(4.0).reshape(1, 1, 1, 1, 4)})
    if averages:
        stored = {name + '/ExponentialMovingAverage': value for name, value in stored.items()}
    load_into(sess, match_variables(variables, stored, 'X.npz', averages))
    for variable in variables:
        np.testing.assert_array_equal(sess.run(variable), values[variable.op.name])


@pytest.mark.parametrize('wanted, stored', [
    ([4], [1, 1, 4, 1]), ([4], [1, 1, 2, 2]), ([4], [2, 1, 1, 1, 4]), ([1, 4], [4]), ([4], [1]), ([], [1, 2]),
    ([2, 3], [3, 2]), ([2, 3], [1, 3, 2])])
def test_no_other_shape_is_taken_for_a_vector(graph, wanted, stored):
    with pytest.raises(ValueError, match='other shapes'):
        match_variables(make_variables({'W': np.zeros(wanted)}), {'W': np.zeros(stored)}, 'X.npz')


def load_weights(sess, values, **options):
    """What ``LoadWeights`` makes of a network of one weight with its average and slot, at step 0."""
    make_variables({'W': 0.0, 'W/ExponentialMovingAverage': 0.0, 'W/RMSProp': 0.0, 'learning_rate': 0.0})
    tf.train.get_or_create_global_step()
    sess.run(tf.global_variables_initializer())
    init = LoadWeights('X.npz', {k: np.float32(v) for k, v in values.items()}, **options)
    init._setup_graph()
    init._run_init(sess)
    return {v.op.name: float(sess.run(v)) for v in tf.global_variables()}


def test_training_from_weights_without_averages_starts_the_averages_from_them(sess):
    assert load_weights(sess, {'W': 3}) == {
        'W': 3, 'W/ExponentialMovingAverage': 3, 'W/RMSProp': 0, 'learning_rate': 0, 'global_step': 0}


def test_training_from_weights_with_averages_goes_on_from_both(sess):
    assert load_weights(sess, {'W': 3, 'W/ExponentialMovingAverage': 4, 'W/RMSProp': 5, 'learning_rate': 6}) == {
        'W': 3, 'W/ExponentialMovingAverage': 4, 'W/RMSProp': 0, 'learning_rate': 0, 'global_step': 0}


def test_training_from_a_later_step_takes_the_slots_too(sess):
    values = {'W': 3, 'W/ExponentialMovingAverage': 4, 'W/RMSProp': 5, 'learning_rate': 6, 'global_step': 9}
    assert load_weights(sess, values, global_step=7) == dict(values, learning_rate=0, global_step=7)


def test_a_resumed_run_wants_its_averages(sess):
    with pytest.raises(ValueError, match="cannot resume from 'X.npz': it lacks W/ExponentialMovingAverage$"):
        load_weights(sess, {'W': 3, 'W/RMSProp': 5, 'learning_rate': 6, 'global_step': 9}, everything=True)


def test_half_precision_values_are_loaded_into_float32_variables(sess):
    variable, = make_variables({'W': np.zeros(2)})
    load_into(sess, match_variables([variable], {'W': np.array([0.5, -2], np.float16)}, 'X.npz'))
    assert sess.run(variable).tolist() == [0.5, -2]


@pytest.fixture
def small_network():
    """function() -> logits of a fixed batch, with CifarResNet-8's variables in the default graph."""
    images = np.random.default_rng(0).uniform(-1, 1, [3, 16, 16, 3]).astype(np.float32)

    def build():
        with TowerContext('', is_training=False):
            return make_network('--arch', 'CifarResNet', '-d', '8', '--input-size', '16',
                                '--data-format', 'NHWC').get_logits(tf.constant(images))
    return build


def test_a_training_checkpoint_of_tensorflow_s_saver_gives_the_same_network(tmp_path, small_network):
    """As published for SAT: a folder with the three files, momentum and step counter among the variables."""
    prefix = str(tmp_path / 'R8_SAT' / 'R8_SAT')
    random = np.random.default_rng(0)
    with tf.Graph().as_default(), tf.Session() as session:
        logits = small_network()
        for variable in tf.trainable_variables():
            tf.get_variable(variable.op.name + '/Momentum', variable.shape)
        tf.get_variable('learning_rate', initializer=0.1)
        session.run(tf.train.get_or_create_global_step().initializer)
        for variable in tf.global_variables()[:-1]:
            variable.load(random.uniform(0.1, 1, variable.shape), session)
        names = [v.op.name for v in tf.global_variables()]
        expected = session.run(logits)
        os.mkdir(os.path.dirname(prefix))
        save(session, prefix)
    assert {'conv0/W', 'conv0/bn/gamma', 'conv0/bn/beta', 'conv0/bn/mean/EMA', 'conv0/bn/variance/EMA', 'linear/W',
            'linear/b', 'group2/block0/conv2/W', 'group2/block0/conv2/bn/variance/EMA'} < set(names)
    with tf.Graph().as_default(), tf.Session() as session:
        logits = small_network()
        values = read_checkpoint(prefix)
        load_into(session, match_variables(tf.global_variables(), values, prefix))
        found = session.run(logits)
    assert np.ptp(expected) > 0
    assert np.array_equal(found, expected)


class Trainer:
    """As much of a trainer as CheckpointSaver looks at; one step an epoch."""

    def __init__(self, sess):
        self.sess, self.monitors, self.epoch_num, self.errors = sess, self, 0, {}
        self.W, = make_variables({'W': np.zeros(1000)})

    @property
    def global_step(self):
        return self.epoch_num

    def get_latest(self, name):
        return self.errors[name]

    def run(self, saver, epoch, error=None):
        """End an epoch after which all values of W are its number."""
        self.epoch_num = epoch
        if error is not None:
            self.errors[MONITOR] = error
        self.W.load(np.full(1000, epoch, np.float32), self.sess)
        saver.trigger_epoch()


@pytest.fixture
def trainer(sess):
    return Trainer(sess)


@pytest.fixture
def make_saver(trainer, tmp_path):
    def make(keep=10):
        saver = CheckpointSaver(str(tmp_path), keep, MONITOR)
        saver.setup_graph(trainer)
        return saver
    return make


def epoch_of(prefix):
    """The epoch that a checkpoint of ``Trainer`` was written in; fails for a mixture."""
    epoch, = np.unique(read_checkpoint(str(prefix))['W'])
    return int(epoch)


def test_each_epoch_is_saved_under_its_step(make_saver, trainer, tmp_path):
    saver = make_saver()
    for epoch in (1, 2, 10):
        trainer.run(saver, epoch)
    assert saved_steps(str(tmp_path)) == [1, 2, 10]
    assert [epoch_of(tmp_path / 'model-{}'.format(k)) for k in (1, 2, 10)] == [1, 2, 10]
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'model-10')
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / 'model-10')
    assert not [name for name in os.listdir(tmp_path) if 'writing' in name]


def test_only_the_newest_and_the_best_are_kept(make_saver, trainer, tmp_path):
    saver = make_saver(keep=2)
    for epoch, error in enumerate([0.9, 0.5, 0.7, 0.5, 0.6], 1):
        trainer.run(saver, epoch, error)
    assert saved_steps(str(tmp_path)) == [4, 5]
    assert epoch_of(tmp_path / 'best') == 2
    with open(tmp_path / 'best.json') as f:
        found = json.load(f)
    assert {name: found[name] for name in found if name != 'crc32'} == {MONITOR: 0.5, 'global_step': 2, 'epoch': 2}
    names = {re.sub(r'\..*', '', name) for name in os.listdir(tmp_path)}
    assert names == {'model-4', 'model-5', 'best-2', 'best', 'checkpoint'}


def test_a_resumed_run_keeps_the_best_of_before(make_saver, trainer, tmp_path):
    trainer.run(make_saver(), 1, 0.3)
    resumed = make_saver()
    trainer.run(resumed, 2, 0.4)
    assert epoch_of(tmp_path / 'best') == 1
    trainer.run(resumed, 3, 0.2)
    assert epoch_of(tmp_path / 'best') == 3


def test_without_an_evaluation_there_is_no_best(make_saver, trainer, tmp_path):
    trainer.run(make_saver(), 1)
    assert not list(tmp_path.glob('best*'))


def test_a_best_of_another_evaluation_does_not_stop_the_run(make_saver, trainer, tmp_path):
    """As left by a run with another --eval-attack-iter, which a resumed run may change."""
    (tmp_path / 'best.json').write_text(json.dumps({'eval-20step-top1-error': 0.5, 'global_step': 1, 'epoch': 1}))
    trainer.run(make_saver(), 2, 0.4)
    assert epoch_of(tmp_path / 'model-2') == 2


class Killed(BaseException):
    """What ends the process in the test of crashes."""


RENAMES = 6  # data and index of the checkpoint, `checkpoint`, data and index of the best, best.json


@pytest.mark.parametrize('renamed', range(RENAMES))
@pytest.mark.parametrize('call', ['before', 'after'])
def test_a_crash_while_saving_leaves_a_whole_latest_and_a_whole_best(make_saver, trainer, tmp_path, monkeypatch,
                                                                     renamed, call):
    saver = make_saver(keep=1)
    trainer.run(saver, 1, 0.9)
    replace, calls = os.replace, []

    def crash(source, target):
        calls.append(target)
        if len(calls) <= renamed or call == 'after':
            replace(source, target)
        if len(calls) > renamed:
            raise Killed()
    monkeypatch.setattr(os, 'replace', crash)
    with pytest.raises(Killed):
        trainer.run(saver, 2, 0.5)
    steps = saved_steps(str(tmp_path))
    assert epoch_of(latest_checkpoint(str(tmp_path))) == steps[-1]
    assert steps[-1] == (1 if renamed + (call == 'after') < 2 else 2)
    assert epoch_of(tmp_path / 'best') in (1, 2)
    # The next run goes on from there.
    monkeypatch.setattr(os, 'replace', replace)
    trainer.run(make_saver(keep=1), 3, 0.4)
    assert saved_steps(str(tmp_path)) == [3]
    assert epoch_of(tmp_path / 'best') == 3


def test_the_number_of_renames_in_a_save_is_the_one_that_crashes_are_tried_at(make_saver, trainer, monkeypatch):
    saver, replace, calls = make_saver(), os.replace, []
    monkeypatch.setattr(os, 'replace', lambda source, target: (calls.append(target), replace(source, target)))
    trainer.run(saver, 1, 0.9)
    assert len(calls) == RENAMES


def test_a_crash_while_tensorflow_writes_leaves_the_earlier_checkpoint(make_saver, trainer, tmp_path, monkeypatch):
    saver = make_saver()
    trainer.run(saver, 1)
    write = saver.saver.save

    def half(session, path, **options):
        write(session, path, **options)
        with open(path + '.data-00000-of-00001', 'r+b') as f:
            f.truncate(100)
        raise Killed()
    monkeypatch.setattr(saver.saver, 'save', half)
    with pytest.raises(Killed):
        trainer.run(saver, 2)
    assert epoch_of(latest_checkpoint(str(tmp_path))) == 1


def test_an_index_without_data_is_no_checkpoint(make_saver, trainer, tmp_path):
    trainer.run(make_saver(), 1)
    (tmp_path / 'model-7.index').write_bytes((tmp_path / 'model-1.index').read_bytes())
    assert saved_steps(str(tmp_path)) == [1]


def test_a_text_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = str(tmp_path / 'run.json')
    write_text(path, 'before')
    monkeypatch.setattr(os, 'fsync', lambda _: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError):
        write_text(path, 'after')
    with open(path) as f:
        assert f.read() == 'before'


def test_class_names_stored_beside_a_checkpoint_are_found_from_any_name_of_it(saved):
    folder = os.path.dirname(saved)
    write_classes(folder, ['cat', 'dög'])
    for name in (saved, saved + '.index', folder, os.path.join(folder, 'checkpoint')):
        assert read_classes(name) == ['cat', 'dög']


def test_a_checkpoint_without_class_names_has_none(saved):
    assert read_classes(saved) is None
