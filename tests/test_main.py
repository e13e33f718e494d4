"""The command line: the releases' commands, what recipes and modes resolve to, and that mistakes end in one line."""
import os
import re
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

import main
import nets
from image_folders import make_folder
from settings import recipes
from training.directory import last_run, log_directory, open_log_directory, released_directory

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# SAT Sec 3 and its release, FD Sec 5 and 6 and its release.
SAT = dict(activation_name='silu', padding='explicit', targeted=False, attack_epsilon=4.0, attack_iter=1,
           attack_step_size=4.0, prob_start_from_clean=0.2, label_smoothing=0.1, optimizer='momentum',
           weight_decay=1e-4, batch_norm_momentum=0.9, batch_norm_epsilon=1e-5, moving_average_decay=0.0,
           epochs=100, base_lr=0.1, warmup_epochs=5, lr_drop_epochs=(30, 60, 90), lr_decay_epochs=None,
           eval_attack_iter=10, eval_attack_step_size=1.0, attack='pgd', mixup=0.0, cutmix=0.0, random_erasing=0.0,
           lr_scaling='linear', warmup_from=None, lr_cosine_to=None, moving_average_ramp=True, batch=32)
FEATURE_DENOISING = dict(SAT, activation_name='relu', padding='same', targeted=True, attack_epsilon=16.0,
                         attack_iter=30, attack_step_size=1.0, prob_start_from_clean=0.2, epochs=110,
                         lr_drop_epochs=(35, 70, 95))
# SAT's attack with the trainer of its EfficientNet release.
SAT_EFFICIENTNET = dict(SAT, optimizer='rmsprop', weight_decay=1e-5, moving_average_decay=0.9999, epochs=350,
                        base_lr=0.016, lr_drop_epochs=(), lr_decay_epochs=2.4)
REVISITING_AT = dict(SAT, activation_name='gelu_erf', attack='apgd', attack_iter=2, attack_step_size=8.0,
                     prob_start_from_clean=0.0, mixup=0.8, cutmix=1.0, random_erasing=0.25, optimizer='adamw',
                     weight_decay=0.05, moving_average_decay=0.9999, moving_average_ramp=False, base_lr=1e-3,
                     lr_scaling='none', warmup_epochs=20, warmup_from=1e-4, lr_cosine_to=5e-6, lr_drop_epochs=(),
                     epochs=300, batch=80)
# The command of Salman et al. 2020's release, under SAT's attack; the network is that of its own recipe.
FINE_TUNE = dict(SAT, label_smoothing=0.0, weight_decay=5e-4, base_lr=0.01, lr_scaling='none', warmup_epochs=0,
                 epochs=150, lr_drop_epochs=(30, 60, 90, 120), batch=64)
RECIPES = {'sat': SAT, 'feature-denoising': FEATURE_DENOISING, 'sat-efficientnet': SAT_EFFICIENTNET,
           'revisiting-at': REVISITING_AT, 'fine-tune': FINE_TUNE}
PGD_RECIPES = [name for name, values in RECIPES.items() if values['attack'] == 'pgd']
# For each field of a recipe a flag and a value that no recipe has; those of ``OF_WORDS`` have tests of their own.
OF_WORDS = {'targeted', 'padding', 'optimizer', 'attack', 'lr_scaling', 'moving_average_ramp'}
FLAGS = {'activation_name': ('mish', 'mish'), 'attack_epsilon': ('7.5', 7.5), 'attack_iter': ('5', 5),
         'attack_step_size': ('2.5', 2.5), 'prob_start_from_clean': ('0.7', 0.7), 'label_smoothing': ('0.3', 0.3),
         'weight_decay': ('3e-3', 3e-3), 'batch_norm_momentum': ('0.99', 0.99), 'batch_norm_epsilon': ('1e-3', 1e-3),
         'moving_average_decay': ('0.5', 0.5), 'epochs': ('17', 17), 'base_lr': ('0.7', 0.7),
         'warmup_epochs': ('2.5', 2.5),
         'lr_drop_epochs': ('9,3', (3, 9)), 'lr_decay_epochs': ('1.5', 1.5), 'eval_attack_iter': ('6', 6),
         'eval_attack_step_size': ('0.25px', 0.25), 'mixup': ('0.4', 0.4), 'cutmix': ('0.3', 0.3),
         'random_erasing': ('0.1', 0.1), 'warmup_from': ('0.5', 0.5), 'lr_cosine_to': ('1e-4', 1e-4), 'batch': ('7', 7)}


@pytest.fixture
def npz(tmp_path):
    path = tmp_path / 'X.npz'
    np.savez(path, W=np.zeros(1))
    return str(path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'D').mkdir()
    return str(tmp_path / 'D')


@pytest.fixture
def images(tmp_path):
    """A data set of two classes, 'a' and 'b'."""
    return make_folder(tmp_path / 'images', ['{}/{}/{}.png'.format(split, name, k)
                                             for split in ('train', 'val') for name in 'ab' for k in range(2)])


def fields(args, names):
    return {name: getattr(args, name) for name in names}


