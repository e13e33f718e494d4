"""efficientnet/main.py: the release's command means what it did there, and is judged by main.py's evaluation."""
import os
import re
import shlex
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import main
from efficientnet import main as released
from image_folders import make_noise_folder
from networks import make_network
from test_main import fields, refusal
from test_ranks import mpirun

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = os.path.join(ROOT, 'efficientnet', 'main.py')
CLASSES, NUM_IMAGES = 10, 14
SMALL = ['--width_coefficient=0.25', '--depth_coefficient=0.4', '--input_image_size=32', '--num_label_classes=10']
SAT = ['--use_tpu=false', '--use_bfloat16=false', '--transpose_input=false', '--strategy=gpus',
       '--batch_norm_momentum=0.9', '--batch_norm_epsilon=1e-5', '--sat_preprocessing=True', '--moving_average_decay=0']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_noise_folder(tmp_path_factory.mktemp('images'), {'val': NUM_IMAGES}, [str(c) for c in range(CLASSES)])


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A small network with random weights, as the prefix of a checkpoint, alone in its folder."""
    prefix, random = str(tmp_path_factory.mktemp('network') / 'model-1'), np.random.default_rng(0)
    with tf.Graph().as_default(), TowerContext('', is_training=False), tf.Session() as session:
        make_network('--arch', 'EfficientNet', '--width-coefficient', '0.25', '--depth-coefficient', '0.4',
                     '--num-classes', str(CLASSES), '--data-format', 'NHWC').get_logits(tf.zeros([1, 32, 32, 3]))
        for variable in tf.global_variables():
            # Twice the fan-in's: what the images differ in is to reach the classifier through all squashing layers.
            scale = 2 * np.prod(variable.shape.as_list()[:-1]) ** -0.5 if variable.shape.rank > 1 else 0.1
            value = random.normal('gamma' in variable.op.name, scale, variable.shape).astype(np.float32)
            variable.load(np.abs(value) + 0.1 if 'moving_variance' in variable.op.name else value, session)
        averages = [tf.get_variable(v.op.name + '/ExponentialMovingAverage', initializer=v.read_value() * 0.95)
                    for v in tf.global_variables()]
        session.run([v.initializer for v in averages])
        tf.train.Saver().save(session, prefix, write_meta_graph=False)
    return prefix


@pytest.fixture
def resolve(checkpoint, data):
    """function(flags, num_ranks=1): main.py's resolved flags of a release's command."""
    def run(*flags, num_ranks=1):
        typed, others = released.parse(['--mode=eval', '--ckpt_path=' + checkpoint, '--data_dir=' + data, *flags])
        return main.parse_args(released.evaluation_arguments(typed, others, num_ranks))
    return run


@pytest.mark.slow
def test_sat_s_command_means_what_it_did(resolve, checkpoint, data):
    args = resolve('--model_name=efficientnet-b3', '--eval_batch_size=64', *SAT)
    assert fields(args, ['eval', 'load', 'data', 'arch', 'model_name', 'batch', 'input_size', 'num_classes',
                         'width_coefficient', 'depth_coefficient', 'activation_name', 'recipe']) == dict(
        eval=True, load=checkpoint, data=data, arch='EfficientNet', model_name='efficientnet-b3', batch=64,
        input_size=300, num_classes=CLASSES, width_coefficient=1.2, depth_coefficient=1.4, activation_name='silu',
        recipe='sat-efficientnet')
    assert fields(args, ['batch_norm_epsilon', 'input_scaling', 'moving_average_decay', 'attack_iter',
                         'augmentation', 'data_format']) == dict(
        batch_norm_epsilon=1e-5, input_scaling='sat', moving_average_decay=0, attack_iter=0,
        augmentation='efficientnet', data_format=None)


def test_defaults_are_those_of_the_release_and_not_of_main(resolve):
    assert fields(resolve(), ['model_name', 'batch', 'input_size', 'batch_norm_epsilon', 'input_scaling',
                              'moving_average_decay', 'attack_iter']) == dict(
        model_name='efficientnet-b0', batch=64, input_size=224, batch_norm_epsilon=1e-3, input_scaling='mean-std',
        moving_average_decay=0.9999, attack_iter=0)


@pytest.mark.parametrize('flag, field, value', [
    ('--input_image_size=96', 'input_size', 96), ('--num_label_classes=1001', 'num_classes', 1001),
    ('--width_coefficient=1.3', 'width_coefficient', 1.3), ('--depth_coefficient=2.3', 'depth_coefficient', 2.3),
    ('--batch_norm_epsilon=2e-7', 'batch_norm_epsilon', 2e-7),
    ('--moving_average_decay=0.99', 'moving_average_decay', 0.99), ('--eval_batch_size=5', 'batch', 5),
    ('--data_format=channels_first', 'data_format', 'NCHW'), ('--data_format=channels_last', 'data_format', 'NHWC')])
def test_a_typed_flag_sets_its_field_and_nothing_else(resolve, flag, field, value):
    plain, typed = vars(resolve()), vars(resolve(flag))
    plain['notes'] = typed['notes'] = ()
    assert {name for name in plain if plain[name] != typed[name]} <= {field} and typed[field] == value


@pytest.mark.parametrize('flag', ['--dropout_rate=0.45', '--survival_prob=0.7', '--batch_norm_momentum=0.5',
                                  '--train_batch_size=8', '--mixup_alpha=0.2'])
def test_flags_of_training_mean_nothing_in_an_evaluation_as_in_the_release(resolve, flag):
    assert vars(resolve(flag)) == vars(resolve())


@pytest.mark.parametrize('typed, scaling', [
    ([], 'mean-std'), (['--sat_preprocessing'], 'sat'), (['-sat_preprocessing'], 'sat'),
    (['--nosat_preprocessing'], 'mean-std'), (['--sat_preprocessing', '--nosat_preprocessing'], 'mean-std'),
    (['-nosat_preprocessing', '-sat_preprocessing=t'], 'sat')] + [
        (['--sat_preprocessing=' + text], 'sat') for text in ('true', 'True', 'TRUE', '1', 't')] + [
        (['--sat_preprocessing=' + text], 'mean-std') for text in ('false', 'False', '0', 'f')])
def test_booleans_have_absl_s_syntax(resolve, typed, scaling):
    assert resolve(*typed).input_scaling == scaling


@pytest.mark.parametrize('typed', [['--eval_batch_size=7'], ['--eval_batch_size', '7'], ['-eval_batch_size=7'],
                                   ['-eval_batch_size', '7'], ['--eval_batch_size=9', '--eval_batch_size=7']])
def test_values_have_absl_s_syntax(resolve, typed):
    assert resolve(*typed).batch == 7


@pytest.mark.parametrize('typed, expected', [
    (['--attack-iter', '10', '--attack-epsilon', '4', '--attack-step-size', '1'], (10, 4.0, 1.0, False)),
    (['--attack-iter=20'], (20, 4.0, 1.0, False)), (['--eval-attack-iter', '30'], (30, 4.0, 1.0, False)),
    (['--attack-epsilon', '8'], (10, 8.0, 1.0, False)), (['--targeted'], (10, 4.0, 1.0, True)),
    (['--attack', 'fgsm'], (1, 4.0, 4.0, False)), (['--attack=autoattack'], (None, 4.0, None, False)),
    (['--norm=L2', '--attack-epsilon', '50'], (10, 50.0, 12.5, False)),
    (['--seed', '3'], (0, 4.0, 1.0, False))])
def test_an_attack_is_asked_for_with_main_s_flags(resolve, typed, expected):
    args = resolve(*typed)
    assert (args.attack_iter, args.attack_epsilon, args.attack_step_size, args.targeted) == expected


def test_main_s_other_flags_may_stand_between_those_of_the_release(resolve):
    args = resolve('--recompute', '--eval_batch_size', '8', '--results-dir', 'here', '--nouse_tpu', '--seed', '5')
    assert (args.recompute, args.batch, args.results_dir, args.seed) == (True, 8, 'here', 5)


def test_the_batch_is_shared_by_the_ranks(resolve):
    assert [resolve('--eval_batch_size=12', num_ranks=ranks).batch for ranks in (1, 2, 3)] == [12, 6, 4]
    with pytest.raises(ValueError, match='--eval_batch_size 12: no multiple of the 5 ranks'):
        resolve('--eval_batch_size=12', num_ranks=5)


def test_without_a_checkpoint_the_newest_of_the_model_s_folder_is_judged(checkpoint, data):
    folder = os.path.dirname(checkpoint)
    flags, others = released.parse(['--mode=eval', '--model_dir=' + folder, '--data_dir=' + data])
    args = main.parse_args(released.evaluation_arguments(flags, others, 1))
    assert (args.load, args.results_dir) == (folder, os.path.join(folder, 'eval'))


@pytest.mark.parametrize('typed, folder', [
    ([], None), (['--model_dir=M'], 'M/eval'), (['--eval_name=x'], 'results/eval_x'),
    (['--model_dir=M', '--eval_name=x'], 'M/eval_x'), (['--model_dir=M', '--results-dir', 'R'], 'R')])
def test_results_go_where_the_release_has_them(resolve, typed, folder):
    assert resolve(*typed).results_dir == folder


@pytest.mark.parametrize('typed', [
    '--use_tpu=false', '--nouse_tpu', '--tpu=', '--use_xla=0', '--strategy=gpus', '--strategy=', '--nouse_bfloat16',
    '--transpose_input=False', '--num_parallel_calls=64', '--bigtable_table=imagenet', '--export_dir=',
    '--noexport_to_tpu', '--use_cache=f', '--train_batch_size=512', '--train_steps=1', '--base_learning_rate=0.1',
    '--mixup_alpha=0.2', '--augment_name=randaugment', '--noarchive_ckpt', '--iterations_per_loop=7',
    '--num_train_images=5', '--steps_per_eval=3', '--weight_decay=0', '--label_smoothing=0.2', '--lr_decay_epoch=3'])
def test_flags_that_ask_for_nothing_or_are_of_training_change_nothing(resolve, typed):
    assert vars(resolve(typed)) == vars(resolve())


@pytest.mark.parametrize('typed, named', [
    ('--use_tpu', '--use_tpu=true'), ('--use_tpu=True', '--use_tpu=true'), ('--tpu=node', '--tpu=node'),
    ('--tpu_zone=z', '--tpu_zone=z'), ('--gcp_project=p', 'Google Cloud'), ('--strategy=tpu', '--strategy=tpu'),
    ('--use_bfloat16', 'bfloat16'), ('--transpose_input=1', '--transpose_input=true'), ('--use_xla', 'XLA'),
    ('--skip_host_call', 'host call'), ('--use_cache', 'cache'), ('--num_parallel_calls=8', '--num_parallel_calls=8'),
    ('--holdout_shards=20', '--holdout_shards=20'), ('--use_async_checkpointing', '--use_async_checkpointing=true'),
    ('--eval_timeout=60', '--eval_timeout=60'), ('--export_dir=x', '--export_dir=x'), ('--export_to_tpu', 'export'),
    ('--bigtable_instance=b', 'Bigtable'), ('--bigtable_table=t', 'Bigtable'),
    ('--mode=predict', '--mode'), ('--model_name=efficientnet-l1', 'efficientnet-bL1'),
    ('--data_format=NCHW', 'channels_first'), ('--sat_preprocessing=maybe', 'maybe'),
    ('--eval_batch_size=many', 'many'), ('--num_label_classes', '--num_label_classes'),
    ('--eval_batch_sise=8', '--eval_batch_sise=8'), ('--batch_norm_epsilon=0', '--batch-norm-epsilon'),
    ('--eval_batch_size=0', '--batch'), ('--nomodel_name', '--nomodel_name'), ('--use_tpu=maybe', 'maybe'),
    ('--attack-iter=x', '--attack-iter')])
def test_what_is_not_here_is_refused_in_one_line(capsys, resolve, typed, named):
    assert named in refusal(capsys, lambda argv: resolve(*argv), [typed])


@pytest.mark.parametrize('argv, named', [
    (['--mode=eval'], '--data_dir'), (['--mode=eval', '--data_dir=.'], '--ckpt_path'),
    (['--mode=eval', '--data_dir=/nowhere', '--ckpt_path={}'], '/nowhere'),
    (['--mode=eval', '--data_dir=.', '--ckpt_path=/nowhere/model'], '/nowhere/model'),
    (['--mode=eval', '--data_dir=.', '--model_dir=/nowhere'], '/nowhere'),
    (['--mode=eval', '--data_dir={data}', '--ckpt_path={}', '--num_eval_images=50000'], '50000')])
def test_a_command_that_cannot_run_is_refused_in_one_line(capsys, checkpoint, data, argv, named):
    line = refusal(capsys, released.main, [word.format(checkpoint, data=data) for word in argv])
    assert named in line and str(NUM_IMAGES if named == '50000' else '') in line


@pytest.mark.parametrize('typed, mode', [([], 'train_and_eval'), (['--mode=train'], 'train')])
def test_training_is_refused_with_main_s_command_for_it(capsys, data, typed, mode):
    line = refusal(capsys, released.main, typed + [
        '--model_name=efficientnet-b2', '--data_dir=' + data, '--weight_decay=2e-5', '--base_learning_rate=0.02',
        '--lr_decay_epoch=3', '--label_smoothing=0', '--augment_name=randaugment', '--randaug_magnitude=12',
        '--sat_preprocessing', '--mixup_alpha=0.2', '--noarchive_ckpt', '--survival_prob=0.9'])
    assert '--mode={}'.format(mode) in line and 'without --mixup_alpha)' in line
    args = main.parse_args(shlex.split(re.search(r'python main.py (.*) \(', line).group(1)))
    assert fields(args, ['eval', 'arch', 'model_name', 'data', 'batch', 'weight_decay', 'base_lr', 'lr_decay_epochs',
                         'label_smoothing', 'augment_name', 'randaug_magnitude', 'input_scaling', 'survival_prob',
                         'batch_norm_momentum', 'batch_norm_epsilon', 'moving_average_decay', 'attack_iter']) == dict(
        eval=False, arch='EfficientNet', model_name='efficientnet-b2', data=data, batch=2048, weight_decay=2e-5,
        base_lr=0.02, lr_decay_epochs=3.0, label_smoothing=0.0, augment_name='randaugment', randaug_magnitude=12,
        input_scaling='sat', survival_prob=0.9, batch_norm_momentum=0.99, batch_norm_epsilon=1e-3,
        moving_average_decay=0.9999, attack_iter=0)


def test_help_names_every_flag():
    text = released.get_parser().format_help()
    names = [name for table in (released.EVALUATION, released.TRAINING, released.ABSENT) for name in table]
    assert len(names) == len(set(names)) == 57 and all('--' + name in text for name in names)


def run_program(folder, *argv):
    done = subprocess.run([sys.executable, *argv], cwd=folder, timeout=180, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def per_example(folder):
    return (folder / 'per_example.csv').read_bytes()


@pytest.fixture
def judged(tmp_path, checkpoint, data):
    """What the program shows that judges into the folder ``own``, and main.py's flags for the same."""
    attack = ['--attack-iter', '2', '--attack-epsilon', '16', '--data-format', 'NHWC']
    shown = run_program(tmp_path, SCRIPT, '--mode=eval', '--ckpt_path', checkpoint, '--data_dir', data, *SMALL, *SAT,
                        '--eval_batch_size=4', '--num_eval_images={}'.format(NUM_IMAGES), '--results-dir', 'own',
                        *attack)
    same = ['--eval', '--load', checkpoint, '--data', data, '--batch', '4', '--arch', 'EfficientNet',
            '--width-coefficient', '0.25', '--depth-coefficient', '0.4', '--input-size', '32', '--num-classes', '10',
            '--moving-average-decay', '0', '--augmentation', 'efficientnet', *attack]
    return shown, same


