"""Weights under PyTorch's names: read as this project's, whatever is wrapped around them, and written as PyTorch's."""
import gzip
import json
import os
import re

import numpy as np
import pytest
import safetensors.numpy
import tensorflow.compat.v1 as tf

import convert
import main
import nets
from rat import weights_rule as rat_rule
from test_identity import ROWS, SHAPES, SINGH_SHAPES
from test_main import refusal
from torch_writer import save
from weights.find import open_checkpoint, read_checkpoint
from weights.identity import AVERAGE, describe
from weights.match import LoadWeights, load_into, match_variables
from weights.pytorch import _recognised

HERE = os.path.dirname(os.path.abspath(__file__))
# Of the miniature ConvNeXt in the files of the fixtures, as PyTorch computed them.
MINI_LOGITS = [[1.1676830053, -1.3984143734, 1.3193325996, 2.0517227650, -0.6393457055],
               [1.1710025072, -0.8287281394, 1.2698436975, 1.7121136189, -1.1511533260]]
MINI_FLAGS = ['--arch', 'ConvNeXt', '--model-name', 'convnext-t-cvst', '--blocks', '1,1,2,1', '--widths', '8,8,12,16',
              '--num-classes', '5']


def judged(load, *flags):
    """The flags of an evaluation of a checkpoint."""
    return main.parse_args(['--eval-directory', HERE, '--load', str(load), *flags])


def logits(load, images, *flags):
    """What a network gives for images uint8 [N,S,S,3], RGB, with the flags that its file brings."""
    args = judged(load, *flags, '--input-size', str(images.shape[1]))
    with tf.Graph().as_default(), tf.Session() as session:
        found = nets.ARCHITECTURES[args.arch].model(args).classify(tf.constant(images[..., ::-1]))
        load_into(session, match_variables(tf.global_variables(), open_checkpoint(args.load), args.load,
                                           averages=args.moving_average_decay > 0))
        return session.run(found)


def mini_images():
    return rat_rule.make_images('mini-input', 2, 3, 64, 16).transpose(0, 2, 3, 1)


def mini_state(path):
    """PyTorch's names, without prefixes, to the rule's arrays in PyTorch's layout."""
    pytorch, variables = nets.ARCHITECTURES['ConvNeXt'].pytorch, read_checkpoint(path)
    return {pytorch.name(variable): rule_weight(variable, value) for variable, value in variables.items()}


def rule_weight(variable, value):
    """What a variable of the miniature is by the rule, in PyTorch's layout."""
    pytorch = nets.ARCHITECTURES['ConvNeXt'].pytorch
    return rat_rule.make_weight('mini.' + pytorch.name(variable), pytorch.to_pytorch(variable, value).shape)


# Files of the fixtures

@pytest.mark.parametrize('name', ['weights.pt', 'weights_legacy.pt', 'full_model.pth'])
def test_a_checkpoint_of_pytorch_has_the_rule_s_numbers(torch_path, name):
    stored, pytorch = open_checkpoint(torch_path(name)), nets.ARCHITECTURES['ConvNeXt'].pytorch
    end = AVERAGE if name == 'full_model.pth' else ''
    variables = [variable for variable in stored if variable.endswith(end)]
    assert len(variables) == 69 and len(stored) == (138 if end else 69)
    for variable in variables:
        plain = variable[:len(variable) - len(end)]
        value = stored[variable]
        assert np.array_equal(pytorch.to_pytorch(plain, value), rule_weight(plain, value)), variable
        assert stored.shapes[variable] == value.shape and value.flags.c_contiguous


@pytest.mark.parametrize('name', ['weights.pt', 'full_model.pth'])
def test_it_gives_pytorch_s_logits_with_no_flag_typed(torch_path, capsys, name):
    found = logits(torch_path(name), mini_images())
    assert np.abs(found - MINI_LOGITS).max() < 2e-5 * np.abs(MINI_LOGITS).max()
    said = capsys.readouterr().err
    assert "under PyTorch's names; its flags" in said and ' '.join(MINI_FLAGS[2:]) in said
    assert ('of which these flags take the averages' in said) == (name == 'full_model.pth')
    if name == 'full_model.pth':  # its weights are those of a later step
        assert np.abs(logits(torch_path(name), mini_images(), '--moving-average-decay', '0') - found).max() > 1e-3