def test_feature_denoising_evaluation_command_means_what_its_release_did(npz, folder):
    args = main.parse_args(['--eval', '--load', npz, '--data', folder, '--attack-iter', '10', '--attack-epsilon',
                            '16.0', '--arch', 'ResNetDenoise', '-d', '152'])
    assert fields(args, ['eval', 'load', 'data', 'arch', 'depth', 'recipe']) == dict(
        eval=True, load=npz, data=folder, arch='ResNetDenoise', depth=152, recipe='feature-denoising')
    assert fields(args, ['attack_iter', 'attack_epsilon', 'attack_step_size', 'targeted', 'padding', 'activation_name',
                         'input_size', 'num_classes', 'batch']) == dict(
        attack_iter=10, attack_epsilon=16.0, attack_step_size=1.0, targeted=True, padding='same',
        activation_name='relu', input_size=224, num_classes=1000, batch=32)


def test_feature_denoising_directory_command_means_what_its_release_did(npz, folder):
    args = main.parse_args(['--eval-directory', folder, '--prediction-file', 'predictions.txt', '--load', npz, '-d',
                            '101', '--arch', 'ResNeXtDenoiseAll', '--batch', '20'])
    assert fields(args, ['eval', 'eval_directory', 'prediction_file', 'depth', 'batch', 'group', 'res2_bottleneck',
                         'padding', 'activation_name']) == dict(
        eval=False, eval_directory=folder, prediction_file='predictions.txt', depth=101, batch=20, group=32,
        res2_bottleneck=8, padding='same', activation_name='relu')


def test_feature_denoising_training_command_takes_its_attack(folder):
    args = main.parse_args(['--data', folder, '--batch', '32', '--attack-iter', '30', '--attack-epsilon', '16.0',
                            '--recipe', 'feature-denoising'])
    names = ['eval', 'batch', 'attack_iter', 'attack_epsilon', 'attack_step_size', 'arch', 'depth']
    assert fields(args, names) == dict(
        eval=False, batch=32, attack_iter=30, attack_epsilon=16.0, attack_step_size=1.0, arch='ResNet', depth=50)


def test_sat_evaluation_command_means_what_its_release_did(npz, folder):
    args = main.parse_args(['--eval', '--load', npz, '--data', folder, '--eval-attack-iter=10', '--batch=128',
                            '--attack-epsilon=4.0', '--attack-step-size=1.0', '-d=50', '--res2-bottleneck=64',
                            '--group=1', '--input-size=224', '--activation-name=silu'])
    assert fields(args, ['attack_iter', 'attack_epsilon', 'attack_step_size', 'targeted', 'batch', 'depth', 'padding',
                         'res2_bottleneck', 'group', 'input_size', 'activation_name', 'recipe']) == dict(
        attack_iter=10, attack_epsilon=4.0, attack_step_size=1.0, targeted=False, batch=128, depth=50,
        padding='explicit', res2_bottleneck=64, group=1, input_size=224, activation_name='silu', recipe='sat')


def test_attack_iter_alone_is_a_training_command():
    args = main.parse_args(['--attack-iter', '30'])
    assert (args.attack_iter, args.attack_epsilon, args.eval, args.data) == (30, 4.0, False, None)


@pytest.mark.parametrize('recipe', RECIPES)
def test_a_recipe_sets_every_field_as_its_paper_does(recipe):
    assert fields(main.parse_args(['--recipe', recipe]), SAT) == RECIPES[recipe]


# APGD has no such lengths and starts.
@pytest.mark.parametrize('recipe, field', [(recipe, field) for recipe in RECIPES for field in FLAGS if not (
    recipe == 'revisiting-at' and field in ('attack_step_size', 'prob_start_from_clean'))])
def test_a_typed_flag_wins_over_the_recipe_and_changes_nothing_else_of_it(recipe, field):
    text, value = FLAGS[field]
    args = main.parse_args(['--recipe', recipe, '--' + field.replace('_', '-'), text])
    expected = dict(RECIPES[recipe], **{field: value})
    if recipe == 'revisiting-at':
        expected.update({'attack_epsilon': {'attack_step_size': 15.0}, 'epochs': {'warmup_epochs': 10}}.get(field, {}))
    elif field == 'attack_iter':  # a recipe's training step belongs to its number of steps
        expected['attack_step_size'] = 1.0
    assert fields(args, SAT) == expected


def test_sat_s_step_of_4_belongs_to_its_single_step():
    assert main.parse_args(['--attack-iter', '1']).attack_step_size == 4.0
    assert main.parse_args(['--attack-iter', '3']).attack_step_size == 1.0
    assert main.parse_args(['--attack-iter', '3', '--attack-step-size', '4']).attack_step_size == 4.0


@pytest.mark.parametrize('recipe', PGD_RECIPES)
@pytest.mark.parametrize('flag, targeted', [('--targeted', True), ('--untargeted', False)])
def test_the_attack_s_aim_can_be_chosen_in_every_recipe(recipe, flag, targeted):
    assert main.parse_args(['--recipe', recipe, flag]).targeted is targeted


@pytest.mark.parametrize('recipe', RECIPES)
@pytest.mark.parametrize('padding', ['same', 'explicit'])
def test_the_padding_can_be_chosen_in_every_recipe(recipe, padding):
    assert main.parse_args(['--recipe', recipe, '--padding', padding]).padding == padding


@pytest.mark.parametrize('recipe', RECIPES)
@pytest.mark.parametrize('optimizer', ['momentum', 'rmsprop', 'adamw'])
def test_the_optimizer_can_be_chosen_in_every_recipe(recipe, optimizer):
    assert main.parse_args(['--recipe', recipe, '--optimizer', optimizer]).optimizer == optimizer