@pytest.mark.slow
def test_the_program_s_verdicts_are_those_of_main(tmp_path, judged):
    run_program(tmp_path, os.path.join(ROOT, 'main.py'), *judged[1], '--results-dir', 'main')
    assert per_example(tmp_path / 'own') == per_example(tmp_path / 'main')


def test_the_program_judges_and_says_what_command_of_main_is_the_same(tmp_path, judged):
    shown, same = judged
    assert_tells_apart(per_example(tmp_path / 'own'))
    assert 'Attack Success Rate: ' in shown
    command, = [line for line in shown.splitlines() if 'python main.py' in line]
    argv = shlex.split(command[command.index('main.py') + len('main.py'):])
    assert vars(main.parse_args(argv)) == vars(main.parse_args(same + ['--results-dir', 'own']))


def assert_tells_apart(table):
    """All images are in the table, and the network has several answers."""
    predictions = [line.split(b',')[2] for line in table.splitlines()[1:]]
    assert len(predictions) == NUM_IMAGES and len(set(predictions)) > 2, predictions


@pytest.mark.slow
def test_two_ranks_share_the_batch_and_judge_as_one(tmp_path, checkpoint, data):
    # The release's own defaults, moving averages among them.
    flags = [SCRIPT, '--mode=eval', '--ckpt_path=' + checkpoint, '--data_dir=' + data, *SMALL]
    run_program(tmp_path, *flags, '--eval_batch_size=3', '--results-dir', 'one')
    done = mpirun(2, *flags, '--eval_batch_size=6', '--results-dir', 'two', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert per_example(tmp_path / 'one') == per_example(tmp_path / 'two')
    assert_tells_apart(per_example(tmp_path / 'one'))
    assert done.stdout.count('python main.py') == 1 and '--batch 3 ' in done.stdout


def test_a_directory_is_seen_as_in_the_release_s_evaluation(tmp_path, checkpoint, data, monkeypatch):
    network = ['--load', checkpoint, '--arch', 'EfficientNet', '--width-coefficient', '0.25',
               '--depth-coefficient', '0.4', '--input-size', '64', '--num-classes', '10', '--moving-average-decay', '0']
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'all').mkdir()
    files = sorted(path for path in (tmp_path / data / 'val').rglob('*.png'))
    random = np.random.default_rng(1)
    for path in files:  # wide pictures, of which the release shows the middle
        assert cv2.imwrite(str(tmp_path / 'all' / path.name), random.integers(0, 256, [70, 150, 3], dtype=np.uint8))
        os.makedirs(tmp_path / 'set' / 'val' / path.parent.name, exist_ok=True)
        shutil.copy(tmp_path / 'all' / path.name, tmp_path / 'set' / 'val' / path.parent.name)
    with tf.Graph().as_default():
        main.main(['--eval-directory', str(tmp_path / 'all'), '--prediction-format', 'released', *network])
    with tf.Graph().as_default():
        main.main(['--eval', '--data', str(tmp_path / 'set'), '--attack-iter', '0', '--results-dir', 'judged',
                   *network])
    predicted = dict(line.split(',') for line in (tmp_path / 'predictions.txt').read_text().splitlines())
    table = [line.split(',') for line in (tmp_path / 'judged' / 'per_example.csv').read_text().splitlines()[1:]]
    assert {os.path.basename(path): label for path, label in predicted.items()} == {
        os.path.basename(row[0]): row[2] for row in table}
    assert len(predicted) == NUM_IMAGES and len(set(predicted.values())) > 1
    assert main.parse_args(['--eval-directory', str(tmp_path / 'all'), '--load', checkpoint]).augmentation == 'imagenet'
