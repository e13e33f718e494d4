"""--track: services are told of a run what it knows of itself, and nothing that they do holds it up."""
import glob
import json
import os
import struct
import sys
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import main
from small_runs import LEAN, read_json, start_training
from test_main import refusal
from training import services, trackers
from training.epochs import Epoch, Judged, read_epochs
from training.trackers import Trackers

FLAGS = {'arch': 'ResNet', 'epochs': 3, 'base_lr': 0.1, 'lr_drop_epochs': (30, 60), 'load': None, 'xla': False,
         'words': 'x' * 700}
CLEAN = {1: 0.5, 2: 0.75, 3: 0.625}  # accuracies by epoch
ROBUST = {1: 0.25, 2: 0.125, 3: 0.375}


def epoch(number):
    return Epoch(number, 10 * number, 0.1, 2.5, 0.75, 0.5, True, 0.5, (
        Judged('clean', False, 8, 0, 1 - CLEAN[number], 0.25, None),
        Judged('10step', False, 8, 0, 1 - ROBUST[number], 0.5, 0.5)), 60.0, None)


EPOCHS = [epoch(number) for number in CLEAN]
OF_ALL = {'train/cost': 2.5, 'train/robust_accuracy': 0.25, 'train/robust_top5_accuracy': 0.5, 'learning_rate': 0.1,
          'train/attack_success_rate': 0.5, 'train/seconds': 60, 'eval/clean_images': 8, 'eval/10step_images': 8,
          'eval/clean_top5_accuracy': 0.75, 'eval/10step_top5_accuracy': 0.5, 'eval/10step_attack_success_rate': 0.5}
RESULTS = {'last/eval/clean_accuracy': 0.625, 'best/eval/clean_accuracy': 0.75, 'best/eval/clean_accuracy_epoch': 2,
           'last/eval/10step_accuracy': 0.375, 'best/eval/10step_accuracy': 0.375,
           'best/eval/10step_accuracy_epoch': 3, 'last/eval/clean_top5_accuracy': 0.75}


def told_of(number):
    """What is to be said of an epoch."""
    return dict(OF_ALL, step=10 * number, **{'eval/clean_accuracy': CLEAN[number],
                                             'eval/10step_accuracy': ROBUST[number]})


def follow(name, folder, *calls, error=None):
    """A run that ends after some epochs, or stops by an exception."""
    try:
        with Trackers([name], str(folder), FLAGS, 10) as following:
            for epochs in calls:
                following(epochs)
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error


# The services themselves, without a network

@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A log directory, and services that write below ``tmp_path``."""
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'file:{}/mlruns'.format(tmp_path))
    for name in ('WANDB_DIR', 'WANDB_PROJECT', 'MLFLOW_EXPERIMENT_NAME'):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / 'PGD-run').mkdir()
    return tmp_path / 'PGD-run'


def wandb_records(path):
    """The messages of a file of W&B's, which has LevelDB's log format behind 7 bytes of its own."""
    from wandb.proto import wandb_internal_pb2
    with open(path, 'rb') as f:
        content = f.read()
    place, whole = 7, b''
    while place < len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack('<HB', content[place + 4:place + 7])
        whole += content[place + 7:place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # all of a message, or its end
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b''


def values(items):
    return {item.key or '/'.join(item.nested_key): json.loads(item.value_json) for item in items}


def test_wandb_has_flags_epochs_and_results_and_a_resumed_run_goes_on_in_its_run(folder):
    pytest.importorskip('wandb', reason='pip install wandb')
    follow('wandb', folder, EPOCHS[:1], EPOCHS[:2])
    follow('wandb', folder, EPOCHS)
    # by time: of two runs within one second the later folder's name, with -1 behind it, sorts first
    files = sorted(glob.glob(str(folder / 'wandb' / 'offline-run-*' / '*.wandb')), key=os.path.getmtime)
    first, second = [list(wandb_records(path)) for path in files]
    runs = [record.run for record in first + second if record.WhichOneof('record_type') == 'run']
    assert len({run.run_id for run in runs}) == 1
    assert {run.project for run in runs} == {services.PROJECT} and {run.display_name for run in runs} == {'PGD-run'}
    config = values(runs[0].config.update)
    assert {name: config[name] for name in FLAGS} == dict(FLAGS, lr_drop_epochs='30,60', load='')
    told = [values(record.history.item) for record in first + second if record.WhichOneof('record_type') == 'history']
    assert [each['_step'] for each in told] == [1, 2, 3]
    for number, each in enumerate(told, 1):
        assert {name: value for name, value in each.items() if name[0] != '_'} == dict(told_of(number), epoch=number)
    summary = {}
    for record in second:
        if record.WhichOneof('record_type') == 'summary':
            summary.update(values(record.summary.update))
    assert {name: summary[name] for name in RESULTS} == RESULTS
    assert [r.exit.exit_code for r in first + second if r.WhichOneof('record_type') == 'exit'] == [0, 0]


def mlflow_metrics(run):
    """{name: [(step, value), ...]} in a run's folder, where each line is time, value, step."""
    found = {}
    for path in glob.glob(os.path.join(run, 'metrics', '**'), recursive=True):
        if os.path.isfile(path):
            with open(path) as f:
                lines = [line.split() for line in f]
            found[os.path.relpath(path, os.path.join(run, 'metrics'))] = [(int(s), float(v)) for _, v, s in lines]
    return found