def test_the_fields_that_recipes_are_tested_for_are_all_there_are():
    assert set(SAT) == set(recipes.names())
    assert set(RECIPES) == set(recipes.RECIPES)
    assert set(FLAGS) | OF_WORDS == set(SAT)


@pytest.mark.parametrize('recipe', RECIPES)
@pytest.mark.parametrize('flag, dest, value', [
    (['--attack', 'momentum'], 'attack', 'momentum'), (['--lr-scaling', 'none'], 'lr_scaling', 'none'),
    (['--lr-scaling', 'linear'], 'lr_scaling', 'linear'), (['--moving-average-ramp'], 'moving_average_ramp', True),
    (['--no-moving-average-ramp'], 'moving_average_ramp', False)])
def test_words_and_switches_can_be_chosen_in_every_recipe(recipe, flag, dest, value):
    assert getattr(main.parse_args(['--recipe', recipe, *flag]), dest) == value


@pytest.mark.parametrize('model_name, expected', [
    (None, ('efficientnet-b0', 224, 1.0, 1.0, 0.2)), ('efficientnet-b0', ('efficientnet-b0', 224, 1.0, 1.0, 0.2)),
    ('efficientnet-b4', ('efficientnet-b4', 380, 1.4, 1.8, 0.4)),
    ('efficientnet-bL1', ('efficientnet-bL1', 600, 3.9, 3.7, 0.5)),
    ('efficientnet-l2', ('efficientnet-l2', 800, 4.3, 5.3, 0.5))])
def test_defaults_that_depend_on_efficientnets_size(model_name, expected):
    args = main.parse_args(['--arch', 'EfficientNet'] + (['--model-name', model_name] if model_name else []))
    assert (args.model_name, args.input_size, args.width_coefficient, args.depth_coefficient,
            args.dropout_rate) == expected
    assert (args.survival_prob, args.input_scaling, args.padding) == (0.8, 'sat', None)


def test_efficientnets_sizes_can_be_changed_one_by_one():
    args = main.parse_args(['--arch', 'EfficientNet', '--model-name', 'efficientnet-b4', '--width-coefficient', '0.5',
                            '--dropout-rate', '0', '--survival-prob', '1', '--input-size', '64', '--input-scaling',
                            'mean-std'])
    assert fields(args, ['width_coefficient', 'depth_coefficient', 'dropout_rate', 'survival_prob', 'input_size',
                         'input_scaling']) == dict(width_coefficient=0.5, depth_coefficient=1.8, dropout_rate=0.0,
                                                   survival_prob=1.0, input_size=64, input_scaling='mean-std')


@pytest.mark.parametrize('typed, iterations', [
    ([], None), (['--attack-iter', '3'], 3), (['--eval-attack-iter', '7'], 7),
    (['--attack-iter', '3', '--eval-attack-iter', '7'], 7), (['--attack-iter', '0'], 0)])
@pytest.mark.parametrize('arch, default', [('ResNet', 10), ('ResNetDenoise', 30)])
def test_eval_takes_its_steps_from_either_release_s_flag_and_else_its_release_s_default(npz, arch, default, typed,
                                                                                       iterations):
    args = main.parse_args(['--eval', '--load', npz, '--arch', arch] + typed)
    assert args.attack_iter == (default if iterations is None else iterations)


@pytest.mark.parametrize('arch, epsilon', [('ResNet', 4.0), ('ResNetDenoise', 16.0)])
def test_eval_without_lengths_attacks_with_the_papers_radius_and_steps_of_one(npz, arch, epsilon):
    args = main.parse_args(['--eval', '--load', npz, '--arch', arch])
    assert (args.attack_epsilon, args.attack_step_size) == (epsilon, 1.0)


def test_evaluations_during_training_use_the_training_radius_unless_given():
    assert main.parse_args(['--attack-epsilon', '6']).eval_attack_epsilon == 6.0
    assert main.parse_args(['--attack-epsilon', '6', '--eval-attack-epsilon', '2']).eval_attack_epsilon == 2.0


@pytest.mark.parametrize('recipe, epsilon', [('sat', 4.0), ('feature-denoising', 16.0)])
def test_clean_training_is_still_judged_by_the_recipe_s_attack(recipe, epsilon):
    args = main.parse_args(['--attack-iter', '0', '--recipe', recipe])
    assert (args.attack_iter, args.eval_attack_iter, args.eval_attack_epsilon) == (0, 10, epsilon)


@pytest.mark.parametrize('typed, note, radius', [
    (['--attack-epsilon', '16.0'], '--attack-epsilon 16 is not used: --attack-iter 0 trains on clean images; its '
                                   'evaluations attack with it', 16),
    (['--attack-epsilon', '16.0', '--eval-attack-epsilon', '8'],
     '--attack-epsilon 16 is not used: --attack-iter 0 trains on clean images', 8),
    (['--attack-step-size', '2'], '--attack-step-size 2 is not used: --attack-iter 0 trains on clean images', 4),
    (['--attack-epsilon', '0'], None, 4), ([], None, 4)])
def test_feature_denoising_s_standard_training_is_clean_and_says_what_of_it_is_not_used(typed, note, radius):
    args = main.parse_args(['--attack-iter', '0'] + typed)
    assert args.attack_iter == 0 and args.notes == (() if note is None else (note,))
    assert args.eval_attack_epsilon == radius


