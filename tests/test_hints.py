"""Misspelt names: what was meant is told in the line of the refusal, and typing it works."""
import re
import shlex

import pytest

import main
import tables
from settings import sections, serving
from settings.nearest import did_you_mean, nearest
from test_main import refusal

MODES = {'TRAIN': ['--fake'], 'EVAL': ['--eval', '--load', 'x']}


@pytest.mark.parametrize('typed, meant', [
    # What other projects call it.
    (['--epsilon', '8'], '--attack-epsilon'), (['--eps=8'], '--attack-epsilon'), (['--lr', '0.1'], '--base-lr'),
    (['--dataset', 'cifar10'], '--data'), (['--batch-size', '4'], '--batch'), (['--steps', '10'], '--attack-iter'),
    (['--alpha', '1'], '--attack-step-size'), (['--model', 'ResNet'], '--arch'), (['--wd', '1'], '--weight-decay'),
    (['--checkpoint', 'x'], '--load'), (['--evaluate'], '--eval'), (['--ema'], '--moving-average-decay'),
    # What is nearly it.
    (['--attack_epsilon', '8'], '--attack-epsilon'), (['--atack', 'pgd'], '--attack'), (['--Epochs', '3'], '--epochs'),
    (['--model_name', 'vit-s'], '--model-name'), (['--activation-nane', 'silu'], '--activation-name'),
    (['--resumee'], '--resume'), (['--nrom', 'L2'], '--norm')])
def test_a_flag_that_is_none_is_told_by_its_name_here(capsys, typed, meant):
    line = refusal(capsys, main.parse_args, ['--fake'] + typed)
    assert line.endswith('unrecognized arguments: {}; did you mean {}?\n'.format(' '.join(typed), meant))


VALUES = [
    ('--arch', 'resnet50', 'ResNet -d 50'), ('--arch', 'ResNet-101', 'ResNet -d 101'), ('--arch', 'resnet', 'ResNet'),
    ('--arch', 'cifarresnet', 'CifarResNet'), ('--arch', 'resnet20', 'CifarResNet -d 20'), ('--arch', 'vit', 'ViT'),
    ('--arch', 'efficientnet_b0', 'EfficientNet --model-name efficientnet-b0'),
    ('--arch', 'convnext_tiny', 'ConvNeXt --model-name convnext-t'),
    ('--arch', 'vit_small_patch16_224', 'ViT --model-name vit-s'), ('--arch', 'deit-small', 'ViT --model-name vit-s'),
    ('--arch', 'resnext50_32x4d', 'ResNet -d 50 --group 32 --res2-bottleneck 4'),
    ('--model-name', 'efficientnet_b0', 'efficientnet-b0'), ('--model-name', 'b7', 'efficientnet-b7'),
    ('--model-name', 'tf_efficientnet_b1_ap', 'efficientnet-b1'), ('--model-name', 'vits', 'vit-s'),
    ('--activation-name', 'silus', 'silu'), ('--activation-name', 'swish-1', 'silu'),
    ('--activation-name', 'gelu_tanh', 'gelu'), ('--activation-name', 'SmoothRelU2', 'smoothrelu'),
    ('--attack', 'pgdd', 'pgd'), ('--attack', 'PGD', 'pgd'), ('--attack', 'aa', 'autoattack'),
    ('--attack', 'pgd-20', 'pgd --attack-iter 20'), ('--attack', 'auto_attack', 'autoattack'),
    ('--attack', 'square', 'autoattack --autoattack-version square'), ('--attack', 'none', 'pgd --attack-iter 0'),
    ('--norm', 'linf', 'Linf'), ('--norm', 'inf', 'Linf'), ('--norm', '2', 'L2'), ('--norm', 'l1', 'L1'),
    ('--recipe', 'feature_denoising', 'feature-denoising'), ('--recipe', 'revisiting', 'revisiting-at'),
    ('--optimizer', 'sgd', 'momentum'), ('--optimizer', 'AdamW', 'adamw'), ('--augmentation', 'cifar10', 'cifar'),
    ('--augment-name', 'randaug', 'randaugment'), ('--subset', 'robust-bench', 'robustbench'),
    ('--attack-precision', 'fp16', 'float16'), ('--attack-precision', 'bf16', 'bfloat16'),
    ('--attack-precision', 'FP32', 'float32'), ('--update-gradient', 'silus', 'silu'),
    ('--update-precision', 'half', 'float16'), ('--update-precision', 'bf16', 'bfloat16'),
    ('--update-precision', 'full', 'float32'),
    ('--model-name', 'convnext_tiny', 'convnext-t'), ('--activation-name', 'gelu_exact', 'gelu_erf'),
    ('--activation-name', 'smooth_relu', 'smoothrelu'), ('--activation-name', 'psp', 'parametric_softplus'),
    ('--attack', 'BIM', 'pgd'), ('--attack', 'mi-fgsm', 'momentum'), ('--optimizer', 'adam', 'adamw'),
    ('--optimizer', 'rmsproptf', 'rmsprop')]


@pytest.mark.parametrize('flag, word, meant', VALUES)
def test_a_word_that_is_none_is_told_by_its_spelling_here_and_that_is_accepted(capsys, flag, word, meant):
    line = refusal(capsys, main.get_parser().parse_args, [flag, word])
    assert line.startswith('{}: error: argument '.format(line.split(':')[0])) and flag in line
    assert line.endswith('; did you mean {}?\n'.format(meant)), line
    main.get_parser().parse_args([flag, *shlex.split(meant)])


@pytest.mark.parametrize('typed', [['--zzz'], ['--arch', 'qqqqq'], ['--activation-name', 'zzz'],
                                   ['--activation-name', 'silu:2'], ['--threat-models', 'Linf:0']])
def test_what_is_like_nothing_has_no_hint(capsys, typed):
    assert 'did you mean' not in refusal(capsys, main.get_parser().parse_args, typed)


def test_every_other_name_is_no_flag_here_and_belongs_to_one_flag():
    options = sections.options()
    flags = {name for option in options for name in option.flag.names}
    called = [name for option in options for name in option.flag.called]
    assert len(called) > 100 and len(called) == len(set(called))
    assert not flags & set(called)
    assert all(re.fullmatch(r'--?[a-z0-9]+(-[a-z0-9]+)*', name) for name in called)
    own = {name for option in serving.data_server_options() for name in option.flag.names}
    assert not own & set(called)


def test_every_hint_of_a_value_has_a_case_above_and_stands_in_no_words_way():
    for option in sections.options():
        words = list(tables.TABLES[option.flag.check].words) if option.flag.check in tables.TABLES else []
        cases = [word.lower().replace('_', '-') for flag, word, _ in VALUES if flag == option.flag.names[-1]]
        for pattern in option.flag.meant:
            assert any(re.fullmatch(pattern, word) for word in cases), (option.flag.names, pattern)
            assert not any(re.fullmatch(pattern, word) for word in words), (option.flag.names, pattern)


def test_the_nearest_word_is_found_whatever_its_case_and_signs():
    assert nearest('EFFICIENTNET_B0', ['efficientnet-b1', 'efficientnet-b0']) == ['efficientnet-b0']
    assert nearest('abc', ['xyz']) == []
    assert len(nearest('Res50-sil', ['Res50-silu', 'Res50-relu', 'Res152-silu'], most=2)) == 2
    assert did_you_mean('x_1', [], {'x-(.)': 'y {0}'}) == '; did you mean y 1?'