def test_mlflow_has_flags_epochs_and_results_and_a_resumed_run_goes_on_in_its_run(folder):
    pytest.importorskip('mlflow', reason='pip install mlflow-skinny')
    follow('mlflow', folder, EPOCHS[:1], EPOCHS[:2], error=SystemExit(143))
    run, = glob.glob(str(folder.parent / 'mlruns' / '*' / '*' / 'meta.yaml'))
    status = {'FINISHED': 3, 'FAILED': 4, 'KILLED': 5}

    def said(line):
        with open(run) as f:
            return line + '\n' in f.readlines()
    assert said('run_name: PGD-run') and said('status: {}'.format(status['KILLED']))
    follow('mlflow', folder, EPOCHS)
    assert said('status: {}'.format(status['FINISHED']))
    found = mlflow_metrics(os.path.dirname(run))
    for name in told_of(1):
        assert found[name] == [(number, told_of(number)[name]) for number in CLEAN], name
    assert {name: found[name][-1][1] for name in RESULTS} == RESULTS
    for name, value in dict(FLAGS, lr_drop_epochs='30,60', load='', words='x' * 500).items():
        with open(os.path.join(os.path.dirname(run), 'params', name)) as f:
            assert f.read() == str(value)
    follow('mlflow', folder, EPOCHS, error=ValueError('no'))
    assert said('status: {}'.format(status['FAILED']))


def test_tensorboard_has_the_numbers_of_an_evaluation_under_their_names(tmp_path):
    results = {'num_images': 8, 'complete': True, 'clean': {'top1_error': 0.25, 'top1_error_95': [0.125, 0.5]},
               'adversarial': None, 'args': {'seed': 3}, 'warnings': [], 'attack': {'num_iter': 3},
               'attacks': [{'name': 'apgd-ce', 'robust_accuracy': 0.5, 'verdict': 'last step'}]}
    with Trackers(['tensorboard'], str(tmp_path), FLAGS, 10) as following:
        following.tell_results(results)
    path, = glob.glob(str(tmp_path / 'events.out.*'))
    assert {value.tag: value.simple_value for event in tf.train.summary_iterator(path)
            for value in event.summary.value} == {
        'num_images': 8, 'clean/top1_error': 0.25, 'clean/top1_error_95/0': 0.125, 'clean/top1_error_95/1': 0.5,
        'attacks/apgd-ce/robust_accuracy': 0.5}


# What is theirs alone

class Recorder:
    """A service that notes what it is told."""
    module = package = 'tensorflow'
    made = []

    def __init__(self, folder, flags, known):
        self.flags, self.known, self.told, self.ended = flags, known, [], None
        self.run, self.place = known or 'number {}'.format(len(self.made)), 'nowhere'
        self.made.append(self)

    def log(self, values, epoch):
        self.told.append((epoch, values))

    def end(self, results, how):
        self.ended = results, how


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(Recorder, 'made', [])
    monkeypatch.setitem(trackers.SERVICES, 'wandb', Recorder)
    return Recorder


def test_epochs_that_a_service_knows_are_not_told_again_and_missed_ones_are(recorder, tmp_path):
    follow('wandb', tmp_path, EPOCHS[:2])  # the first was before it was asked for
    follow('wandb', tmp_path, EPOCHS[:2], EPOCHS)
    first, second = recorder.made
    assert [number for number, _ in first.told] == [1, 2] and [number for number, _ in second.told] == [3]
    assert (first.known, second.known) == ('', 'number 0')
    assert second.ended[1] == trackers.FINISHED and RESULTS.items() <= second.ended[0].items()


@pytest.mark.parametrize('error, how', [
    (None, 'FINISHED'), (SystemExit(143), 'KILLED'), (SystemExit(130), 'KILLED'), (KeyboardInterrupt(), 'KILLED'),
    (SystemExit(2), 'FAILED'), (OSError('disk full'), 'FAILED')])