def test_what_an_attack_uses_is_not_noted(npz):
    assert main.parse_args(['--attack-iter', '1', '--attack-epsilon', '16']).notes == ()
    assert main.parse_args(['--eval', '--load', npz, '--attack-iter', '0', '--attack-epsilon', '16']).notes == ()


@pytest.mark.parametrize('arch, expected', [
    ('ResNet', (50, 224, 1000, 64, 1, 'sat')),
    ('ResNetDenoise', (50, 224, 1000, 64, 1, 'feature-denoising')),
    ('ResNeXtDenoiseAll', (50, 224, 1000, 8, 32, 'feature-denoising')),
    ('CifarResNet', (20, 32, 10, None, None, 'sat')),
    ('EfficientNet', (None, 224, 1000, None, None, 'sat-efficientnet'))])
def test_defaults_that_depend_on_the_architecture(arch, expected):
    args = main.parse_args(['--arch', arch])
    assert (args.depth, args.input_size, args.num_classes, args.res2_bottleneck, args.group, args.recipe) == expected


def test_an_explicit_recipe_wins_over_the_architecture_s_own():
    args = main.parse_args(['--arch', 'ResNetDenoise', '--recipe', 'sat'])
    assert fields(args, SAT) == SAT


@pytest.mark.parametrize('arch', nets.ARCHITECTURES)
def test_every_architecture_builds_from_its_resolved_flags(graph, arch):
    import tensorflow.compat.v1 as tf
    from tensorpack.tfutils.tower import TowerContext
    args = main.parse_args(['--arch', arch, '--input-size', '64', '--num-classes', '7', '--data-format', 'NHWC'])
    model = getattr(nets, args.arch + 'Model')(args)
    with TowerContext('', is_training=False):
        logits = model.get_logits(tf.zeros([2, 64, 64, 3]))
    assert logits.shape.as_list() == [2, 7]


@pytest.mark.parametrize('typed, name', [
    ('SiLU', 'silu'), ('swish', 'silu'), ('smoothrelu', 'smoothrelu'), ('gelu', 'gelu'), ('gelu-erf', 'gelu_erf'),
    ('parametric_softplus:5', 'parametric_softplus:5'), ('Parametric-Softplus:0.5', 'parametric_softplus:0.5'),
    ('CELU:2', 'celu:2'), ('celu', 'celu')])
def test_activation_names_are_taken_in_any_spelling(typed, name):
    assert main.parse_args(['--activation-name', typed]).activation_name == name


def test_slopes_of_attack_and_update_default_to_the_network_s_own():
    args = main.parse_args([])
    assert (args.attack_gradient, args.update_gradient) == (None, None)
    args = main.parse_args(['--attack-gradient', 'parametric_softplus', '--update-gradient', 'swish'])
    assert (args.attack_gradient, args.update_gradient) == ('parametric_softplus', 'silu')


@pytest.mark.parametrize('argv, precision, xla', [
    ([], None, False), (['--attack-precision', 'float16'], 'float16', False), (['--xla'], None, True),
    (['--use-fp16xla'], 'float16', True), (['--use-fp16xla', '--attack-precision', 'float16'], 'float16', True),
    (['--eval', '--load', 'x.npz'], 'float32', False),
    (['--eval', '--load', 'x.npz', '--use-fp16xla'], 'float16', True),
    (['--eval', '--load', 'x.npz', '--attack', 'autoattack'], 'float32', False)])
def test_training_attacks_in_what_its_machines_decide_and_an_evaluation_in_float32_unless_told_otherwise(
        monkeypatch, tmp_path, argv, precision, xla):
    monkeypatch.chdir(tmp_path)
    np.savez('x.npz', W=np.zeros(1))
    args = main.parse_args(argv)
    assert (args.attack_precision, args.xla) == (precision, xla)


@pytest.mark.parametrize('typed, suffix', [([], ''), (['--logdir', 'mine'], '-mine')])
def test_log_directories_say_what_is_trained_and_by_how_many_ranks(typed, suffix):
    args = main.parse_args(['--attack-iter', '30', '--attack-epsilon', '16', '--attack-step-size', '1', '-d', '152',
                            '--arch', 'ResNetDenoise'] + typed)
    assert log_directory(args, 128) == 'train_log/ResNetDenoise152-relu-PGD30-eps16-batch32-128ranks' + suffix
    assert released_directory(args, 128) == (
        'train_log/PGD-ResNetDenoise152-Batch32-128GPUs-iter30-epsilon16.0-step1.0' + suffix)


@pytest.mark.parametrize('typed, size, name', [
    (['--arch', 'EfficientNet', '--model-name', 'efficientnet-b4'], 8, 'efficientnet-b4-silu-PGD1-eps4-batch32-8ranks'),
    (['--norm', 'L2', '--attack-epsilon', '127.5'], 1, 'ResNet50-silu-PGD1-eps127.5-L2-batch32-1rank'),
    (['--attack-iter', '0', '--activation-name', 'celu:0.5'], 2, 'ResNet50-celu0.5-clean-batch32-2ranks'),
    (['--arch', 'ConvNeXt', '--model-name', 'convnext-t-cvst'], 4,
     'convnext-t-cvst-gelu_erf-APGD2-eps4-batch80-4ranks')])
def test_log_directories_are_named_after_the_size_the_norm_or_no_attack(typed, size, name):
    assert log_directory(main.parse_args(typed), size) == 'train_log/' + name


