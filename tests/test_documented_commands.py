"""Every command of the documents is run as it stands there, on small data, and means what its author says it does.

`documented_runs.py` begins with all that is changed in a command. What is not run is said below, with the reason.
"""
import csv
import glob
import itertools
import json
import os
import re
import shutil

import numpy as np
import pytest

import main
from documented import ROOT, documented
from documented_material import CIFAR, CIFAR_CLASSES, OF_PYTORCH, VALIDATION_IMAGES, Material
from documented_runs import SERVER, Workplace, flags_of, runs_of

TESTS = os.path.join(ROOT, 'tests')

# ----- what is not run, and why -----
FORM = 'says what commands look like; others with all its words stand beside it'
NOT_RUN = {
    # A test that does the same is named with its file.
    r'make setup( GPU=[01])?': 'installs; every use of .venv/bin/python stands on it',
    r'make setup (PYTHON|TENSORFLOW)=[\d.]+': 'installs: test_setup.py::test_python_and_tensorflow_choose',
    r'make test-stacks': 'sets up every set of versions: '
                         'test_stacks.py::test_every_set_gives_each_image_the_same_verdict',
    r'make test-gpu-graph': "needs TensorFlow's CUDA build: test_gpu_graph.py::test_a_gpu_has_a_kernel_for_each_op",
    r'\S*python scripts/horovod_wheel.py .*':
        'builds Horovod: test_setup.py::test_a_wheel_is_built_once_and_installed_from_then_on',
    r'make demo': 'test_programs.py::test_an_interrupted_demo_leaves_nothing_running starts the same program',
    r'make (test|test-all)( TEST_PROCESSES=\d+)?': 'would run these tests',
    r'make test-slurm': 'needs a Slurm: test_slurm.py::test_two_nodes_train_and_judge',
    r'make test-multihost': 'needs network namespaces: test_multihost.py',
    r'make bench( TORCH_PYTHON=ENV/bin/python)?|make bench-baseline|\S*python benchmarks/compare.py.*':
        'all benchmarks for half an hour; each is run here by itself, and what is made of their files is in '
        'test_benchmarks.py::test_a_fallen_ratio_is_an_error_and_a_smaller_loss_is_none',
    r'make -C third_party/zmq_ops fuzz':
        'test_zmq_ops.py::test_the_parser_withstands_damaged_messages_under_sanitizers',
    r'make test-containers': 'builds images: test_containers.py',
    r'(docker|podman|apptainer|srun) .*|mpirun .* apptainer exec .*|git clone .*|CONTAINER=.* sbatch .*':
        'needs a container engine or Slurm: test_containers.py trains and judges in the image, '
        'test_slurm_gpus.py::test_ranks_and_servers_run_the_programs_of_an_image',
    r'pytest -m slow -s|TORCH_PYTHON=\S+ pytest -m slow tests/test_in_pytorch.py|\S*python -m pytest .*':
        'would run these tests',
    r'serve-data.py --benchmark': 'test_serve_data.py::test_the_benchmark_reports_and_stops_on_a_signal',
    r'export \S+=.*': 'sets variables',
    r'(mpirun .* )?python main.py --eval .* --subset robustbench':
        'needs 5000 images of ImageNet: test_subsets.py::test_an_evaluation_judges_the_subset_and_says_so',
    r'python main.py --load train_log/ten/best .*|for c in .*':
        'needs CIFAR-10: '
        'test_fine_tuning_commands.py::test_the_documented_network_learns_four_classes_of_cifar10_in_two_minutes',
    r'python main.py --load train_log/probe/best .*':
        'goes on from what the command before it leaves: '
        'test_fine_tuning_commands.py::test_a_new_last_layer_is_learnt_alone_and_then_all_are',
    r'mpirun .* --load train_log/.*':
        'goes on from what the command before it leaves: '
        'test_revisiting_at.py::test_clean_weights_are_trained_on_under_attack_in_another_norm',
    r'python main.py --eval --load train_log/.*':
        'judges what the commands before it leave: '
        'test_threat_models.py::test_every_image_has_the_verdicts_of_three_evaluations_and_is_robust_where_all_say_so',
    r'echo \| \S*python benchmarks/attack_loop.py .*': 'what benchmarks/attack_speed.py, run here, starts and talks to',
    r'echo \| python benchmarks/torch_loop.py .*|python benchmarks/torch_step.py .*|'
    r'\S*python benchmarks/train_speed.py .* --torch-python .*':
        'needs PyTorch, which is not installed here',
    r'git worktree add .*|\S*python benchmarks/versions.py \.\./before.*':
        'needs another commit, set up: test_versions_speed.py::test_a_checkout_beside_itself',
    r'\S*python3 benchmarks/gpu_speed.py .*':
        'needs JAX and PyTorch: test_gpu_programs.py::test_what_is_missing_is_said_in_a_line_each',
    r'\S*python tools/in_pytorch.py .*':
        'needs PyTorch: test_in_pytorch.py::test_an_exported_network_gives_the_same_logits_in_pytorch',
    r'python -m studies( .*)?':
        'fills cells for hours: test_studies.py::test_a_killed_study_goes_on_and_repeats_no_finished_job, '
        'and test_studies.py::test_every_word_of_every_job_is_a_flag_of_its_program',
    r'sat completion (bash|zsh|fish) > .*': 'writes into the home: test_completion.py::test_it_is_printed',
    r'sat train \| .*|sat COMMAND|python -m sat|main.py --eval --load CHECKPOINT': FORM,
    r'python -m analysis|python -m analysis COMMAND|convert.py weights|python main.py \.\.\.': FORM}