def test_a_service_is_told_how_a_run_ended(recorder, tmp_path, error, how):
    follow('wandb', tmp_path, EPOCHS[:1], error=error)
    assert recorder.made[0].ended[1] == how


def test_top_5_is_not_told_of_five_classes():
    assert 'eval/clean_top5_accuracy' in trackers.figures(EPOCHS[0], 6)
    assert [name for name in trackers.figures(EPOCHS[0], 5) if 'top5' in name] == []


@pytest.mark.parametrize('where', ['__init__', 'log', 'end'])
def test_a_service_that_fails_is_said_once_and_left_out(recorder, tmp_path, monkeypatch, where):
    said = []
    monkeypatch.setattr(trackers.logger, 'warning', said.append)

    def fail(*_):
        raise SystemExit('no network\nat all')
    monkeypatch.setattr(recorder, where, fail)
    follow('wandb', tmp_path, EPOCHS[:1], EPOCHS)
    assert said == ['--track wandb: no network at all; the run goes on without it']


def test_a_service_that_does_not_answer_is_left_at_the_end(recorder, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(trackers.logger, 'warning', said.append)
    monkeypatch.setattr(trackers, '_SECONDS', 0.2)
    monkeypatch.setattr(recorder, 'log', lambda *_: time.sleep(5))
    begin = time.time()
    follow('wandb', tmp_path, EPOCHS)
    assert time.time() - begin < 4
    assert said == ['--track wandb: no answer within 0.2 s; what it has not taken yet is lost to it']


def test_wandb_without_a_key_is_told_what_to_type_and_waits_for_nothing(folder, monkeypatch):
    pytest.importorskip('wandb', reason='pip install wandb')
    said = []
    monkeypatch.setattr(trackers.logger, 'warning', said.append)
    monkeypatch.setenv('WANDB_MODE', 'online')
    monkeypatch.delenv('WANDB_API_KEY', raising=False)
    monkeypatch.setenv('NETRC', str(folder / 'none'))
    follow('wandb', folder, EPOCHS)
    line, = said
    assert 'wandb login' in line


# The flag

@pytest.mark.parametrize('typed, expected', [
    ([], ('tensorboard',)), (['--track', 'wandb'], ('wandb',)), (['--track', 'none'], ()),
    (['--track', 'wandb,tensorboard'], ('wandb', 'tensorboard')),
    (['--track', 'mlflow', '--track=wandb,mlflow'], ('mlflow', 'wandb'))])
def test_services_are_named_together_or_one_after_another(typed, expected):
    assert main.parse_args(['--fake', *typed]).track == expected


def test_an_evaluation_has_none_unless_asked_for(tmp_path):
    np.savez(tmp_path / 'X.npz', W=np.zeros(1))
    words = ['--eval', '--load', str(tmp_path / 'X.npz'), '--data', str(tmp_path)]
    assert main.parse_args(words).track == ()
    assert main.parse_args(words + ['--track', 'tensorboard']).track == ('tensorboard',)


def test_an_unknown_service_is_refused(capsys):
    line = refusal(capsys, main.parse_args, ['--fake', '--track', 'wandb,comet'])
    assert "--track: 'comet' is none of wandb, mlflow, tensorboard" in line


def test_a_service_that_is_not_installed_is_refused_with_what_to_type(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(services.MLflow, 'module', 'a_package_that_is_nowhere')
    line = refusal(capsys, lambda words: start_training(None, tmp_path / 'run', *words), [*LEAN, '--track', 'mlflow'])
    assert line.endswith('--track mlflow: it is not installed here; type: {} -m pip install mlflow-skinny\n'.format(
        sys.executable))
    assert not (tmp_path / 'run').exists()


def test_a_training_tells_what_its_records_hold_and_goes_on_after_resume(recorder, tmp_path):
    run = tmp_path / 'run'
    start_training(None, run, *LEAN, '--track', 'wandb')
    assert not glob.glob(str(run / 'events.out.*'))  # of which tensorboard was not named
    start_training(None, run, *LEAN, '--track', 'wandb', '--epochs', '3', '--resume')
    first, second = recorder.made
    assert [epoch for epoch, _ in first.told + second.told] == [1, 2, 3] and second.known == first.run
    assert first.flags['track'] == 'wandb' and first.flags['ranks'] == 1
    for (_, values), of_epoch, entry in zip(first.told + second.told, read_epochs(str(run)),
                                            read_json(run / 'stats.json')):
        assert values == trackers.figures(of_epoch, 2)
        assert values['train/cost'] == entry['cost'] and values['step'] == entry['global_step']
    assert first.ended[1] == second.ended[1] == trackers.FINISHED