def test_a_run_s_directory_is_named_after_its_minute_and_the_last_one_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, resumed = (main.parse_args(words) for words in ([], ['--resume']))
    base = log_directory(args, 2)
    with pytest.raises(ValueError, match="there is no run '{}'".format(base)):
        open_log_directory(resumed, 2)
    os.makedirs(released_directory(args, 2))  # of a run from before names had a date
    assert open_log_directory(resumed, 2) == released_directory(args, 2)
    before = time.strftime('-%Y-%m-%d-%H%M')
    first, second = open_log_directory(args, 2), open_log_directory(args, 2)
    assert re.fullmatch(r'-\d{4}(-\d\d){2}-\d{4}', first[len(base):]) and before <= first[len(base):]
    assert first != second
    for later in ('-2199-01-01-0000', '-2199-01-01-0000-2', '-2199-01-01-0000-10'):
        os.makedirs(base + later)
        assert open_log_directory(resumed, 2) == base + later
    for another in ('-mine-2199-12-31-0000', '-2199-12-31', '0-2199-12-31-0000'):
        os.makedirs(base + another)
    assert open_log_directory(resumed, 2) == base + later
    assert last_run(args, 2) is None
    with open(os.path.join(first, 'run.json'), 'w'):
        pass
    assert last_run(args, 2) == first


def refusal(capsys, run, argv):
    """The line that ``run(argv)`` complains in; checks that it is one line, on stderr, with exit code 2."""
    with pytest.raises(SystemExit) as end:
        run(argv)
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert out == ''
    assert err.count('\n') == 1 and err.endswith('\n') and ': error: ' in err, err
    return err


