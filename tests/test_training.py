"""Training runs in one process: what they leave behind, and that they repeat and resume to the last bit."""
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import main
from machine.versions import source_version
from small_runs import BATCH, LEAN, MAIN, NUM_IMAGES, SMALL, STEPS, differing, epochs_in, read_json, variables
from training.callbacks import FeedTrainingStep
from training.directory import log_directory, open_log_directory
from training.resume import check_same_run, trim_statistics
from weights.classes import classes_in
from weights.find import read_checkpoint, saved_steps
from weights.save import CheckpointSaver


@pytest.fixture(scope='module')
def finished(train, tmp_path_factory):
    """Log directory of a run of two epochs."""
    folder = tmp_path_factory.mktemp('finished') / 'run'
    train(folder)
    return folder


def trainable(values):
    return {name: value for name, value in values.items() if name + '/Momentum' in values}


def content(folder):
    """All files but the log: the reading thread of an earlier run may write its last line there at any time."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob('*')
            if path.is_file() and path.name != 'log.log'}


def test_a_run_leaves_statistics_log_events_checkpoints_classes_and_flags(finished):
    names = os.listdir(finished)
    assert {'stats.json', 'log.log', 'checkpoint', 'classes.json', 'run.json', 'best.json'} <= set(names)
    assert read_checkpoint(str(finished / 'best'))['global_step'] == read_json(finished / 'best.json')['global_step']
    assert saved_steps(str(finished)) == [STEPS, 2 * STEPS]
    assert [name for name in names if name.startswith('events.out.tfevents')]
    assert not [name for name in names if 'writing' in name]
    assert classes_in(finished) == ['a', 'b']
    run = read_json(finished / 'run.json')
    found = [run[name] for name in ('steps_per_epoch', 'ranks', 'batch', 'attack_iter', 'seed')]
    assert found == [STEPS, 1, BATCH, 2, 0]
    assert run['source'] == source_version()


def test_statistics_have_each_epoch_once_with_losses_and_errors(finished):
    statistics = read_json(finished / 'stats.json')
    assert [(entry['epoch_num'], entry['global_step']) for entry in statistics] == [(1, STEPS), (2, 2 * STEPS)]
    for entry in statistics:
        assert {'cost', 'xentropy-loss', 'l2_regularize_loss', 'learning_rate', 'train-error-top1', 'train-error-top5',
                'attack_success_rate', 'eval-clean-top1-error', 'eval-clean-top5-error', 'eval-2step-top1-error',
                'eval-2step-top5-error', 'eval-2step-attack-success-rate'} <= entry.keys()
        assert entry['eval-clean-top1-error'] * 5 == pytest.approx(round(entry['eval-clean-top1-error'] * 5))
    best = min(entry['eval-2step-top1-error'] for entry in statistics)
    assert read_json(finished / 'best.json')['eval-2step-top1-error'] == best


def test_more_numbers_of_steps_are_judged_each_once(train, tmp_path):
    train(tmp_path / 'run', '--more-eval-attack-iter', '3,1,2', '--epochs', '1')
    entry, = read_json(tmp_path / 'run' / 'stats.json')
    judged = [name for name in entry if name.startswith('eval-') and name.endswith('step-top1-error')]
    assert sorted(judged) == ['eval-{}step-top1-error'.format(k) for k in (1, 2, 3)]
    assert 'eval-2step-top1-error' in read_json(tmp_path / 'run' / 'best.json')


def test_a_training_checkpoint_holds_the_network_momentum_rate_and_step(finished):
    values = variables(finished, 2 * STEPS)
    assert values['global_step'] == 2 * STEPS and values['global_step'].dtype == np.int64
    assert values['learning_rate'] == np.float32(0.1 * BATCH / 256)
    assert {'conv0/W', 'conv0/W/Momentum', 'conv0/bn/mean/EMA', 'linear/b/Momentum'} <= values.keys()
    assert np.abs(values['conv0/W/Momentum']).max() > 0


def test_training_moves_every_trainable_variable_and_every_average(finished):
    before, after = variables(finished, STEPS), variables(finished, 2 * STEPS)
    moved = set(differing(before, after))
    assert set(trainable(after)) <= moved
    assert {name for name in after if name.endswith(('bn/mean/EMA', 'bn/variance/EMA'))} <= moved


def test_the_same_seed_repeats_a_run_to_the_last_bit(train, finished, tmp_path):
    train(tmp_path / 'again')
    assert differing(variables(finished, 2 * STEPS), variables(tmp_path / 'again', 2 * STEPS)) == []


def test_another_seed_gives_another_network(train, finished, tmp_path):
    train(tmp_path / 'other', '--seed', '1', '--epochs', '1')
    first, other = (trainable(variables(folder, STEPS)) for folder in (finished, tmp_path / 'other'))
    assert 'linear/W' in differing(first, other) and 'conv0/W' in differing(first, other)


class Crash(Exception):
    """What ends a run in the middle of an epoch."""


def crash_before(monkeypatch, step):
    before_run = FeedTrainingStep._before_run

    def crash(self, context):
        if self.global_step == step:
            raise Crash()
        return before_run(self, context)
    monkeypatch.setattr(FeedTrainingStep, '_before_run', crash)


def test_a_run_that_crashed_in_an_epoch_ends_after_resuming_as_if_uninterrupted(train, finished, tmp_path, monkeypatch):
    folder = tmp_path / 'run'
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_before(patch, STEPS + 2)
        train(folder)
    assert saved_steps(str(folder)) == [STEPS]
    train(folder, '--resume')
    assert differing(variables(finished, 2 * STEPS), variables(folder, 2 * STEPS)) == []
    assert os.listdir(tmp_path) == ['run']
    assert epochs_in(folder) == [1, 2]
    for mine, expected in zip(*(read_json(path / 'stats.json') for path in (folder, finished))):
        evaluated = [name for name in expected if name.startswith('eval-')]
        assert {k: mine[k] for k in evaluated} == {k: expected[k] for k in evaluated}


def test_a_run_that_crashed_before_its_first_checkpoint_starts_again(train, tmp_path, monkeypatch):
    folder = tmp_path / 'run'
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_before(patch, 1)
        train(folder, *LEAN)
    train(folder, '--resume', '--epochs', '1', *LEAN)
    assert saved_steps(str(folder)) == [STEPS]
    assert epochs_in(folder) == [1]
    assert os.listdir(tmp_path) == ['run']


def test_a_run_that_crashed_between_checkpoint_and_statistics_keeps_its_history(train, tmp_path, monkeypatch):
    folder, keep_best = tmp_path / 'run', CheckpointSaver._keep_best

    def crash(self, step):
        if step == 2 * STEPS:
            raise Crash()
        keep_best(self, step)
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(CheckpointSaver, '_keep_best', crash)
        train(folder, *LEAN)
    train(folder, '--resume', '--epochs', '3', *LEAN)
    assert epochs_in(folder) == [1, 2, 3]


def test_resuming_with_another_evaluation_goes_on(train, tmp_path):
    folder = tmp_path / 'run'
    train(folder, '--epochs', '1')
    train(folder, '--resume', '--eval-attack-iter', '3')
    assert epochs_in(folder) == [1, 2]


def test_a_second_run_of_the_same_name_leaves_the_first_untouched(train, tmp_path):
    folder = tmp_path / 'run'
    train(folder, '--epochs', '1', *LEAN)
    before = content(folder)
    train(folder, '--epochs', '1', *LEAN)
    assert content(folder) == before
    assert sorted(os.listdir(tmp_path)) == ['run', 'run-2']
    train(folder, '--resume', *LEAN)
    assert content(folder) == before
    assert saved_steps(str(tmp_path / 'run-2')) == [STEPS, 2 * STEPS]
    assert sorted(os.listdir(tmp_path)) == ['run', 'run-2']


def test_a_directory_that_is_no_run_is_neither_written_to_nor_resumed(tmp_path):
    (tmp_path / 'mine').mkdir()
    base = str(tmp_path / 'mine')
    assert open_log_directory(SimpleNamespace(logdir=base, resume=False), 1) == base + '-2'
    with pytest.raises(ValueError, match='holds no run.json'):
        check_same_run(open_log_directory(SimpleNamespace(logdir=base, resume=True), 1), {})


def refused(capsys, run):
    with pytest.raises(SystemExit) as end:
        run()
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.count('\n') == 1 and 'Traceback' not in err, err
    return err


@pytest.mark.parametrize('flags, named', [
    (['--attack-epsilon', '8'], ['attack_epsilon', '4.0', '8.0']), (['--seed', '9'], ['seed', '0', '9']),
    (['--activation-name', 'relu'], ['activation_name', 'silu', 'relu']), (['--batch', '2'], ['batch', '4', '2']),
    (['--lr-drop-epochs', '1'], ['lr_drop_epochs', '30', '1']), (['--targeted'], ['targeted']),
    (['--steps-per-epoch', '7'], ['steps_per_epoch', '3', '7']), (['--tf32'], ['tf32', 'False', 'True']),
    (['--fake'], [])])
def test_resuming_with_other_flags_is_refused_and_changes_nothing(capsys, train, finished, flags, named):
    before = content(finished)
    line = refused(capsys, lambda: train(finished, '--resume', *flags))
    assert '--resume' in line and all(part in line for part in named), line
    assert content(finished) == before


def test_resuming_on_other_classes_is_refused(capsys, train, finished, tmp_path):
    for split, count in (('train', NUM_IMAGES), ('val', 2)):
        for number in range(count):
            folder = tmp_path / split / 'xy'[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / '{}.png'.format(number)), np.zeros([8, 8, 3], np.uint8))
    before = content(finished)
    assert '--resume' in refused(capsys, lambda: train(finished, '--resume', '--data', str(tmp_path)))
    assert content(finished) == before


def test_the_rate_in_the_graph_is_the_schedule_s_before_every_step(train, tmp_path, monkeypatch):
    """12.8 for 256 images is 0.2 for 4, warmed up from 0.1 over 3 steps."""
    before_run, rates = FeedTrainingStep._before_run, []

    def record(self, context):
        variable, = [v for v in tf.global_variables() if v.op.name == 'learning_rate']
        rates.append((self.global_step, float(context.session.run(variable))))
        return before_run(self, context)
    monkeypatch.setattr(FeedTrainingStep, '_before_run', record)
    schedule = LEAN + ['--base-lr', '12.8', '--warmup-epochs', '1', '--lr-drop-epochs', '2,3']
    expected = [0.1, 0.1 + 0.1 / 3, 0.1 + 0.2 / 3, 0.2, 0.2, 0.2, 0.02, 0.02, 0.02, 0.002, 0.002, 0.002]
    train(tmp_path / 'run', '--epochs', '3', *schedule)
    train(tmp_path / 'run', '--resume', '--epochs', '4', *schedule)
    assert [step for step, _ in rates] == list(range(4 * STEPS))
    assert [rate for _, rate in rates] == pytest.approx(expected, rel=1e-6)


def test_fine_tuning_starts_from_the_loaded_weights_at_step_0(train, finished, tmp_path):
    train(tmp_path / 'run', '--load', str(finished), '--epochs', '1', '--base-lr', '0', *LEAN)
    loaded, tuned = variables(finished, 2 * STEPS), variables(tmp_path / 'run', STEPS)
    assert differing(trainable(loaded), trainable(tuned)) == []
    assert tuned['global_step'] == STEPS and epochs_in(tmp_path / 'run') == [1]


def test_starting_epoch_sets_step_rate_and_numbering(train, finished, tmp_path):
    folder = tmp_path / 'run'
    train(folder, '--load', str(finished), '--starting-epoch', '5', '--epochs', '5', '--lr-drop-epochs', '4', *LEAN)
    assert epochs_in(folder) == [5]
    assert saved_steps(str(folder)) == [5 * STEPS]
    values = variables(folder, 5 * STEPS)
    assert values['global_step'] == 5 * STEPS
    assert values['learning_rate'] == pytest.approx(0.1 * BATCH / 256 / 10, rel=1e-6)


def test_starting_epoch_continues_another_run_exactly_from_its_checkpoint(train, finished, tmp_path):
    train(tmp_path / 'run', '--load', str(finished / 'model-3'), '--starting-epoch', '2')
    theirs, mine = variables(finished, 2 * STEPS), variables(tmp_path / 'run', 2 * STEPS)
    assert differing(trainable(theirs), trainable(mine)) == []


def test_clean_training_is_judged_under_attack_every_so_many_epochs_and_after_the_last(train, tmp_path):
    train(tmp_path / 'run', '--attack-iter', '0', '--epochs', '3', '--steps-per-epoch', '1', '--eval-every', '2',
          '--keep-checkpoints', '1')
    statistics = read_json(tmp_path / 'run' / 'stats.json')
    assert not any('attack_success_rate' in entry for entry in statistics)
    assert ['eval-2step-top1-error' in entry for entry in statistics] == [False, True, True]
    assert saved_steps(str(tmp_path / 'run')) == [3]


def test_fake_data_runs_fifty_steps_an_epoch_without_evaluation(train, tmp_path):
    train(tmp_path / 'run', '--fake', '--epochs', '1', '--attack-iter', '0')
    entry, = read_json(tmp_path / 'run' / 'stats.json')
    assert entry['global_step'] == 50
    assert not [name for name in entry if name.startswith('eval-')]
    assert not (tmp_path / 'run' / 'best.json').exists()


def test_under_attack_the_loss_on_one_batch_falls_well_below_that_of_guessing(train, tmp_path):
    train(tmp_path / 'run', '--fake', '--attack-epsilon', '2', '--base-lr', '3.2')
    first, last = (entry['xentropy-loss'] for entry in read_json(tmp_path / 'run' / 'stats.json'))
    assert last < first and last < 0.6 * np.log(2)


@pytest.mark.parametrize('base, resume, expected', [
    ('new', False, 'new'), ('one', False, 'one-2'), ('three', False, 'three-4'), ('one', True, 'one'),
    ('three', True, 'three-3')])
def test_new_runs_get_a_new_number_and_resumed_ones_the_last(tmp_path, base, resume, expected):
    for name in ('one', 'three', 'three-2', 'three-3'):
        (tmp_path / name).mkdir()
    asked = SimpleNamespace(logdir=str(tmp_path / base), resume=resume)
    assert open_log_directory(asked, 1) == str(tmp_path / expected)


def test_a_log_directory_with_a_slash_is_taken_as_it_is():
    assert log_directory(SimpleNamespace(logdir='runs/mine/'), 8) == 'runs/mine'


def test_statistics_of_epochs_that_run_again_are_forgotten(tmp_path):
    (tmp_path / 'stats.json').write_text(json.dumps([{'epoch_num': e, 'x': e} for e in (1, 2, 3, 3, 4)]))
    trim_statistics(str(tmp_path), 3)
    assert read_json(tmp_path / 'stats.json') == [{'epoch_num': 1, 'x': 1}, {'epoch_num': 2, 'x': 2}]


# Averages of the weights, RMSProp, steps in parts, and EfficientNet, whose recipe has the former two.
AVERAGED = ['--moving-average-decay', '0.9', '--optimizer', 'rmsprop']
EMA = '/ExponentialMovingAverage'


@pytest.fixture(scope='module')
def averaged(train, tmp_path_factory):
    """Log directory of a run of two epochs with averages of the weights and RMSProp, its rate beyond the warm-up's."""
    folder = tmp_path_factory.mktemp('averaged') / 'run'
    train(folder, *AVERAGED, '--warmup-epochs', '0')
    return folder


