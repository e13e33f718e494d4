"""A training that is watched for overfitting: warned of, ended, taken back, killed and resumed. Its accuracies are made
up, everything else is real."""
import json
import os
import signal

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import main
from evaluation.passes import EvaluationTower
from evaluation.verdicts import CLEAN, Verdicts
from html_pages import Page
from image_folders import make_noise_folder
from small_runs import NUM_IMAGES, STEPS, differing, epochs_in, mpirun, read_json, start_training, variables
from test_main import refusal
from training.callbacks import TRAINING_ERROR, FeedTrainingStep, TrainingAccuracy
from training.epochs import read_epochs
from weights.find import saved_steps
from weights.save import CheckpointSaver

NUM_VALIDATION = 60
GOOD, BAD = 54, 3  # of these images right under attack
AVERAGED = ['--moving-average-decay', '0.9', '--warmup-epochs', '0']
OF_THE_RUN = {'global_step', 'learning_rate'}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_noise_folder(tmp_path_factory.mktemp('images'), {'train': NUM_IMAGES, 'val': NUM_VALIDATION}, 'ab')


@pytest.fixture(scope='module')
def watched(data):
    """function(log directory, right under attack after each epoch, flags): train as many epochs; other accuracies are
    those of a training that overfits where these fall."""
    def run(folder, right, *flags):
        def judged(self, session, batches, attackers, show_progress):
            step = int(session.run(tf.train.get_global_step(session.graph)))
            label = np.arange(NUM_VALIDATION) % 2

            def verdicts(count):
                said = np.where(np.arange(NUM_VALIDATION) < count, label, 1 - label)
                nothing = np.zeros(NUM_VALIDATION, int)
                return Verdicts(np.arange(NUM_VALIDATION), label, said, nothing, nothing - 1, nothing)
            return {CLEAN: verdicts(57), **{attacker.name: verdicts(right[step // STEPS - 1])
                                            for attacker in attackers}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(EvaluationTower, 'run', judged)
            patch.setattr(TrainingAccuracy, 'counted', lambda self: [100 - 10 * self.epoch_num, 100])
            start_training(data, folder, '--epochs', str(len(right)), *flags)
    return run


def warnings(folder):
    """Those of overfitting in the newest log.log."""
    return [line.split('warning: ')[1] for line in (folder / 'log.log').read_text().splitlines()
            if 'warning: ' in line and 'overfitting' in line]


def noted(folder):
    """(epoch, kind, epoch gone back to, whether it was the end) of the records that tell of overfitting."""
    return [(each.number, each.overfitting, each.went_back_to, each.ended) for each in read_epochs(str(folder))
            if each.overfitting or each.went_back_to or each.ended]


def text_of(folder):
    return ' '.join(' '.join(Page((folder / 'index.html').read_text()).text).split())


COLLAPSE = ('epoch 3: catastrophic overfitting: 5.0% under PGD-2, where epoch 2 had 90.0%, while 30.0% of the training '
            "images withstand PGD-2 (20.0% then). {} '{}/best' (epoch 2)")


def test_a_run_that_overfits_is_warned_of_once_and_ends_where_that_was_asked_for(watched, tmp_path):
    folder, right = tmp_path / 'run', [48, GOOD, BAD, BAD]
    watched(folder, right, '--stop-when-overfitting')
    assert warnings(folder) == [COLLAPSE.format('The run ends here; the best checkpoint is', folder)]
    assert epochs_in(folder) == [1, 2, 3] and saved_steps(str(folder))[-1] == 3 * STEPS
    assert noted(folder) == [(3, 'catastrophic', None, True)]
    assert 'Finished before its last epoch, for overfitting (--stop-when-overfitting). 3 of 4 epochs' in text_of(folder)
    assert 'Epoch 3: catastrophic overfitting began.' in text_of(folder)
    # It is over, whatever it is asked to do more of.
    before = read_json(folder / 'stats.json')
    watched(folder, right, '--resume', '--stop-when-overfitting')
    assert COLLAPSE.split('. {')[0] + '. The run has ended there; without --stop-when-overfitting it goes on\n' in \
        (folder / 'log.log').read_text()
    assert read_json(folder / 'stats.json') == before and 'Finished before' in text_of(folder)
    watched(folder, right, '--resume')
    assert warnings(folder) == [] and epochs_in(folder) == [1, 2, 3, 4]
    assert 'Finished. 4 of 4 epochs' in text_of(folder)


def test_a_run_that_need_not_end_is_warned_of(watched, tmp_path):
    folder = tmp_path / 'run'
    watched(folder, [48, GOOD, BAD, GOOD])
    assert warnings(folder) == [
        COLLAPSE.format('The best checkpoint is', folder) + '; with --stop-when-overfitting a run ends here']
    assert noted(folder) == [(3, 'catastrophic', None, False)] and epochs_in(folder) == [1, 2, 3, 4]


# Going back

RIGHT = [48, GOOD, BAD, 50, BAD, GOOD]


@pytest.fixture(scope='module')
def went_back(watched, tmp_path_factory):
    """Log directory of a run that went back after epoch 3, and ended after epoch 5, as it came again."""
    folder = tmp_path_factory.mktemp('whole') / 'run'
    watched(folder, RIGHT, '--stop-when-overfitting', 'back', *AVERAGED)
    return folder


def test_a_run_goes_on_from_all_of_its_best_checkpoint_at_its_own_step_and_rate_and_ends_at_the_second_time(
        went_back):
    assert noted(went_back) == [(3, 'catastrophic', 2, False), (5, 'catastrophic', None, True)]
    first, second = warnings(went_back)
    assert first == COLLAPSE.format('The run goes on with the weights of the best checkpoint,', went_back)
    assert second.startswith('epoch 5: catastrophic overfitting: 5.0% under PGD-2, where epoch 2 had 90.0%')
    assert '. The run ends here, as it has been back before; the best checkpoint is' in second
    best, after, there = (variables(went_back, step * STEPS) for step in (2, 3, 4))
    assert set(differing(best, after)) == {'global_step'} and after['global_step'] == 3 * STEPS
    assert {'conv0/W/Momentum', 'conv0/W/ExponentialMovingAverage', 'conv0/bn/mean/EMA'} <= best.keys()
    assert {'conv0/W', 'conv0/W/Momentum'} <= set(differing(after, there))
    assert 'the run went on with the weights of epoch 2.' in text_of(went_back)
    assert read_json(went_back / 'best.json')['global_step'] == 2 * STEPS


class Crash(Exception):
    """What ends a run."""


@pytest.mark.parametrize('where', [
    'before the checkpoint', *(pytest.param(where, marks=pytest.mark.slow) for where in ('after it', 'in an epoch'))])
def test_a_run_that_was_killed_goes_back_and_ends_as_one_that_was_not(went_back, watched, tmp_path, monkeypatch, where):
    folder, flags = tmp_path / 'killed', ['--stop-when-overfitting', 'back', *AVERAGED]
    save, before_run = CheckpointSaver._save, FeedTrainingStep._before_run

    def crash(self):
        if where == 'after it':
            save(self)
        if self.global_step == 3 * STEPS:
            raise Crash()
        if where != 'after it':
            save(self)

    def crash_in_step(self, context):
        if self.global_step == 3 * STEPS + 2:
            raise Crash()
        return before_run(self, context)
    with monkeypatch.context() as patch, pytest.raises(Crash):
        if where == 'in an epoch':
            patch.setattr(FeedTrainingStep, '_before_run', crash_in_step)
        else:
            patch.setattr(CheckpointSaver, '_save', crash)
        watched(folder, RIGHT, *flags)
    watched(folder, RIGHT, '--resume', *flags)
    assert noted(folder) == noted(went_back) and epochs_in(folder) == epochs_in(went_back)
    assert differing(variables(went_back, 5 * STEPS), variables(folder, 5 * STEPS)) == []
    assert read_json(folder / 'best.json') == read_json(went_back / 'best.json')


def test_a_new_best_checkpoint_may_be_gone_back_to(watched, tmp_path):
    watched(tmp_path / 'run', [48, 50, BAD, GOOD, BAD, 50], '--stop-when-overfitting', 'back')
    assert noted(tmp_path / 'run') == [(3, 'catastrophic', 2, False), (5, 'catastrophic', 4, False)]


def test_weights_that_were_not_judged_are_not_the_best(tmp_path):
    saver = CheckpointSaver(str(tmp_path), 1, 'error', is_judged=lambda: False)
    saver.setup_graph, kept = None, []
    saver._check_finite = saver._save = lambda: None
    saver._keep_best = kept.append
    saver.trainer = type('Trainer', (), {'global_step': 3})()
    saver._trigger_epoch()
    assert kept == []


# What it is told by

@pytest.mark.slow
def test_a_run_that_was_stopped_in_an_epoch_counts_all_images_of_it(data, tmp_path, monkeypatch):
    """Else it could decide otherwise than one that was not."""
    def train(folder, *flags):
        start_training(data, tmp_path / folder, '--epochs', '1', '--eval-attack-iter', '1', *flags)
    train('whole')
    before_run = FeedTrainingStep._before_run

    def stop(self, context):
        if self.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return before_run(self, context)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(FeedTrainingStep, '_before_run', stop)
        train('stopped')
    kept = json.loads((tmp_path / 'stopped' / 'epoch-so-far.json').read_text())
    assert (kept['epoch'], kept['global_step'], kept['images']) == (1, 2, 8)
    train('stopped', '--resume')
    whole, stopped = (read_json(tmp_path / name / 'stats.json')[-1] for name in ('whole', 'stopped'))
    assert whole[TRAINING_ERROR] == stopped[TRAINING_ERROR] and whole['eval-largest-class'] == 0.5


def test_a_training_without_an_attack_has_nothing_to_stop_for(capsys, data):
    words = ['--data', data, '--attack-iter', '0', '--stop-when-overfitting']
    assert '--stop-when-overfitting: a training without an attack' in refusal(capsys, main.parse_args, words)
    assert main.parse_args(words[:2] + words[-1:]).stop_when_overfitting == 'stop'
    assert main.parse_args(words[:2]).stop_when_overfitting is None


# Several ranks

RANKS = '''
import json, os
import numpy as np
import tensorflow.compat.v1 as tf
from attacks.pgd import PGDAttacker
from files.checksums import with_checksum
from ranks.start import start_ranks
from training.watching import WatchOverfitting
tf.disable_v2_behavior()
tf.enable_resource_variables()
ranks = start_ranks()

def entry(epoch, robust, **more):
    return dict(more, **{'epoch_num': epoch, 'train-error-top1-of-epoch': 0.5, 'eval-num-images': 100,
                         'eval-clean-top1-error': 0.1, 'eval-10step-top1-error': 1 - robust})

class Run:
    """A trainer, its monitors and its statistics; the first rank's records alone tell of anything."""
    global_step, epoch_num, starting_epoch, max_epoch, entries = 9, 3, 1, 9, [entry(1, 0.5), entry(2, 0.6)]
    def put_scalar(self, name, value):
        self.noted[name] = value
    def so_far(self):
        assert ranks.is_chief
        return json.dumps(self.entries)

with tf.Graph().as_default() as graph, tf.Session() as sess:
    W, bn = (tf.get_variable(name, [2], initializer=tf.constant_initializer(10.0 + ranks.rank))
             for name in ('W', 'bn/mean/EMA'))
    rate = tf.get_variable('learning_rate', initializer=0.125)
    step = tf.train.get_or_create_global_step()
    saver = tf.train.Saver()
    run = Run()
    run.sess, run.monitors, run.noted = sess, run, {}
    watch = WatchOverfitting(ranks, '.', 'back', PGDAttacker(1, 4, 4), PGDAttacker(10, 4, 1), False, run)
    watch.setup_graph(run)
    if ranks.is_chief:
        sess.run(tf.global_variables_initializer())
        W.load([2.0, 3.0], sess)
        saver.save(sess, './best-6', write_meta_graph=False, write_state=False)
        with open('best.json', 'w') as f:
            f.write(with_checksum({'eval-10step-top1-error': 0.4, 'global_step': 6, 'epoch': 2}))
    sess.run(tf.global_variables_initializer())
    step.load(9, sess)
    rate.load(0.5, sess)
    graph.finalize()
    watch.before_train()
    watch.trigger_epoch()
    assert watch.has_stayed()
    run.entries = run.entries + [entry(3, 0.01)]
    watch.trigger_epoch()
    assert not watch.ends() and not watch.has_stayed()
    found = [value.tolist() for value in sess.run([W, bn, rate, step])]
    assert found == [[2, 3], [10, 10], 0.5, 9], found  # the first rank's, of the checkpoint
    assert run.noted == ({'overfitting-catastrophic': 1, 'went-back-to-epoch': 2} if ranks.is_chief else {}), run.noted
    run.entries = run.entries[:-1] + [entry(3, 0.01, **{'went-back-to-epoch': 2}), entry(4, 0.02)]
    run.epoch_num = 4
    watch.before_epoch()
    watch.trigger_epoch()
    assert watch.ends() and watch.has_stayed()
open('right-{}'.format(ranks.rank), 'w').close()
'''


@pytest.mark.slow
def test_two_ranks_go_back_and_end_together(tmp_path):
    ended = mpirun(2, '-c', RANKS, cwd=tmp_path)
    assert {'right-0', 'right-1'} <= {path.name for path in tmp_path.iterdir()}, ended.stderr