# ------------------------------------

# --- what commands mean: written down from the originals' documents and papers ---
FD_ATTACK = dict(attack='pgd', norm='Linf', targeted=True, attack_target='random', attack_epsilon=16, attack_iter=30,
                 attack_step_size=1)
SAT_ATTACK = dict(FD_ATTACK, targeted=False, attack_target='none', attack_epsilon=4, attack_iter=10)
FD = dict(FD_ATTACK, recipe='feature-denoising', activation_name='relu', padding='same', batch_norm_epsilon=1e-5,
          moving_average_decay=0, input_size=224, num_classes=1000)
SAT = dict(SAT_ATTACK, recipe='sat', arch='ResNet', depth=50, activation_name='silu', padding='explicit', group=1,
           res2_bottleneck=64, batch_norm_epsilon=1e-5, moving_average_decay=0, input_size=224, num_classes=1000)
EFFICIENTNET = dict(SAT_ATTACK, recipe='sat-efficientnet', arch='EfficientNet', model_name='efficientnet-b0',
                    activation_name='silu', input_scaling='sat', augmentation='efficientnet', batch_norm_epsilon=1e-5,
                    moving_average_decay=0, input_size=224, num_classes=1000)
PLAIN_152 = dict(FD, arch='ResNet', depth=152, group=1, res2_bottleneck=64)
DENOISE_152 = dict(FD, arch='ResNetDenoise', depth=152, group=1, res2_bottleneck=64)
DENOISE_ALL_101 = dict(FD, arch='ResNeXtDenoiseAll', depth=101, group=32, res2_bottleneck=8)
CIFAR_RESNET = dict(SAT, arch='CifarResNet', depth=8, input_size=32, num_classes=10, group=None, res2_bottleneck=None)
# By the checkpoint's name.
JUDGED = {
    'R152.npz': PLAIN_152, 'R152-Denoise.npz': DENOISE_152, 'X101-DenoiseAll.npz': DENOISE_ALL_101,
    'X101-DenseDenoise.npz': DENOISE_ALL_101, 'Res50-silu/Res50-silu': SAT, 'zoo:Res50-silu': SAT, 'R50-SiLU.npz': SAT,
    'Res50-relu/Res50-relu': dict(SAT, activation_name='relu'),
    'Res50-smoothrelu/Res50-smoothrelu': dict(SAT, activation_name='smoothrelu'),
    'Res50-silu-299/Res50-silu-299': dict(SAT, input_size=299),
    'ResX50-silu-32x4d/ResX50-silu-32x4d': dict(SAT, group=32, res2_bottleneck=4),
    'efficientnet-b0/efficientnet-b0': EFFICIENTNET, 'b0.npz': EFFICIENTNET,
    'efficientnet-bL1-enhanced/efficientnet-bL1-enhanced': dict(
        EFFICIENTNET, model_name='efficientnet-bL1', moving_average_decay=0.9999, input_size=600),
    'CKPT': SAT, 'A': SAT, 'B': SAT}  # the reader's own: as the flags say