def test_a_training_starts_from_its_weights_and_averages(torch_path, capsys):
    path = torch_path('full_model.pth')
    args = main.parse_args(['--fake', '--load', path])
    assert (args.arch, args.blocks, args.num_classes) == ('ConvNeXt', '1,1,2,1', 5)
    assert capsys.readouterr().err.endswith('it has weights and their averages\n')
    with tf.Graph().as_default():
        bias = tf.get_variable('head/fc/bias', [5])
        average = tf.get_variable('head/fc/bias' + AVERAGE, [5], trainable=False)
        stored = {name: value for name, value in open_checkpoint(path).items() if 'head/fc/bias' in name}
        start = LoadWeights(path, stored)
        start._setup_graph()
        loaded = dict((variable.op.name, value) for variable, value in start.pairs)
    assert np.array_equal(loaded[average.op.name], rule_weight('head/fc/bias', loaded[average.op.name]))
    assert not np.array_equal(loaded[bias.op.name], loaded[average.op.name])


@pytest.mark.parametrize('output', ['X.npz', 'X', 'X.safetensors'])
def test_it_converts_and_gives_them_still(torch_path, tmp_path, output):
    path = str(tmp_path / output)
    convert.main(['weights', '--load', torch_path('weights_legacy.pt'), path, '--input-size', '64'])
    before, after = read_checkpoint(torch_path('weights.pt')), read_checkpoint(path)
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)
    assert np.abs(logits(path, mini_images()) - MINI_LOGITS).max() < 2e-5 * np.abs(MINI_LOGITS).max()


def test_what_is_exported_has_pytorch_s_names_layouts_and_numbers(torch_path, tmp_path):
    path = str(tmp_path / 'X.safetensors')
    convert.main(['weights', '--load', torch_path('full_model.pth'), path, '--keep', 'averages'])
    found, expected = safetensors.numpy.load_file(path), mini_state(torch_path('weights.pt'))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_of_weights_and_averages_one_must_be_chosen_for_pytorch(torch_path, tmp_path, capsys):
    argv = ['weights', '--load', torch_path('full_model.pth'), str(tmp_path / 'X.safetensors')]
    assert '--keep averages' in last_line(capsys, argv)
    assert not os.listdir(tmp_path)


def last_line(capsys, argv):
    """What convert.py is refused by, behind what is said of the file."""
    with pytest.raises(SystemExit) as end:
        convert.main(argv)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == '' and 'Traceback' not in err
    return err.splitlines()[-1]


# Names

@pytest.mark.parametrize('row', [*ROWS, *SINGH_SHAPES])
def test_every_network_is_known_by_its_names_in_pytorch(row):
    shapes = {**SHAPES, **SINGH_SHAPES}[row]
    # The releases' evaluation graphs have batch norm's vectors as [1, 1, 1, 1, C].
    shapes = {name: shape[4:] if len(shape) == 5 else shape for name, shape in shapes.items()}
    network = describe(shapes)
    pytorch = nets.ARCHITECTURES[network.arch].pytorch
    names = pytorch.names(shapes)
    assert names.keys() == shapes.keys() and len(set(names.values())) == len(names)
    theirs = {name: tuple(shapes[variable][axis] for axis in pytorch.axes(variable, len(shapes[variable])))
              for variable, name in names.items()}
    found, _, variables = _recognised(theirs)
    assert found.is_same(network) and variables == {name: variable for variable, name in names.items()}