@pytest.mark.parametrize('argv, named', [
    (['--arch', 'ResNeSt'], ['--arch', 'ResNeSt', 'ResNetDenoise']),
    (['-d', '34'], ['--depth 34', '50', '101', '152']),
    (['--arch', 'EfficientNet', '--depth', '50'], ['--depth', 'EfficientNet']),
    (['--arch', 'EfficientNet', '--padding', 'same'], ['--padding', 'EfficientNet']),
    (['--arch', 'EfficientNet', '--group', '1'], ['--group', 'EfficientNet']),
    (['--arch', 'EfficientNet', '--res2-bottleneck', '64'], ['--res2-bottleneck', 'EfficientNet']),
    (['--model-name', 'efficientnet-b0'], ['--model-name', 'ResNet']),
    (['--arch', 'ResNetDenoise', '--width-coefficient', '1'], ['--width-coefficient', 'ResNetDenoise']),
    (['--depth-coefficient', '1'], ['--depth-coefficient', 'ResNet']),
    (['--dropout-rate', '0'], ['--dropout-rate', 'ResNet']),
    (['--survival-prob', '1'], ['--survival-prob', 'ResNet']),
    (['--blocks', '1'], ['--blocks', 'ResNet']),
    (['--arch', 'ConvNeXt', '--heads', '6'], ['--heads', 'ConvNeXt']),
    (['--arch', 'ConvNeXt', '--padding', 'same'], ['--padding', 'ConvNeXt']),
    (['--arch', 'ViT', '--model-name', 'convnext-t'], ['--model-name convnext-t', 'vit-s', 'vit-b-cvst']),
    (['--arch', 'ViT', '--batch-norm-epsilon', '1e-5'], ['--batch-norm-epsilon', 'ViT']),
    (['--arch', 'ConvNeXt', '--blocks', '3,0'], ['--blocks', '0']),
    (['--arch', 'ConvNeXt', '--blocks', '3,x'], ['--blocks', "'x'"]),
    (['--arch', 'ConvNeXt', '--blocks', '3,3'], ['--blocks 3,3 ', '--widths 96,192,384,768']),
    (['--arch', 'ConvNeXt', '--model-name', 'convnext-iso', '--blocks', '3,3', '--widths', '8,8'],
     ['--blocks 3,3', 'one stage']),
    (['--arch', 'ConvNeXt', '--model-name', 'convnext-t-cvst', '--patch-size', '8'], ['--patch-size 8', '1, 2, 4']),
    (['--arch', 'ConvNeXt', '--model-name', 'convnext-b-cvst', '--widths', '30,60,120,240'],
     ['--widths 30,60,120,240', 'multiple of 4']),
    (['--arch', 'ConvNeXt', '--input-size', '16'], ['--input-size 16', '4 stages']),
    (['--arch', 'ViT', '--input-size', '40'], ['--input-size 40', '--patch-size 16']),
    (['--arch', 'ViT', '--widths', '100'], ['--heads 6', '--widths 100']),
    (['--arch', 'ViT', '--blocks', '6,6'], ['--blocks 6,6', 'one stage']),
    (['--arch', 'CifarResNet', '--group', '2'], ['--group', 'CifarResNet']),
    (['--arch', 'EfficientNet', '--model-name', 'efficientnet-b9'], ['--model-name', '-b9', 'efficientnet-bL1']),
    (['--arch', 'EfficientNet', '--model-name', 'b0'], ['--model-name', "'b0'"]),
    (['--arch', 'EfficientNet', '--dropout-rate', '1'], ['--dropout-rate', '1']),
    (['--arch', 'EfficientNet', '--survival-prob', '0'], ['--survival-prob', '0']),
    (['--arch', 'EfficientNet', '--width-coefficient', '0'], ['--width-coefficient', '0']),
    (['--accumulate', '3'], ['--accumulate 3', '--batch 32']),
    (['--accumulate', '0'], ['--accumulate', '0']),
    (['--batch', '4', '--accumulate', '8'], ['--accumulate 8', '--batch 4']),
    (['--optimizer', 'adam'], ['--optimizer', 'adam', 'rmsprop']),
    (['--moving-average-decay', '1'], ['--moving-average-decay', '1']),
    (['--batch-norm-momentum', '1'], ['--batch-norm-momentum', '1']),
    (['--batch-norm-epsilon', '0'], ['--batch-norm-epsilon', '0']),
    (['--lr-decay-epochs', '0'], ['--lr-decay-epochs', '0']),
    (['--weight-decay', '-1'], ['--weight-decay', '-1']),
    (['--arch', 'CifarResNet', '-d', '50'], ['--depth 50', '8', '20', 'CifarResNet']),
    (['--activation-name', 'swiish'], ['--activation-name', 'swiish', 'silu', 'smoothrelu']),
    (['--activation-name', 'celu:-1'], ['--activation-name', 'celu:-1', 'alpha']),
    (['--activation-name', 'relu:2'], ['--activation-name', 'relu', 'alpha']),
    (['--attack-gradient', 'smoothrelu'], ['--attack-gradient', 'smoothrelu']),
    (['--padding', 'valid'], ['--padding', 'explicit', 'same']),
    (['--recipe', 'trades'], ['--recipe', 'sat', 'feature-denoising']),
    (['--group', '3', '--res2-bottleneck', '5'], ['--group 3', '--res2-bottleneck 5']),
    (['--attack-iter', '10', '--attack-epsilon', '0'], ['--attack-epsilon 0']),
    (['--attack-epsilon', '256'], ['--attack-epsilon 256', '255']),
    (['--attack-epsilon', '-1'], ['--attack-epsilon', '-1']),
    (['--attack-epsilon', 'nan'], ['--attack-epsilon', 'nan']),
    (['--attack-step-size', '0'], ['--attack-step-size 0']),
    (['--attack-iter', '-1'], ['--attack-iter', '-1']),
    (['--attack-iter', '1.5'], ['--attack-iter', '1.5']),
    (['--eval-attack-epsilon', '0'], ['--eval-attack-epsilon 0']),
    (['--eval-attack-step-size', '0'], ['--eval-attack-step-size 0']),
    (['--eval-attack-iter', '0'], ['--eval-attack-iter', '0']),
    (['--prob-start-from-clean', '1.5'], ['--prob-start-from-clean', '1.5']),
    (['--label-smoothing', '-0.1'], ['--label-smoothing', '-0.1']),
    (['--lr-drop-epochs', '30,x'], ['--lr-drop-epochs', '30,x']),
    (['--batch', '0'], ['--batch', '0']),
    (['--seed', '-1'], ['--seed', '-1']),
    (['--augmentation', 'mixup'], ['--augmentation', 'mixup', 'imagenet']),
    (['--eval'], ['--eval', '--load']),
    (['--eval-directory', '.'], ['--eval-directory', '--load']),
    (['--starting-epoch', '5'], ['--starting-epoch 5', '--load']),
    (['--resume', '--starting-epoch', '5'], ['--resume', '--starting-epoch']),
    (['--attack-eps', '4'], ['--attack-eps']),
    (['--act', 'relu'], ['--act']),
    (['--attack', 'autoattack'], ['--attack autoattack', 'trains nothing', 'pgd']),
    (['--norm', 'L2'], ['--norm L2 needs --attack-epsilon']),
    (['--attack-target', 'random'], ['--attack-target is for --eval']),
    (['--use-fp16xla', '--attack-precision', 'bfloat16'], ['--use-fp16xla', '--attack-precision bfloat16']),
    (['--attack-precision', 'float8'], ['--attack-precision', 'float8']),
    (['--eval', '--load', 'x', '--tf32'], ['--tf32 is for training']),
    (['--eval-directory', '.', '--load', 'x', '--tf32'], ['--tf32 is for training']),
    (['--eval', '--load', 'x', '--attack', 'autoattack', '--attack-precision', 'bfloat16'],
     ['--attack autoattack has no --attack-precision']),
    (['--eval', '--load', 'x', '--attack', 'autoattack', '--use-fp16xla'], ['--attack autoattack has no '
                                                                            '--use-fp16xla']),
    (['--eval', '--load', 'x', '--early-stop', '--xla'], ['--early-stop', '--xla']),
    (['--eval', '--load', 'x', '--early-stop', '--attack-precision', 'bfloat16'], ['--early-stop', 'bfloat16']),
    (['--resume-eval'], ['--resume-eval is for --eval']), (['--early-stop'], ['--early-stop is for --eval']),
    (['--autoattack-version', 'plus'], ['--autoattack-version is for --eval']),
    (['--more-eval-attack-iter', '50,x'], ['--more-eval-attack-iter', "'x' is no whole number"]),
    (['--more-eval-attack-iter', '50,0'], ['--more-eval-attack-iter', '0 is below 1']),
    (['--no-such-flag'], ['--no-such-flag'])])
def test_a_mistake_in_the_flags_is_refused_in_one_line_that_names_it(capsys, argv, named):
    line = refusal(capsys, main.parse_args, argv)
    assert all(part in line for part in named), line