# The warm-up follows the number of epochs; APGD's first step the radius.
REVISITING = dict(
    SAT_ATTACK, recipe='revisiting-at', activation_name='gelu_erf', input_scaling='unit', augmentation='revisiting-at',
    input_size=224, num_classes=1000, attack='apgd', attack_iter=2, attack_step_size=8, mixup=0.8, cutmix=1,
    random_erasing=0.25, label_smoothing=0.1, optimizer='adamw', weight_decay=0.05, base_lr=1e-3, lr_scaling='none',
    warmup_from=1e-4, lr_cosine_to=5e-6, lr_drop_epochs='', moving_average_decay=0.9999, moving_average_ramp=False)
# By the architecture. SAT's single step of 4 belongs to its one step; another number of steps has steps of 1.
SAT_TRAINER = dict(attack_iter=1, attack_step_size=4, prob_start_from_clean=0.2, label_smoothing=0.1,
                   optimizer='momentum', weight_decay=1e-4, base_lr=0.1, warmup_epochs=5, lr_drop_epochs='30,60,90')
TRAINED = {
    'ResNet': dict(SAT, **SAT_TRAINER),
    'CifarResNet': dict(dict(CIFAR_RESNET, depth=20), **SAT_TRAINER),
    'ResNetDenoise': dict(dict(SAT_TRAINER, **dict(DENOISE_152, depth=50)), lr_drop_epochs='35,70,95'),
    'EfficientNet': dict(dict(EFFICIENTNET, **SAT_TRAINER), moving_average_decay=0.9999, optimizer='rmsprop',
                         weight_decay=1e-5, base_lr=0.016, lr_drop_epochs='', lr_decay_epochs=2.4),
    'ConvNeXt': dict(REVISITING, arch='ConvNeXt', model_name='convnext-t'),
    'ViT': dict(REVISITING, arch='ViT', model_name='vit-s')}
# With --recipe fine-tune; the data of its commands is CIFAR-10.
FINE_TUNED = dict(recipe='fine-tune', batch=64, label_smoothing=0, weight_decay=5e-4, base_lr=0.01, lr_scaling='none',
                  warmup_epochs=0, lr_drop_epochs='30,60,90,120', num_classes=10)
# ---------------------------------------------------------------------------------

# Flags that say nothing about what a network is and how it is judged; and those with another name in the results.
ELSEWHERE = {'load', 'data', 'batch', 'eval', 'eval_directory', 'prediction_file', 'prediction_format', 'show', 'track',
             'logdir', 'resume_if_any', 'mode', 'ckpt_path', 'data_dir', 'eval_batch_size', 'use_tpu', 'use_bfloat16',
             'transpose_input', 'strategy', 'sat_preprocessing'}
RENAMED = {'d': 'depth'}
RENAMED_OF_EVALUATIONS = {**RENAMED, 'eval_attack_iter': 'attack_iter'}  # a training has both
STEPS = ('attack_iter', 'attack_step_size')
ATTACK = STEPS + ('attack', 'norm', 'targeted', 'attack_target', 'attack_epsilon')
# What is typed for them, and what it means.
THREAT_MODELS = {True: 'Linf:4,L2:510,L1:19125', 'Linf:8,L2:510/255,L1': 'Linf:8,L2:510,L1:19125'}
LITTLE = ('epochs', 'input_size', 'batch')  # what a training run here has otherwise
# A few of each kind, in `make test`; a part of the command's text, which ends with a line's end.
FAST = ('model_zoo.py list', 'sat zoo list', 'tools/make_tfrecords.py --data FOLDER', '--attack autoattack',
        'main.py --data cifar10 --arch CifarResNet -d 8 --activation-name silu --batch 64 --attack-iter 2')


def is_fast(run):
    return any(part in run.text + '\n' for part in FAST)


def explained(text):
    """The reason why a command is not run; None if it is."""
    reasons = [reason for pattern, reason in NOT_RUN.items() if re.fullmatch(pattern, text)]
    return reasons[0] if reasons else None