def test_the_names_of_the_fourth_document_s_networks_are_the_originals():
    with gzip.open(os.path.join(HERE, 'fixtures', 'rat', 'variables.json.gz'), 'rt') as f:
        rows = json.load(f)
    for row, found in rows.items():
        names = nets.ARCHITECTURES['ConvNeXt' if 'conv' in row else 'ViT'].pytorch.names(SINGH_SHAPES[row])
        assert set(names.values()) == {name for name, _ in found['entries']}


@pytest.mark.parametrize('row, variable, name, shape', [
    ('sat_ResNet-50-silu', 'conv0/W', 'conv1.weight', (64, 3, 7, 7)),
    ('sat_ResNet-50-silu', 'conv0/bn/mean/EMA', 'bn1.running_mean', (64,)),
    ('sat_ResNet-50-silu', 'group0/block0/convshortcut/W', 'layer1.0.downsample.0.weight', (256, 64, 1, 1)),
    ('sat_ResNet-50-silu', 'group0/block0/convshortcut/bn/variance/EMA', 'layer1.0.downsample.1.running_var', (256,)),
    ('sat_ResNet-50-silu', 'group3/block2/conv2/W', 'layer4.2.conv2.weight', (512, 512, 3, 3)),
    ('sat_ResNet-50-silu', 'group3/block2/conv3/bn/gamma', 'layer4.2.bn3.weight', (2048,)),
    ('sat_ResNet-50-silu', 'linear/W', 'fc.weight', (1000, 2048)),
    ('sat_ResNet-50-silu', 'linear/b', 'fc.bias', (1000,)),
    ('sat_ResNeXt-50-32x4d-silu', 'group1/block0/conv2/W', 'layer2.0.conv2.weight', (256, 8, 3, 3)),
    ('sat_ResNet-50-smoothrelu', 'group0/block0/conv1/smoothrelu_beta', 'layer1.0.act1.b', (1,)),
    ('sat_ResNet-50-smoothrelu', 'group0/block0/smoothrelu_beta', 'layer1.0.act3.b', (1,)),
    ('fair_ResNetDenoise-50', 'group1_denoise/embedding_theta/W', 'layer2.denoise.theta.weight', (256, 512, 1, 1)),
    ('fair_ResNetDenoise-50', 'group1_denoise/conv/bn/beta', 'layer2.denoise.bn.bias', (512,)),
    ('fair_ResNeXtDenoiseAll-101', 'group2/block9/non_local/conv/W', 'layer3.9.denoise.conv.weight',
     (1024, 1024, 1, 1)),
    ('efficientnet-b0', 'efficientnet-b0/stem/conv2d/kernel', 'conv_stem.weight', (32, 3, 3, 3)),
    ('efficientnet-b0', 'efficientnet-b0/blocks_0/depthwise_conv2d/depthwise_kernel', 'blocks.0.0.conv_dw.weight',
     (32, 1, 3, 3)),
    ('efficientnet-b0', 'efficientnet-b0/blocks_0/conv2d/kernel', 'blocks.0.0.conv_pw.weight', (16, 32, 1, 1)),
    ('efficientnet-b0', 'efficientnet-b0/blocks_0/tpu_batch_normalization_1/moving_mean', 'blocks.0.0.bn2.running_mean',
     (16,)),
    ('efficientnet-b0', 'efficientnet-b0/blocks_15/conv2d_1/kernel', 'blocks.6.0.conv_pwl.weight', (320, 1152, 1, 1)),
    ('efficientnet-b0', 'efficientnet-b0/blocks_4/se/conv2d_1/bias', 'blocks.2.1.se.conv_expand.bias', (240,)),
    ('efficientnet-b0', 'efficientnet-b0/head/tpu_batch_normalization/gamma', 'bn2.weight', (1280,)),
    ('efficientnet-b0', 'efficientnet-b0/head/dense/kernel', 'classifier.weight', (1000, 1280))])
