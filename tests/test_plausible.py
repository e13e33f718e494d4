"""A figure that no network of ImageNet's classes has is not printed without a word."""
import csv
import types

import numpy as np
import pytest

from image_folders import make_noise_folder
from small_runs import read_json
from third_party.imagenet_utils import synsets
from weights.plausible import doubts

RESNET = dict(arch='ResNet', num_classes=1000, activation_name='silu', padding='explicit', recipe='sat', input_size=224,
              input_scaling=None, batch_norm_epsilon=1e-5, moving_average_decay=0.0)


def found(judged=200, right=19, classes=None, **changed):
    return doubts(judged, right, synsets() if classes is None else classes, synsets(),
                  types.SimpleNamespace(**{**RESNET, **changed}))


def test_less_than_a_tenth_of_200_images_names_what_may_be_wrong():
    line, = found()
    assert '\n' not in line and '9.5% of 200' in line
    assert all(cause in line for cause in (
        '--activation-name silu', '--padding explicit', '--recipe sat', 'BGR', '--input-size 224',
        '--batch-norm-epsilon 1e-05', 'plain ones'))


def test_an_efficientnet_has_causes_of_its_own():
    line, = found(arch='EfficientNet', padding=None, input_scaling='sat', moving_average_decay=0.9999, num_classes=1001,
                  classes=['background', *synsets()])
    assert '--input-scaling sat' in line and 'RGB' in line and '--padding' not in line
    assert '--moving-average-decay 0' in line


@pytest.mark.parametrize('fine', [
    dict(right=20), dict(judged=199, right=0), dict(classes=['cat', 'dog']), dict(num_classes=10),
    dict(classes=[str(k) for k in range(1000)])])
def test_what_is_right_small_or_of_other_classes_is_not_doubted(fine):
    assert found(**fine) == []


def test_a_part_of_imagenet_s_classes_is_doubted_too():
    assert found(classes=synsets()[:10])


def test_an_evaluation_says_so_in_results_json(tmp_path):
    import tensorflow.compat.v1 as tf

    import main
    from networks import make_network
    flags = ['--arch', 'CifarResNet', '-d', '8', '--input-size', '8', '--num-classes', '1000']
    data = make_noise_folder(tmp_path / 'images', {'val': 200}, synsets()[:10])
    with tf.Graph().as_default(), tf.Session() as session:
        make_network(*flags).classify(tf.zeros([1, 8, 8, 3]))
        session.run(tf.global_variables_initializer())
        np.savez(tmp_path / 'X.npz', **{v.op.name: session.run(v) for v in tf.global_variables()})
    with tf.Graph().as_default():
        main.main(['--eval', '--load', str(tmp_path / 'X.npz'), '--data', data, '--attack-iter', '0', '--batch', '100',
                   '--results-dir', str(tmp_path / 'results'), *flags])
    results = read_json(tmp_path / 'results' / 'results.json')
    assert results['num_images'] == 200 and results['clean']['top1_error'] > 0.9
    line, = results['warnings']
    assert '--activation-name silu' in line


def test_outputs_that_are_no_numbers_are_said_in_both_evaluations(tmp_path, monkeypatch):
    import tensorflow.compat.v1 as tf

    import main
    from commands.judge import logger
    from networks import make_network
    said = []
    monkeypatch.setattr(logger, 'warning', said.append)
    flags = ['--arch', 'CifarResNet', '-d', '8', '--input-size', '8', '--num-classes', '2', '--batch', '3']
    data = make_noise_folder(tmp_path / 'images', {'val': 6}, 'ab')
    with tf.Graph().as_default(), tf.Session() as session:
        make_network(*flags).classify(tf.zeros([1, 8, 8, 3]))
        session.run(tf.global_variables_initializer())
        values = {v.op.name: session.run(v) for v in tf.global_variables()}
    # Finite weights whose products overflow.
    values['linear/b'] = np.full_like(values['linear/b'], np.finfo(np.float32).max)
    values['linear/W'] = np.full_like(values['linear/W'], np.finfo(np.float32).max)
    np.savez(tmp_path / 'X.npz', **values)
    monkeypatch.chdir(tmp_path)
    with tf.Graph().as_default():
        main.main(['--eval', '--load', 'X.npz', '--data', data, '--attack-iter', '0', '--results-dir', 'results',
                   *flags])
    line, = read_json(tmp_path / 'results' / 'results.json')['warnings']
    with open('results/per_example.csv') as f:
        unknown = sum(row['clean_pred'] == '-1' for row in csv.DictReader(f))
    assert unknown > 2 and 'prediction -1) in {} of 6'.format(unknown) in line and line in said
    del said[:]
    with tf.Graph().as_default():
        main.main(['--eval-directory', str(tmp_path / 'images' / 'val' / 'a'), '--load', 'X.npz', *flags])
    with open('predictions.csv') as f:
        predictions = list(csv.DictReader(f))
    unknown = sum(row['class_index'] == '-1' for row in predictions)
    assert all((row['probability'] == '') == (row['class_index'] == '-1') for row in predictions)
    assert unknown > 0 and any('in {} of {}'.format(unknown, len(predictions)) in line for line in said)