def all_runs():
    """[(source, Run)] of every command that is not explained; the same command of several documents once."""
    found = {}
    for (source, _), block in itertools.groupby(documented(), key=lambda command: command[:2]):
        block = list(block)
        trains = any(run.servers for command in block for run in runs_of(command, block))
        for command in block:
            # A server runs beside the trainer of its block.
            if not explained(command.text) and not (trains and command.program == SERVER):
                for run in runs_of(command, block):
                    found.setdefault((run.text.replace('.venv/bin/', ''), run.servers), (source, run))
    return list(found.values())


RUNS = all_runs()


def test_every_command_of_the_documents_is_run_or_explained():
    unknown = [run for _, run in RUNS if run.mode not in CHECKS]
    assert not unknown, 'neither run nor explained in NOT_RUN: {}'.format(unknown)


def test_every_explanation_is_of_a_command_and_names_tests_that_there_are():
    texts = {command.text for command in documented()}
    for pattern, reason in NOT_RUN.items():
        assert any(re.fullmatch(pattern, text) for text in texts), 'not in the documents any more: ' + pattern
        for name, test in re.findall(r'(test_\w+\.py)(?:::(\w+))?', reason):
            with open(os.path.join(TESTS, name)) as f:
                assert not test or 'def {}('.format(test) in f.read()


def test_the_commands_in_make_test_are_in_the_documents():
    assert [part for part in FAST if not any(part in run.text + '\n' for _, run in RUNS)] == []


def test_the_documents_are_all_looked_at():
    sources = {source for source, _ in RUNS}
    assert {'README.md', 'docs/cluster.md', 'docs/evaluation.md', 'docs/fine-tuning.md', 'docs/performance.md',
            'docs/measurements.md', 'docs/training.md', 'model_zoo.py', 'convert.py', 'inference-example.py',
            'efficientnet/main.py', 'tools/make_tfrecords.py', 'tests/fixtures/originals_commands.md'} <= sources


def typed(flags, renamed):
    """{field: text} of the flags that were typed; ``renamed``: {flag: field} where these differ."""
    found = {}
    for number, word in enumerate(flags):
        if word.startswith('-'):
            name, equals, value = word.partition('=')
            following = flags[number + 1] if number + 1 < len(flags) and not flags[number
                                                                                   + 1].startswith('--') else True
            name = name.lstrip('-').replace('-', '_')
            value = value if equals else following
            # Lengths: 4/255 and 4px are 4 pixel levels.
            found[renamed.get(name, name)] = re.sub(r'(/255|px)$', '', value) if isinstance(value, str) else value
    return {name: value for name, value in found.items() if name not in ELSEWHERE}


def meaning(run, flags):
    """{field: value} of all that the flags of ``run`` are to be resolved to."""
    value_of = dict(zip(flags, flags[1:]))
    own = typed(flags, RENAMED if run.mode == 'train' else RENAMED_OF_EVALUATIONS)
    if run.mode == 'train':
        base = TRAINED[own.get('arch', 'ResNet')]
        base = dict(base, **FINE_TUNED) if own.get('recipe') == 'fine-tune' else base
        if int(own.get('attack_iter', base['attack_iter'])) != base['attack_iter']:
            base = dict(base, attack_step_size=1)
    else:
        load = value_of.get('--load') or next(word.split('=', 1)[1] for word in flags if word.startswith('--ckpt_path'))
        base = CIFAR_RESNET if own.get('arch') == 'CifarResNet' else EFFICIENTNET if (
            load == 'CKPT' and own.get('arch') == 'EfficientNet') else JUDGED[load]
        if run.mode == 'efficientnet/main.py':
            base = dict(base, attack_iter=0)
    found = dict(base, **own)
    if value_of.get('--data') == CIFAR:
        found['num_classes'] = own.get('num_classes', 10)
    if found['attack'] == 'apgd':  # its first step crosses the ball
        found['attack_step_size'] = 2 * float(found['attack_epsilon'])
    if 'threat_models' in own:
        found.update(dict.fromkeys(('norm', 'attack_epsilon', 'attack_step_size')),
                     threat_models=THREAT_MODELS[own['threat_models']])
    dropped = ATTACK if run.mode == 'main.py --eval-directory' else STEPS if own.get('attack') == 'autoattack' else (
        ('attack_epsilon', 'attack_step_size') if int(found['attack_iter']) == 0 else ())
    return {name: value for name, value in found.items() if name not in dropped}


