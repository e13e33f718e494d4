"""The benchmark of whole training steps: PyTorch's are the recipes' too, in turns, and what they are compared with."""
import argparse
import json
import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BENCHMARKS = os.path.join(ROOT, 'benchmarks')
import compare
import measure
import train_speed
from test_in_pytorch import torch_python


@pytest.mark.parametrize('flags, theirs, count', [
    ('--recipe revisiting-at --arch ViT --batch 4', '--network vit_small_patch16_224 --batch 4 --attack-iter 2', 6),
    ('--batch 8 --attack-iter 3 -d 50 --activation-name silu', '--batch 8 --attack-iter 3', 8),
    ('--arch EfficientNet --batch 8', '--network efficientnet_b0 --batch 8 --attack-iter 1', 8)])
def test_pytorchs_training_steps_are_the_recipes(flags, theirs, count):
    found = train_speed.in_torch(flags.split(), 'torch-python', 3)
    assert len(found) == count and all(name.startswith('PyTorch, ') for name in found)
    for command in found.values():
        assert command[0] == 'torch-python' and command[1].endswith('torch_step.py')
        assert ' {} --steps 3'.format(theirs) in ' '.join(command)
    # The precision is each way's own.
    assert sum('bfloat16' in command for command in found.values()) == sum('bfloat16' in name for name in found)


@pytest.mark.parametrize('flags, named', [
    (['-d', '101'], 'ResNet -d 50'), (['--activation-name', 'relu'], 'activation_name'),
    (['--arch', 'ViT', '--input-size', '32'], 'input_size'), (['--recipe', 'sat', '--arch', 'ViT'], 'recipe'),
    (['--arch', 'ViT', '--attack-iter', '1'], '--attack-iter 2')])
def test_a_step_that_pytorchs_program_has_not_is_refused(flags, named):
    with pytest.raises(SystemExit, match=named) as refused:
        train_speed.in_torch(flags, 'torch-python', 3)
    assert '\n' not in str(refused.value)


def test_some_of_pytorchs_ways_are_chosen_by_name():
    theirs = {'PyTorch, a': ['a'], 'PyTorch, b': ['b']}
    assert train_speed.chosen(theirs, None) == {'PyTorch, a': (['a'], {}), 'PyTorch, b': (['b'], {})}
    assert train_speed.chosen(theirs, ['b']) == {'PyTorch, b': (['b'], {})}
    with pytest.raises(SystemExit, match="'c': choose from 'a' 'b'"):
        train_speed.chosen(theirs, ['b', 'c'])


def test_steps_are_compared_with_pytorchs_best_of_any_precision_and_of_float32():
    found = {name: {'images/s': [value] * 2, 'peak resident, MiB': [100 * value] * 2} for name, value in (
        ('float32', 6.0), ('default', 9.0), ('PyTorch, float32', 3.0), ('PyTorch, float32, compiled', 4.0),
        ('PyTorch, bfloat16 autocast', 8.0), ('PyTorch, bfloat16 autocast, compiled', 5.0))}
    made = {name: {row['name']: row['ratio'] for row in measure.rows(found, list(train_speed.QUANTITIES), reference)}
            for name, reference in train_speed.references(found).items()}
    assert list(made) == ['the first', "PyTorch's best", "PyTorch's best float32"]
    assert made["PyTorch's best"]['default: images/s'] == 9 / 8
    assert made["PyTorch's best float32"] == {
        'float32: images/s': 6 / 4, 'float32: peak resident, MiB': 4 / 6,
        'default: images/s': 9 / 4, 'default: peak resident, MiB': 4 / 9}
    assert list(train_speed.references({'float32': found['float32']})) == ['the first']


@pytest.mark.parametrize('name', list(compare.TORCH_WAYS))
def test_the_steps_of_make_bench_are_in_pytorchs_ways(name):
    parser = argparse.ArgumentParser()
    for flag, count in (('--torch-ways', '+'), ('--torch-python', None), ('--variant', None), ('--json', None),
                        ('--repeats', None), ('--steps', None)):
        parser.add_argument(flag, nargs=count)
    parser.add_argument('--stay', action='store_true')
    own, flags = parser.parse_known_args(compare.command(name, 'x.json', 'torch-python')[2:])
    theirs = train_speed.in_torch(flags, own.torch_python, 1)
    assert len(train_speed.chosen(theirs, own.torch_ways)) == 2


@pytest.mark.slow
def test_variants_that_stay_do_their_steps_in_turn(tmp_path):
    done = subprocess.run(
        [sys.executable, os.path.join(BENCHMARKS, 'train_speed.py'), '--stay', '--repeats', '2', '--steps', '1',
         '--variant', 'one: --attack-iter 1', '--variant', 'half: --attack-iter 1 --update-precision bfloat16',
         '--json', 'found.json', '--arch', 'CifarResNet', '-d', '8', '--input-size', '8', '--batch', '4'],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / 'found.json') as f:
        found = {row['name']: row for row in json.load(f)['rows']}
    assert list(found) == [name + quantity for name in ('one', 'half')
                           for quantity in (': images/s', ': peak resident, MiB')]
    assert all(row['spread'][0] > 0 for row in found.values())
    assert 100 < found['one: peak resident, MiB']['median'] < 4000
    assert done.stdout.splitlines()[-1].startswith('{} cores of'.format(len(os.sched_getaffinity(0))))


# The copy is the network, in inference mode, with the weights and statistics of its last refresh.
PROGRAM = '''
import sys
sys.path.insert(0, sys.argv[1])
import torch, torch_networks
network = torch_networks.make_network(sys.argv[2], False)
image = torch.rand(2, 3, 64, 64)
with torch.no_grad():
    network.train()(image)
    copy = torch_networks.Attacked(network, torch.float32)
    before = network.eval()(image)
    assert (copy.network(image) - before).abs().max() < 1e-4 * before.abs().max()
    for parameter in network.parameters():
        parameter *= 1.01
    after = network(image)
    assert (before - after).abs().max() > 1e-3 * after.abs().max()
    copy.refresh()
    assert (copy.network(image) - after).abs().max() < 1e-4 * after.abs().max()
    network.train()
assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in copy.network.modules())
assert not any(parameter.requires_grad for parameter in copy.network.parameters())
'''


@pytest.mark.slow
@pytest.mark.skipif(torch_python() is None, reason='no PyTorch and timm; TORCH_PYTHON names a Python with them')
@pytest.mark.parametrize('network', ['resnet50', 'efficientnet_b0'])
def test_the_copy_that_pytorch_attacks_is_the_network(network):
    subprocess.run([torch_python(), '-c', PROGRAM, BENCHMARKS, network], check=True)


@pytest.mark.slow
@pytest.mark.skipif(torch_python() is None, reason='no PyTorch and timm; TORCH_PYTHON names a Python with them')
@pytest.mark.parametrize('flags', ['--precision bfloat16 --copy', '--network efficientnet_b0',
                                   '--network vit_small_patch16_224 --precision bfloat16 --copy'])
def test_pytorchs_steps_say_what_ours_say(flags):
    command = [torch_python(), os.path.join(BENCHMARKS, 'torch_step.py'), '--batch', '1', '--attack-iter', '2',
               '--threads', '1', *flags.split(), '--steps']
    found = measure.run([*command, '2'])
    assert found['images'] == 2 and found['batch'] == 1 and found['seconds'] > 0
    assert 50e6 < found['before'] < found['peak']
    with measure.started({'': ([*command, '1', '--in-turns'], {})}) as running:
        assert [measure.turn(running[''])['images'] for _ in range(2)] == [1, 1]