@pytest.mark.parametrize('name', ['absent.npz', 'absent.npy', 'folder/model-500', 'model-500.index', 'checkpoint'])
@pytest.mark.parametrize('mode', [['--eval'], []])
def test_an_absent_checkpoint_is_refused_by_name(capsys, tmp_path, name, mode):
    path = str(tmp_path / name)
    assert path in refusal(capsys, main.parse_args, mode + ['--load', path])


def test_a_folder_without_a_checkpoint_is_refused(capsys, folder):
    assert folder in refusal(capsys, main.parse_args, ['--load', folder])


@pytest.mark.parametrize('flag', ['--data', '--eval-directory'])
def test_an_absent_folder_is_refused_by_name(capsys, tmp_path, npz, flag):
    path = str(tmp_path / 'absent')
    line = refusal(capsys, main.parse_args, ['--load', npz, flag, path])
    assert flag in line and path in line


@pytest.mark.parametrize('argv, named', [
    (['--resume'], '--resume'),
    (['--eval', '--eval-directory', '.'], '--eval-directory'),
    (['--eval', '--resume'], '--resume'),
    (['--starting-epoch', '101'], '--starting-epoch 101'),
    (['--eval', '--more-eval-attack-iter', '50'], '--more-eval-attack-iter is for training'),
    (['--eval', '--attack-iter', '5', '--attack-epsilon', '0'], '--attack-epsilon 0')])
def test_flags_that_contradict_each_other_are_refused(capsys, npz, argv, named):
    assert named in refusal(capsys, main.parse_args, ['--load', npz] + argv)


@pytest.mark.parametrize('argv, line', [
    (['--attack', 'fgsm', '--attack-iter', '5'], '--attack fgsm has no --attack-iter'),
    (['--attack', 'fgsm', '--attack-step-size', '5'], '--attack fgsm has no --attack-step-size'),
    (['--attack', 'autoattack', '--eval-attack-iter', '5'], '--attack autoattack has no --eval-attack-iter'),
    (['--attack', 'autoattack', '--targeted'], '--attack autoattack has no --targeted'),
    (['--attack', 'autoattack', '--untargeted'], '--attack autoattack has no --untargeted'),
    (['--attack', 'autoattack', '--attack-target', 'random'], '--attack autoattack has no --attack-target'),
    (['--attack', 'momentum', '--attack-iter', '0'], '--attack momentum without steps'),
    (['--norm', 'L2', '--attack-iter', '0', '--attack-epsilon', '9'], '--norm L2 without steps'),
    (['--attack', 'autoattack', '--early-stop'], 'autoattack always stops at the first success'),
    (['--attack', 'fgsm', '--early-stop'], '--early-stop: --attack fgsm has only one step'),
    (['--attack-iter', '0', '--early-stop'], '--early-stop: --attack-iter 0 has no steps'),
    (['--norm', 'L2'], '--norm L2 needs --attack-epsilon'), (['--norm', 'L1'], '--norm L1 needs --attack-epsilon'),
    (['--norm', 'L1', '--attack-epsilon', '0'], '--attack-epsilon 0'), (['--norm', 'L3'], '--norm'),
    (['--attack', 'apgd2'], '--attack'), (['--attack', 'apgd', '--targeted'], '--attack apgd has no --targeted'),
    (['--autoattack-version', 'plus'], '--attack pgd has no --autoattack-version'),
    (['--targeted', '--attack-target', 'none'], '--targeted and --attack-target none'),
    (['--untargeted', '--attack-target', 'least-likely'], '--untargeted and --attack-target least-likely')])
def test_flags_that_an_attack_does_not_have_are_refused(capsys, npz, argv, line):
    assert line in refusal(capsys, main.parse_args, ['--eval', '--load', npz] + argv)


@pytest.mark.parametrize('argv, expected', [
    ([], ('pgd', 'Linf', 10, 4.0, 1.0, False, 'none')), (['--targeted'], ('pgd', 'Linf', 10, 4.0, 1.0, True, 'random')),
    (['--attack-target', 'random'], ('pgd', 'Linf', 10, 4.0, 1.0, True, 'random')),
    (['--attack-target', 'least-likely'], ('pgd', 'Linf', 10, 4.0, 1.0, True, 'least-likely')),
    (['--recipe', 'feature-denoising'], ('pgd', 'Linf', 30, 16.0, 1.0, True, 'random')),
    (['--recipe', 'feature-denoising', '--attack-target', 'none'], ('pgd', 'Linf', 30, 16.0, 1.0, False, 'none')),
    (['--norm', 'L2', '--attack-epsilon', '500', '--attack-iter', '5'], ('pgd', 'L2', 5, 500.0, 250.0, False, 'none')),
    (['--norm', 'L1', '--attack-epsilon', '5000', '--attack-step-size', '9'],
     ('pgd', 'L1', 10, 5000.0, 9.0, False, 'none')),
    (['--attack', 'fgsm'], ('fgsm', 'Linf', 1, 4.0, 4.0, False, 'none')),
    (['--attack', 'momentum'], ('momentum', 'Linf', 10, 4.0, 0.4, False, 'none')),
    (['--attack', 'autoattack', '--recipe', 'feature-denoising'],
     ('autoattack', 'Linf', None, 16.0, None, False, 'none'))])
