"""Which flags mean something in which mode: all of them are in the table, and the others are refused when typed."""
import itertools

import numpy as np
import pytest

import main
import weights.flags
from ranks.launched import RANK_VARIABLES as RANK_VARIABLES
from settings import modes, sections
from test_main import refusal

# What each mode is asked for with; the folders and files are those of the fixture ``ask``.
ASKED = {modes.EVAL: ['--eval', '--load', '{npz}', '--data', '{folder}'],
         modes.DIRECTORY: ['--eval-directory', '{folder}', '--load', '{npz}'],
         modes.TRAINING: ['--data', '{folder}'], modes.FAKE: ['--fake'],
         modes.SERVED: ['--serve-address', 'ipc://@nobody']}
# A value for each flag that takes one.
VALUES = {'load': '{npz}', 'eval_directory': '{folder}', 'data': '{folder}', 'prediction_file': 'out.txt',
          'prediction_format': 'csv', 'track': 'wandb',
          'results_dir': 'out', 'logdir': 'name', 'serve_address': 'ipc://@nobody', 'arch': 'ResNet', 'depth': '50',
          'model_name': 'efficientnet-b0', 'width_coefficient': '1', 'depth_coefficient': '1', 'dropout_rate': '0.1',
          'survival_prob': '0.9', 'widths': '384', 'heads': '6', 'patch_size': '16', 'input_scaling': 'sat',
          'activation_name': 'silu', 'padding': 'same',
          'data_format': 'NHWC', 'recipe': 'sat', 'augmentation': 'none', 'augment_name': 'autoaugment',
          'num_classes': '10', 'attack': 'pgd', 'norm': 'Linf', 'autoattack_version': 'plus', 'attack_target': 'none',
          'attack_precision': 'float32', 'attack_gradient': 'silu', 'update_precision': 'float32',
          'update_gradient': 'silu',
          'gradient_compression': 'none', 'optimizer': 'momentum', 'more_eval_attack_iter': '50',
          'lr_drop_epochs': '9', 'group': '1', 'res2_bottleneck': '64', 'input_size': '224',
          'batch_norm_momentum': '0.9', 'batch_norm_epsilon': '1e-5',
          'label_smoothing': '0.1', 'moving_average_decay': '0', 'lr_scaling': 'none', 'subset': 'robustbench'}
MODES_OF = {option.dest: option.flag.modes for option in sections.options()}
# Flags that need others, or exclude those of ASKED.
COMPANY = {'resume': [], **dict.fromkeys(('new_classifier', 'starting_epoch'), ['--load', '{npz}']),
           'randaug_num_layers': ['--augment-name', 'randaugment'],
           'randaug_magnitude': ['--augment-name', 'randaugment'], 'autoattack_version': ['--attack', 'autoattack'],
           **dict.fromkeys(('model_name', 'width_coefficient', 'depth_coefficient', 'dropout_rate', 'survival_prob',
                            'input_scaling'), ['--arch', 'EfficientNet']),
           **dict.fromkeys(('blocks', 'widths', 'heads', 'patch_size'), ['--arch', 'ViT'])}


def flags():
    """(destination, words that set it) of every flag of the parser."""
    for action in main.get_parser()._actions:
        if action.dest != 'help':
            value = [VALUES.get(action.dest, '1')] if action.nargs is None else []
            yield action.dest, [action.option_strings[-1]] + value


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """function(mode, words): the command line."""
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    np.savez(tmp_path / 'X.npz', W=np.zeros(1))
    (tmp_path / 'D').mkdir()
    monkeypatch.chdir(tmp_path)

    def command(mode, words):
        begin = ASKED[mode]
        if words[0] in begin:
            place = begin.index(words[0])
            begin = begin[:place] + begin[place + 2:]
        return [word.format(npz=tmp_path / 'X.npz', folder=tmp_path / 'D') for word in begin + words]
    return command


def test_every_flag_is_in_the_table_and_nothing_else():
    assert set(MODES_OF) == {dest for dest, _ in flags()}
    # An option stands twice nowhere.
    assert len(sections.options()) == len(MODES_OF)


CASES = [(mode, dest, words) for mode, (dest, words) in itertools.product(
    (modes.EVAL, modes.DIRECTORY, modes.TRAINING, modes.FAKE, modes.SERVED), flags())
    if dest not in ('eval', 'eval_directory', 'fake', 'serve_address')]


@pytest.mark.parametrize('mode, dest, words', CASES, ids=lambda value: value if isinstance(value, str) else '')
def test_a_flag_is_taken_in_its_modes_and_refused_by_name_in_others(capsys, ask, mode, dest, words):
    company = COMPANY.get(dest, [])
    wanted = MODES_OF[dest]
    here = {mode, modes.TRAINING} if mode == modes.SERVED else {mode}
    if here & set(wanted):
        main.parse_args(ask(mode, words + company))
    else:
        line = refusal(capsys, main.parse_args, ask(mode, words))
        switched_off = words in (['--untargeted'], ['--no-moving-average-ramp'])
        spelt = words[0] if switched_off else '--' + dest.replace('_', '-')
        assert spelt + ' is for ' in line


@pytest.mark.parametrize('typed', [['--eval-attack-epsilon', '8'], ['--eval-attack-step-size', '2']])
def test_the_lengths_of_evaluations_in_training_name_those_of_eval(capsys, ask, typed):
    line = refusal(capsys, main.parse_args, ask(modes.EVAL, typed))
    assert typed[0] in line and 'type ' + typed[0].replace('--eval-', '--') in line


@pytest.mark.parametrize('typed', [
    ['--eval-attack-epsilon', '4'], ['--starting-epoch', '1'], ['--eval-every', '1'], ['--accumulate=1'],
    ['--gradient-compression', 'none'], ['--keep-checkpoints', '10']])
def test_typing_a_default_is_typing(capsys, ask, typed):
    assert typed[0].split('=')[0] in refusal(capsys, main.parse_args, ask(modes.EVAL, typed))


def test_flags_that_a_published_model_brings_are_not_typed(monkeypatch, ask):
    monkeypatch.setattr(weights.flags, '_defaults',
                        lambda *_: weights.flags._Defaults(['--dropout-rate', '0.1', '--arch', 'EfficientNet']))
    assert main.parse_args(ask(modes.EVAL, ['--seed', '1'])).dropout_rate == 0.1


@pytest.mark.parametrize('mode, typed', [(modes.TRAINING, ['--no-zmq-ops']), (modes.FAKE, ['--data-timeout', '9']),
                                         (modes.TRAINING, ['--serve-timeout', '9'])])
def test_ranks_have_a_data_server_and_a_single_process_only_where_it_is_named(capsys, monkeypatch, ask, mode, typed):
    line = refusal(capsys, main.parse_args, ask(mode, typed))
    assert typed[0] in line and '--serve-address' in line
    main.parse_args(ask(mode, typed + ['--serve-address', 'ipc://@somewhere']))
    monkeypatch.setenv('OMPI_COMM_WORLD_RANK', '0')
    if mode == modes.TRAINING:
        main.parse_args(ask(mode, typed))


@pytest.mark.parametrize('typed', [['--augmentation', 'cifar'], ['--eval-attack-iter', '10'], ['--data', '{folder}'],
                                   ['--eval-every', '2'], ['--augment-name', 'autoaugment']])
def test_constant_data_have_no_images_and_no_evaluation(capsys, ask, typed):
    assert '{} is for training'.format(typed[0]) in refusal(capsys, main.parse_args, ask(modes.FAKE, typed))