def test_a_variable_is_called_as_in_torchvision_and_timm(row, variable, name, shape):
    """Names and shapes of torchvision 0.28 and timm 1.0.31; of denoising and SmoothReLU, this project's own."""
    shapes = {each: found[4:] if len(found) == 5 else found for each, found in SHAPES[row].items()}
    pytorch = nets.ARCHITECTURES[describe(shapes).arch].pytorch
    assert pytorch.names(shapes)[variable] == name
    assert pytorch.shape(variable, shape) == shapes[variable]


# What is around a state

@pytest.fixture(scope='module')
def mini(torch_path):
    return mini_state(torch_path('weights.pt'))


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


MEAN, STD = ([np.float32(values).reshape(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])


@pytest.mark.parametrize('wrap, scaling', [
    (lambda state: state, None), (lambda state: prefixed(state, 'module.base_model.'), None),
    (lambda state: prefixed(state, 'base_model.'), None), (lambda state: prefixed(state, 'module.'), None),
    (lambda state: prefixed(state, '_orig_mod.module.'), None), (lambda state: {'model': state}, None),
    (lambda state: {'state_dict': prefixed(state, 'module.model.'), 'epoch': 3}, None),
    (lambda state: {'model_state_dict': state, 'model': {'other': np.zeros(3, np.float32)}}, None),
    (lambda state: {'normalize.mean': MEAN, 'normalize.std': STD, **prefixed(state, 'model.')}, 'imagenet'),
    (lambda state: prefixed({'normalize.mean': MEAN, 'normalize.std': STD, **prefixed(state, 'model.')},
                            'module.base_model.'), 'imagenet'),
    (lambda state: {'mu': 0 * MEAN, 'sigma': 0 * STD + 1, **prefixed(state, 'model.')}, 'unit'),
    # The library `robustness`: the network twice, within its attacker too.
    (lambda state: {'model': prefixed({
        'normalizer.new_mean': MEAN, 'normalizer.new_std': STD, **prefixed(state, 'model.'),
        'attacker.normalize.new_mean': MEAN, 'attacker.normalize.new_std': STD, **prefixed(state, 'attacker.model.')},
        'module.'), 'epoch': 90}, 'imagenet'),
    (lambda state: {**state, 'bn.num_batches_tracked': np.int64([7])}, None)])
def test_every_form_of_a_checkpoint_is_the_same_network(tmp_path, mini, torch_path, wrap, scaling):
    expected = read_checkpoint(torch_path('weights.pt'))
    stored = open_checkpoint(save(tmp_path / 'x.pt', wrap(mini)))
    assert stored.told.scaling == scaling and stored.told.averages == 'none'
    assert stored.keys() == expected.keys()
    assert all(np.array_equal(stored[name], expected[name]) for name in expected)
    args = judged(tmp_path / 'x.pt')
    assert (args.input_scaling, args.moving_average_decay) == (scaling or 'unit', 0)


def test_two_networks_in_one_state_are_ambiguous(tmp_path, mini):
    changed = {name: value + 1 for name, value in mini.items()}
    for content in ({**prefixed(mini, 'model.'), **prefixed(changed, 'attacker.model.')},
                    {**mini, **prefixed(changed, 'module.')}):
        with pytest.raises(ValueError, match='stem.0.weight is there twice, with different numbers'):
            open_checkpoint(save(tmp_path / 'x.pt', content))


@pytest.mark.parametrize('buffers, said', [
    ({'normalize.mean': MEAN + 0.01, 'normalize.std': STD}, r'mean \[0.495, 0.466, 0.416\], std \[0.229'),
    ({'normalize.mean': MEAN}, r'mean \[0.485, 0.456, 0.406\], and')])
def test_a_normalisation_that_is_not_here_is_refused(tmp_path, mini, buffers, said):
    with pytest.raises(ValueError, match='normalises its images by ' + said):
        open_checkpoint(save(tmp_path / 'x.pt', {**buffers, **prefixed(mini, 'model.')}))


def test_a_scaling_that_contradicts_the_file_is_refused(tmp_path, mini, capsys):
    path = save(tmp_path / 'x.pt', {'normalize.mean': MEAN, 'normalize.std': STD, **prefixed(mini, 'model.')})
    argv = ['--eval-directory', HERE, '--load', path, '--input-scaling', 'unit']
    assert '--input-scaling imagenet' in refusal(capsys, main.main, argv)
    assert judged(path, '--input-scaling', 'unit', '--ignore-checkpoint-flags').input_scaling == 'unit'


def test_averages_alone_are_the_weights(tmp_path, mini, capsys):
    path = save(tmp_path / 'x.pth', {'state_dict_ema': prefixed(mini, 'base_model.')})
    assert judged(path).moving_average_decay == 0
    assert 'averages alone, which are taken as weights' in capsys.readouterr().err
    assert len(open_checkpoint(path)) == len(mini)


# Every parameter is accounted for

@pytest.mark.parametrize('change, said', [
    (lambda state: state.pop('head.fc.weight'), "lacks 1 of the network's 69 variables: head/fc/weight"),
    (lambda state: state.update({'stages.0.blocks.0.extra': np.zeros(3, np.float32)}),
     'holds 1 variables that the network lacks: stages/0/blocks/0/extra'),
    (lambda state: state.update({'another': np.zeros(3, np.float32)}),
     'holds 1 variables that the network lacks: another'),
    (lambda state: state.update({'head.fc.bias': np.zeros(6, np.float32)}), 'has other shapes: head/fc/bias'),
    (lambda state: state.update({'head.fc.bias': np.full(5, np.nan, np.float32)}), 'head/fc/bias is not finite')])
def test_what_is_missing_left_over_or_wrong_is_said_in_one_line(tmp_path, mini, change, said):
    state = dict(mini)
    change(state)
    with pytest.raises(ValueError) as error:
        logits(save(tmp_path / 'x.pt', state), mini_images(), *MINI_FLAGS)
    assert said in str(error.value) and '\n' not in str(error.value)


def test_another_network_is_refused_with_the_flags_to_type(tmp_path, mini, capsys):
    path = save(tmp_path / 'x.pt', mini)
    said = last_line(capsys, ['saved-model', '--load', path, '--arch', 'ResNet', str(tmp_path / 'served')])
    assert 'give --arch ConvNeXt --model-name convnext-t-cvst' in said


def test_names_of_no_network_here_are_refused(tmp_path, capsys):
    path = save(tmp_path / 'x.pt', {'features.0.weight': np.zeros([4, 3, 3, 3], np.float32)})
    said = last_line(capsys, ['weights', '--load', path, str(tmp_path / 'X.npz')])
    assert 'no network of this project: its names are features.0.weight' in said
    assert os.listdir(tmp_path) == ['x.pt']


# torchvision's residual networks

def torchvision_state(row='sat_ResNet-50-relu'):
    """A state under torchvision's names, of zeros that take no memory until they are written."""
    pytorch = nets.ARCHITECTURES['ResNet'].pytorch
    return {name: np.zeros([SHAPES[row][variable][axis] for axis in pytorch.axes(variable, len(SHAPES[row][variable]))],
                           np.float32) for variable, name in pytorch.names(SHAPES[row]).items()}


@pytest.fixture(scope='module')
def torchvision_file(tmp_path_factory):
    state = torchvision_state()
    state['bn1.num_batches_tracked'] = np.int64(3) * np.ones([], np.int64)
    return save(tmp_path_factory.mktemp('torchvision') / 'resnet50.pt', {'state_dict': prefixed(state, 'module.')})


def test_a_torchvision_network_brings_its_flags(torchvision_file, capsys):
    args = judged(torchvision_file)
    assert (args.arch, args.depth, args.padding, args.activation_name, args.input_scaling, args.batch_norm_epsilon,
            args.moving_average_decay) == ('ResNet', 50, 'symmetric', 'relu', 'imagenet', 1e-5, 0)
    assert '--padding symmetric' in capsys.readouterr().err
    assert judged(torchvision_file, '--activation-name', 'gelu_erf').activation_name == 'gelu_erf'
    assert judged(torchvision_file, '--input-scaling', 'unit').input_scaling == 'unit'


def test_a_torchvision_network_is_not_taken_for_one_of_bgr(torchvision_file, capsys):
    said = refusal(capsys, main.main, [
        '--eval-directory', HERE, '--load', torchvision_file, '--input-scaling', 'sat'])
    assert 'takes BGR' in said


def test_a_wide_network_is_told_and_one_of_basic_blocks_for_imagenet_is_none():
    pytorch = nets.ARCHITECTURES['ResNet'].pytorch
    wide = {name: tuple(value.shape) for name, value in torchvision_state().items()}
    for name, shape in wide.items():  # torchvision's wide_resnet50_2: twice the channels within a block
        inner = re.fullmatch(r'layer\d\.\d+\.(conv([12])|(conv3)|bn[12])\..+', name)
        if inner:
            wide[name] = (2 * shape[0] if not inner.group(3) else shape[0],
                          *(2 * shape[1] if inner.group(3) or inner.group(2) == '2' else n for n in shape[1:2]),
                          *shape[2:])
    network, _, variables = _recognised(wide)
    assert network.flags() == ['--arch', 'ResNet', '-d', '50', '--res2-bottleneck', '128']
    assert len(variables) == len(wide) and pytorch.shape('conv0/W', wide['conv1.weight']) == (7, 7, 3, 64)
    basic = {name: (64, 64, 3, 3) for group in range(1, 5) for block in range(2)
             for name in ('layer{}.{}.conv{}.weight'.format(group, block, conv) for conv in (1, 2))}
    for kernel, expected in ((7, None), (3, 'CifarResNet')):
        found, _, _ = _recognised({**basic, 'conv1.weight': (64, 3, kernel, kernel), 'fc.weight': (1000, 512)})
        assert (found and found.arch) == expected


# Files of safetensors from elsewhere

def test_safetensors_in_half_the_bits_are_read(tmp_path, mini, torch_path):
    bfloat16 = tf.bfloat16.as_numpy_dtype
    expected = read_checkpoint(torch_path('weights.pt'))
    for name, kind in ('f16', np.float16), ('bf16', bfloat16):
        path = str(tmp_path / (name + '.safetensors'))
        arrays = {key: np.ascontiguousarray(value.astype(kind)) for key, value in mini.items()}
        header, content = {}, b''
        for key, value in arrays.items():
            header[key] = {'dtype': name.upper(), 'shape': value.shape,
                           'data_offsets': [len(content), len(content) + value.nbytes]}
            content += value.tobytes()
        text = json.dumps(header).encode()
        with open(path, 'wb') as f:
            f.write(len(text).to_bytes(8, 'little') + text + content)
        stored = open_checkpoint(path)
        assert stored.keys() == expected.keys()
        for variable, value in stored.items():
            assert value.dtype == kind and np.array_equal(value, expected[variable].astype(kind))


@pytest.mark.parametrize('damage', [
    lambda whole: whole[:-1], lambda whole: whole + b'\0', lambda whole: whole[:100], lambda whole: b'',
    lambda whole: b'\xff' * 8 + whole[8:], lambda whole: whole.replace(b'"F32"', b'"F99"', 1),
    lambda whole: re.sub(rb'\[4,3,3,3\]', b'[4,3,3,9]', whole, count=1),
    lambda whole: whole.replace(b'"shape"', b'"shale"', 1)])
def test_damaged_safetensors_are_one_line(tmp_path, mini, damage):
    path = tmp_path / 'x.safetensors'
    safetensors.numpy.save_file({name: np.ascontiguousarray(value) for name, value in mini.items()}, str(path))
    assert len(open_checkpoint(str(path))) == len(mini)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match='not a readable checkpoint') as error:
        open_checkpoint(str(path))
    assert '\n' not in str(error.value)
