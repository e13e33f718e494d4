"""Lengths of attacks: how the field writes them, in every program, and which are refused."""
import argparse

import numpy as np
import pytest

import main
from analysis import flags
from settings import lengths
from test_main import refusal

TYPED = [('4', 4.0), ('4.0', 4.0), ('4/255', 4.0), ('8/255', 8.0), ('0.5/255', 0.5), ('0.3px', 0.3), ('16px', 16.0),
         (' 2 / 255', 2.0), ('0.5', 0.5), ('1e1', 10.0), ('128/255', 128.0)]
# As typed, and what was meant by it.
SLIPS = [('0.0157', '4 (0.0157 of 1)'), ('0.01568627', '4 (0.0157 of 1)'), ('0.0314', '8 (0.0314 of 1)'),
         ('0.03137', '8 (0.0314 of 1)'), ('0.00392', '1 (0.00392 of 1)'), ('0.25', '63.8 (0.25 of 1)'),
         ('0.4999', '127 (0.5 of 1)')]
FLAGS = ('--attack-epsilon', '--attack-step-size', '--eval-attack-epsilon', '--eval-attack-step-size')


@pytest.mark.parametrize('text, levels', TYPED)
def test_a_length_is_in_pixel_levels_however_it_is_written(text, levels):
    assert lengths.parse(text).levels == lengths.parse_linf(text) == pytest.approx(levels)


@pytest.mark.parametrize('text', ['four', '', '4/256', '1/2', 'px', '/255', '4/', '-1', '-1/255', 'nan', 'inf', 'infpx',
                                  '4cm'])
def test_what_is_no_length_is_refused_as_it_was_typed(text):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        lengths.parse(text)
    assert text in str(error.value)


@pytest.mark.parametrize('text, meant', SLIPS)
def test_a_bare_number_of_images_in_0_to_1_is_refused_with_what_was_meant(text, meant):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        lengths.parse_linf(text)
    assert 'pixel levels; did you mean {}?'.format(meant) in str(error.value)
    assert lengths.parse_linf(text + 'px') == float(text)


@pytest.mark.parametrize('flag', FLAGS)
def test_every_length_of_training_takes_and_refuses_the_same(capsys, flag):
    field = flag[2:].replace('-', '_')
    for text, levels in TYPED:
        assert getattr(main.parse_args([flag, text]), field) == pytest.approx(levels)
    for text, meant in SLIPS:
        line = refusal(capsys, main.parse_args, [flag, text])
        assert flag in line and 'pixel levels; did you mean {}?'.format(meant) in line


@pytest.fixture
def judge(tmp_path):
    np.savez(tmp_path / 'X.npz', W=np.zeros(1))
    return ['--eval', '--load', str(tmp_path / 'X.npz')]


def test_an_evaluation_takes_and_refuses_the_same(capsys, judge):
    args = main.parse_args(judge + ['--attack-epsilon', '8/255', '--attack-step-size', '0.25px'])
    assert (args.attack_epsilon, args.attack_step_size) == (8.0, 0.25)
    for attack in ([], ['--norm', 'Linf'], ['--attack', 'autoattack']):
        assert 'did you mean 4 (' in refusal(capsys, main.parse_args, judge + attack + ['--attack-epsilon', '0.0157'])


@pytest.mark.parametrize('norm', ['L2', 'L1'])
def test_other_norms_have_no_least_length_and_the_same_units(judge, norm):
    args = main.parse_args(judge + ['--norm', norm, '--attack-epsilon', '0.4', '--attack-step-size', '0.1'])
    assert (args.attack_epsilon, args.attack_step_size) == (0.4, 0.1)
    assert main.parse_args(judge + ['--norm', norm, '--attack-epsilon', '128/255']).attack_epsilon == 128


def test_the_radii_and_the_span_of_the_analysis_take_and_refuse_the_same(capsys, judge):
    more = judge[1:]
    own, networks = flags.parse(['sweep', *more, '--epsilons', '0,4/255,0.3px,8', '--attack-epsilon', '8/255'])
    assert own.epsilons == (0, 0.3, 4, 8) and networks[0].args.attack_epsilon == 8
    assert flags.parse(['landscape', *more, '--span', '16/255'])[0].span == 16
    for argv in (['sweep', '--epsilons', '0,0.0157'], ['landscape', '--span', '0.0157'],
                 ['sweep', '--attack-epsilon', '0.0157']):
        assert 'did you mean 4 (' in refusal(capsys, flags.parse, argv[:1] + more + argv[1:])