def of_network(values):
    return {name: value for name, value in values.items() if name + EMA in values}


def test_a_training_checkpoint_holds_averages_of_the_whole_network_and_rmsprops_slots(averaged, finished):
    values, plain = variables(averaged, 2 * STEPS), variables(finished, 2 * STEPS)
    network = {name for name in plain if not name.endswith(('/Momentum', 'learning_rate', 'global_step'))}
    assert set(of_network(values)) == network > {'conv0/W', 'conv0/bn/mean/EMA', 'conv0/bn/variance/EMA'}
    slots = {name + slot for name in trainable(plain) for slot in ('/RMSProp', '/RMSProp_1')}
    assert set(values) == network | slots | {name + EMA for name in network} | {'learning_rate', 'global_step'}


def test_averages_start_from_loaded_weights_and_move_after_every_step_of_the_run(train, finished, tmp_path):
    train(tmp_path / 'run', '--load', str(finished), *LEAN, '--steps-per-epoch', '1', '--epochs', '3',
          '--moving-average-decay', '0.25')
    want = of_network(variables(tmp_path / 'run', 1))
    want = {name: variables(finished, 2 * STEPS)[name].astype(np.float64) for name in want}
    # min(0.25, (1 + n) / (10 + n))
    for n, decay in ((1, 2 / 11), (2, 0.25), (3, 0.25)):
        values = variables(tmp_path / 'run', n)
        for name in want:
            want[name] = decay * want[name] + (1 - decay) * values[name]
            np.testing.assert_allclose(values[name + EMA], want[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert 'conv0/W' in differing(of_network(values), {name: values[name + EMA] for name in want})


def test_averages_are_judged_beside_the_weights_and_decide_which_checkpoint_is_best(averaged):
    statistics = read_json(averaged / 'stats.json')
    for entry in statistics:
        for name in [name for name in entry if name.startswith('eval-') and '-ema-' not in name]:
            assert name.replace('eval-', 'eval-ema-') in entry
        assert {'eval-2step-top1-error', 'eval-ema-clean-top1-error',
                'eval-ema-2step-attack-success-rate'} < entry.keys()
    best = min(entry['eval-ema-2step-top1-error'] for entry in statistics)
    assert read_json(averaged / 'best.json')['eval-ema-2step-top1-error'] == best


def test_judging_the_averages_changes_nothing_of_the_run(train, averaged, tmp_path):
    train(tmp_path / 'run', *AVERAGED, '--warmup-epochs', '0', '--eval-every', '2')
    assert differing(variables(averaged, STEPS), variables(tmp_path / 'run', STEPS)) == []
    assert differing(variables(averaged, 2 * STEPS), variables(tmp_path / 'run', 2 * STEPS)) == []


def test_a_judged_average_is_the_network_of_the_averages(data, averaged, tmp_path):
    """As `--eval` judges them, in a graph of their own."""
    def error(decay):
        folder = str(tmp_path / decay)
        with tf.Graph().as_default():
            main.main(SMALL + ['--data', data, '--eval', '--load', str(averaged / 'model-6'), '--results-dir', folder,
                               '--moving-average-decay', decay])
        return read_json(tmp_path / decay / 'results.json')
    last = read_json(averaged / 'stats.json')[-1]
    for decay, prefix in (('0.9', 'eval-ema-'), ('0', 'eval-')):
        results = error(decay)
        assert last[prefix + 'clean-top1-error'] == pytest.approx(results['clean']['top1_error'])


@pytest.mark.slow
def test_a_run_with_averages_and_rmsprop_ends_after_resuming_as_if_uninterrupted(train, averaged, tmp_path,
                                                                                 monkeypatch):
    folder, flags = tmp_path / 'run', AVERAGED + ['--warmup-epochs', '0']
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_before(patch, STEPS + 2)
        train(folder, *flags)
    train(folder, '--resume', *flags)
    assert differing(variables(averaged, 2 * STEPS), variables(folder, 2 * STEPS)) == []


@pytest.mark.parametrize('flags, named', [
    (['--moving-average-decay', '0.8'], ['moving_average_decay', '0.9', '0.8']),
    (['--optimizer', 'momentum'], ['optimizer', 'rmsprop', 'momentum']),
    (['--accumulate', '2'], ['accumulate', '1', '2']), (['--weight-decay', '0'], ['weight_decay', '0.0']),
    (['--batch-norm-momentum', '0.5'], ['batch_norm_momentum', '0.5'])])
def test_resuming_with_other_averages_optimizer_or_parts_is_refused(capsys, train, averaged, flags, named):
    line = refused(capsys, lambda: train(averaged, '--resume', *AVERAGED, '--warmup-epochs', '0', *flags))
    assert '--resume' in line and all(part in line for part in named), line


def test_recomputing_blocks_may_be_switched_on_by_a_resumed_run(train, tmp_path):
    train(tmp_path / 'run', '--epochs', '1', *LEAN)
    train(tmp_path / 'run', '--resume', '--recompute', *LEAN)
    assert epochs_in(tmp_path / 'run') == [1, 2]


EFFICIENTNET = ['--input-size', '16', '--num-classes', '2', '--batch', str(BATCH), '--warmup-epochs', '0',
                '--attack-iter', '2', '--attack-step-size', '2', '--eval-attack-iter', '1', '--survival-prob', '0.5',
                '--dropout-rate', '0.5']


@pytest.mark.slow
@pytest.mark.parametrize('flags', [[], ['--accumulate', '2', '--recompute']], ids=['plain', 'in parts, recomputed'])
def test_an_efficientnet_run_ends_after_resuming_as_if_uninterrupted(data, few_blocks, tmp_path, monkeypatch, flags):
    """With drop connect and dropout, the averages and RMSProp of its recipe."""
    def train(folder, *more):
        with tf.Graph().as_default():
            main.main(few_blocks + EFFICIENTNET + ['--data', data, '--logdir', str(tmp_path / folder), '--epochs', '2',
                                                   *flags, *more])
    train('whole')
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_before(patch, STEPS + 2)
        train('crashed')
    train('crashed', '--resume')
    whole, crashed = (variables(tmp_path / folder, 2 * STEPS) for folder in ('whole', 'crashed'))
    assert {'efficientnet-b0/head/dense/bias/RMSProp_1', 'efficientnet-b0/head/dense/bias' + EMA} < whole.keys()
    assert differing(whole, crashed) == []
    moved = set(differing(variables(tmp_path / 'whole', STEPS), whole))
    assert set(of_network(whole)) <= moved and {name + EMA for name in of_network(whole)} <= moved
    assert 'eval-ema-1step-top1-error' in read_json(tmp_path / 'whole' / 'stats.json')[-1]


@pytest.mark.slow
@pytest.mark.parametrize('seconds_into_the_epoch', [0.0, 0.3])
def test_a_killed_run_ends_after_resuming_as_if_uninterrupted(train, data, tmp_path, seconds_into_the_epoch):
    """As by the machine's out-of-memory killer, or a job that reached its time limit."""
    steps, flags = 40, ['--steps-per-epoch', '40', '--epochs', '3']
    train(tmp_path / 'whole', *flags)
    killed = subprocess.Popen([sys.executable, MAIN] + SMALL + [
        '--data', data, '--logdir', str(tmp_path / 'killed')] + flags, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / 'killed' / 'model-{}.index'.format(steps)).exists():
            assert killed.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(seconds_into_the_epoch)
    finally:
        killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert saved_steps(str(tmp_path / 'killed'))[-1] < 3 * steps
    train(tmp_path / 'killed', '--resume', *flags)
    assert differing(variables(tmp_path / 'whole', 3 * steps), variables(tmp_path / 'killed', 3 * steps)) == []
    assert epochs_in(tmp_path / 'killed') == [1, 2, 3]