def alike(found, expected):
    """Whether a resolved value is what is written above, or typed."""
    if isinstance(found, (list, tuple)):
        found = ','.join('{}:{:g}'.format(*each) if isinstance(each, (list, tuple)) else str(each) for each in found)
    try:
        return float(found) == float(expected)
    except (TypeError, ValueError):
        return str(found) == str(expected)


def differing(found, expected):
    """{field: (found, expected)} where they differ."""
    return {name: (found.get(name), value) for name, value in expected.items() if not alike(found.get(name), value)}


def resolved(run, flags):
    """The namespaces that the program makes of its flags."""
    if run.mode.startswith('analysis'):
        from analysis.flags import parse
        return [network.args for network in parse(run.mode.split()[1:] + flags[1:])[1]]
    if run.mode == 'efficientnet/main.py':
        from efficientnet import main as released
        return [main.parse_args(released.evaluation_arguments(*released.parse(flags), 1))]
    return [main.parse_args((['--eval'] if run.mode == 'main.py --eval' and '--eval' not in flags else []) + flags)]


def judged(run):
    return run.mode.startswith('main.py') or run.mode in ('train', 'efficientnet/main.py')


def parametrized(runs, fast=lambda run: True):
    return pytest.mark.parametrize('run', [
        pytest.param(run, id='{}: {}'.format(source, run.text), marks=() if fast(run) else pytest.mark.slow)
        for source, run in runs])


def removed(material):
    """The material, while it is needed: it may take gigabytes."""
    yield material
    shutil.rmtree(material.folder)


@pytest.fixture(scope='module')
def material(tmp_path_factory, weights_rule):
    yield from removed(Material(str(tmp_path_factory.mktemp('material')), weights_rule.weight))


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    """Checkpoints for those who look at names and shapes."""
    yield from removed(Material(str(tmp_path_factory.mktemp('shapes')), lambda _, shape: np.zeros(shape, np.float32)))


@parametrized([(source, run) for source, run in RUNS if judged(run)], lambda run: 'bL1' not in run.text)  # 1.1 GB
def test_a_command_means_what_its_author_says(run, tmp_path, shapes, monkeypatch):
    workplace = Workplace(tmp_path, shapes, run)
    monkeypatch.chdir(tmp_path)
    for name, value in workplace.variables().items():
        monkeypatch.setenv(name, value)
    flags = flags_of(run)
    args, = resolved(run, flags)
    assert differing(vars(args), meaning(run, flags)) == {}
    assert os.path.exists(args.data or '') or run.mode in ('train', 'main.py --eval-directory')


def read_json(path):
    with open(path) as f:
        return json.load(f)


def the_file(folder, name):
    """The one file of that name below ``folder``."""
    found, = [path for path in glob.glob(os.path.join(folder, '**', name), recursive=True)]
    return found


def check_evaluation(workplace, done):
    path = the_file(os.path.join(workplace.folder, 'results'), 'results.json')
    results = read_json(path)
    images = len(CIFAR_CLASSES) if CIFAR in workplace.run.text else VALIDATION_IMAGES
    assert (results['complete'], results['num_images'], results['num_unreadable']) == (True, images, 0)
    expected = meaning(workplace.run, flags_of(workplace.run))
    assert differing(results['args'], expected) == {}
    if expected.get('attack_step_size') is not None:
        steps, epsilon = int(expected['attack_iter']), float(expected['attack_epsilon'])
        # Both releases raise a step that would not cross the ball.
        step = max(float(expected['attack_step_size']), epsilon / steps)
        attack = results['attack']
        assert (attack['num_iter'], attack['epsilon'], attack['step_size'], attack['targeted']) == (
            steps, epsilon, step, expected['targeted'])
    assert ('worst case of all' if 'threat_models' in expected else 'Top1 Error: ') in done.stdout
    with open(os.path.join(os.path.dirname(path), 'per_example.csv'), newline='') as f:
        assert len(list(csv.DictReader(f))) == images