def test_what_eval_attacks_with(npz, argv, expected):
    args = main.parse_args(['--eval', '--load', npz] + argv)
    assert (args.attack, args.norm, args.attack_iter, args.attack_epsilon, args.attack_step_size, args.targeted,
            args.attack_target) == expected
    assert args.autoattack_version == ('standard' if args.attack == 'autoattack' else None)


@pytest.fixture
def run(graph, tmp_path, monkeypatch):
    """function(argv): run the program in this process, on a fresh graph and in an empty folder."""
    (tmp_path / 'cwd').mkdir()
    monkeypatch.chdir(tmp_path / 'cwd')
    return main.main


NETWORK = ['--arch', 'CifarResNet', '-d', '8', '--input-size', '16', '--num-classes', '2']
SMALL = NETWORK + ['--steps-per-epoch', '1', '--epochs', '1']


def judged(path, data):
    return NETWORK + ['--eval', '--load', path, '--data', data]


def trained(path, data):
    return SMALL + ['--load', path, '--data', data]


@pytest.mark.parametrize('mode', [judged, trained])
@pytest.mark.parametrize('damage', ['truncated', 'text', 'empty'])
def test_a_damaged_npz_is_refused_by_name(capsys, run, tmp_path, images, mode, damage):
    path = tmp_path / 'damaged.npz'
    np.savez(path, W=np.arange(1000))
    content = path.read_bytes()
    path.write_bytes({'truncated': content[:len(content) // 2], 'text': b'Not Found', 'empty': b''}[damage])
    assert str(path) in refusal(capsys, run, mode(str(path), images))


def test_a_npz_with_a_damaged_member_is_refused_by_name(capsys, run, tmp_path, images):
    path = tmp_path / 'damaged.npz'
    np.savez(path, W=np.arange(1000))
    with zipfile.ZipFile(path) as archive:
        begin = archive.getinfo('W.npy').header_offset
    content = bytearray(path.read_bytes())
    content[begin + 2000] ^= 255
    path.write_bytes(content)
    assert str(path) in refusal(capsys, run, judged(str(path), images))


@pytest.mark.parametrize('mode', [judged, trained])
def test_a_checkpoint_that_lacks_variables_is_refused_with_some_of_their_names(capsys, run, npz, images, mode):
    line = refusal(capsys, run, mode(npz, images))
    assert npz in line and 'conv0/W' in line and '--depth' in line


@pytest.mark.parametrize('mode', [judged, trained])
def test_a_checkpoint_of_other_classes_is_refused_with_both_numbers_and_the_flag(capsys, run, tmp_path, images, mode):
    import tensorflow.compat.v1 as tf
    from tensorpack.tfutils.tower import TowerContext
    args = main.parse_args(SMALL + ['--num-classes', '3'])
    with tf.Graph().as_default(), tf.Session() as session, TowerContext('', is_training=False):
        nets.CifarResNetModel(args).get_logits(tf.zeros([1, 16, 16, 3]))
        session.run(tf.global_variables_initializer())
        values = {v.op.name: session.run(v) for v in tf.global_variables()}
    path = str(tmp_path / 'three.npz')
    np.savez(path, **values)
    line = refusal(capsys, run, mode(path, images))
    assert path in line and ' 3 classes' in line and ' 2 classes' in line and '--num-classes 3' in line


@pytest.mark.parametrize('mode', [judged, trained])
def test_an_empty_data_folder_is_refused_by_name(capsys, run, npz, folder, mode):
    assert folder in refusal(capsys, run, mode(npz, folder))


def test_a_class_without_an_output_of_the_network_is_refused(capsys, run, tmp_path, npz):
    data = make_folder(tmp_path / 'three', ['{}/{}/{}.png'.format(split, c, k)
                                            for split in ('train', 'val') for c in 'abc' for k in range(2)])
    for argv in (judged(npz, data), trained(npz, data)):
        assert '--num-classes 2' in refusal(capsys, run, argv)


def test_a_folder_without_images_is_refused_by_eval_directory(capsys, run, npz, folder):
    assert folder in refusal(capsys, run, NETWORK + ['--eval-directory', folder, '--load', npz])


def test_resume_without_an_earlier_run_is_refused(capsys, run, images):
    assert 'nothing-here' in refusal(capsys, run, SMALL + ['--data', images, '--resume', '--logdir', 'nothing-here'])


@pytest.mark.parametrize('argv, named', [
    (['--arch', 'ResNeSt'], 'ResNeSt'),
    (['--eval', '--load', 'absent.npz'], 'absent.npz')])
def test_a_mistake_ends_the_program_with_exit_code_2_and_one_line(tmp_path, argv, named):
    ended = subprocess.run([sys.executable, os.path.join(ROOT, 'main.py')] + argv, cwd=tmp_path, timeout=300,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2 and ended.stdout == ''
    assert ended.stderr.count('\n') == 1 and 'Traceback' not in ended.stderr, ended.stderr
    assert ended.stderr.startswith('main.py: error: ') and named in ended.stderr
    assert os.listdir(tmp_path) == []


def test_a_python_without_the_packages_is_told_which_one_to_use():
    done = subprocess.run([sys.executable, '-S', '-E', os.path.join(ROOT, 'main.py'), '--help'], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode != 0 and done.stderr.count('\n') == 1
    assert 'has no module' in done.stderr and '.venv/bin/python main.py' in done.stderr