def check_training(workplace, done):
    path = the_file(workplace.folder, 'run.json')
    expected = meaning(workplace.run, flags_of(workplace.run))
    assert differing(read_json(path), {name: expected[name] for name in expected if name not in LITTLE}) == {}
    folder = os.path.dirname(path)
    assert os.path.exists(os.path.join(folder, 'model-1.index'))
    last = read_json(os.path.join(folder, 'stats.json'))[-1]
    assert (last['epoch_num'], last['global_step']) == (1, 1)
    assert 0 <= last['eval-10step-top1-error'] <= 1 and 0 <= last['eval-clean-top1-error'] <= 1


def check_predictions(workplace, done):
    if '--prediction-file predictions.txt' not in workplace.run.text:
        with open(os.path.join(workplace.folder, 'predictions.csv'), newline='') as f:
            rows = list(csv.DictReader(f))
        assert len(rows) == 3 and all(row['class_name'] and not row['unreadable'] for row in rows), rows
        assert os.path.exists(os.path.join(workplace.folder, 'predictions.png')) == ('--show' in workplace.run.text)
        return
    with open(os.path.join(workplace.folder, 'predictions.txt')) as f:
        lines = f.read().splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r'path/to/image/directory/\d\.png,\d{1,3}', line) for line in lines), lines


def check_example(workplace, done):
    assert re.fullmatch(r"Prediction:  \d+\nTop 5:  \['n\d{8} .*\]\n", done.stdout)


def check_zoo(workplace, done):
    named = re.findall(r'list (\S+)', workplace.run.text) or ['Res50-silu', 'my/checkpoint']
    assert any(name in done.stdout for name in named)


def check_converted(workplace, done):
    from weights.find import read_checkpoint
    from weights.identity import is_of_training
    words = flags_of(workplace.run)
    output = words[words.index('--load') + 2]
    place = os.path.join(workplace.folder, output)
    if words[0] == 'saved-model':
        assert os.path.isfile(os.path.join(place, 'saved_model.pb'))
        assert read_json(the_file(place, 'network.json'))['flags']['activation_name'] == 'silu'
    else:
        least = 68 if OF_PYTORCH in words else 200  # that network is a miniature
        assert len([n for n in read_checkpoint(place) if not is_of_training(n)]) > least


def check_figures(workplace, done):
    assert glob.glob(os.path.join(workplace.folder, 'results', '*', '*.png'))


def check_page(workplace, done):
    assert the_file(workplace.folder, 'report.html') and the_file(workplace.folder, 'report.md')


def check_table(workplace, done):
    assert re.search(r'^\|( -+ \||---\|)+', done.stdout, re.MULTILINE), done.stdout


def check_shards(workplace, done):
    folder = flags_of(workplace.run)[-1]
    assert glob.glob(os.path.join(workplace.folder, folder, 'train-*'))
    assert glob.glob(os.path.join(workplace.folder, folder, 'validation-*'))


def check_server(workplace, done):
    assert re.search('(serve-data|sat serve): ready', done.stdout)


def check_printed(workplace, done):
    assert done.stdout.strip()


CHECKS = {'main.py --eval': check_evaluation, 'efficientnet/main.py': check_evaluation, 'train': check_training,
          'main.py --eval-directory': check_predictions, 'inference-example.py': check_example,
          'model_zoo.py': check_zoo,
          'convert.py': check_converted, 'analysis sweep': check_figures, 'analysis landscape': check_figures,
          'analysis activations': check_figures, 'analysis transfer': check_figures, 'analysis report': check_page,
          'efficientnet/table.py': check_table, 'tools/make_tfrecords.py': check_shards, 'serve': check_server,
          'benchmarks/training_step.py': check_printed, 'benchmarks/gpu_export.py': check_printed,
          'sat completion': check_printed,
          **{'benchmarks/{}.py'.format(name): check_table for name in (
              'attack_agreement', 'attack_speed', 'ensemble_speed', 'memory', 'scaling', 'serve_data', 'startup',
              'train_speed', 'zmq_throughput')}}


@parametrized(RUNS, is_fast)
def test_a_command_does_what_its_document_says(run, tmp_path, material):
    workplace = Workplace(tmp_path, material, run)
    done = workplace.execute()
    assert done.returncode == (143 if run.mode == 'serve' else 0), '{}\n{}\n{}'.format(done.args, done.stdout,
                                                                                       done.stderr)
    assert 'Traceback' not in done.stderr
    CHECKS[run.mode](workplace, done)
