"""What training and evaluations compute in: agreed over ranks, kept by a run that goes on, in TF32 only if asked."""
import json

import pytest
import tensorflow.compat.v1 as tf

from evaluation.passes import EvaluationTower
from machine import gpus
from machine.devices import Precisions
from ranks import precision as machines
from small_runs import BATCH, LEAN, mpirun, read_json
from training.callbacks import FeedTrainingStep
from training.resume import decide_precisions

# argv: what each rank is fastest in; a file for what they agree on.
RANK = '''
import sys
from machine.devices import Precisions
from ranks import precision
from third_party import utils
ranks = utils.start_ranks()
agreed = []
for fastest in (('bfloat16', 'bfloat16'),) * 2, (('bfloat16', 'float32'), ('bfloat16', 'bfloat16')), (
        ('float32', 'float32'), ('bfloat16', 'float32')):
    precision.fastest_precisions = lambda: Precisions(*fastest[ranks.rank])
    agreed += precision.agreed_precisions(ranks)
open(sys.argv[1] + str(ranks.rank), 'w').write(' '.join(agreed))
'''


@pytest.mark.slow
def test_ranks_compute_in_bfloat16_only_what_is_fastest_in_it_for_all_of_them(tmp_path):
    (tmp_path / 'rank.py').write_text(RANK)
    job = mpirun(2, tmp_path / 'rank.py', tmp_path / 'agreed', cwd=tmp_path)
    assert job.returncode == 0, job.stderr
    agreed = 'bfloat16 bfloat16 bfloat16 float32 float32 float32'
    assert [(tmp_path / name).read_text() for name in ('agreed0', 'agreed1')] == [agreed] * 2


@pytest.fixture
def fastest(monkeypatch):
    """function(precision, precision): this machine is fastest in them from now on, under attack and for the update."""
    return lambda *precisions: monkeypatch.setattr(machines, 'fastest_precisions', lambda: Precisions(*precisions))


def recorded(folder):
    run = read_json(folder / 'run.json')
    return run['attack_precision'], run['update_precision']


@pytest.mark.parametrize('began, other', [(('bfloat16', 'float32'), ('float32', 'bfloat16')),
                                          pytest.param(('float32', 'bfloat16'), ('bfloat16', 'float32'),
                                                       marks=pytest.mark.slow)])
def test_a_run_goes_on_in_its_precisions_on_another_kind_of_processor(train, fastest, tmp_path, capsys, began, other):
    folder = tmp_path / 'run'
    for fast, epochs, why in ((began, '1', 'the fastest that all ranks have'),
                              (other, '2', 'as the run began; the fastest that all ranks have is {}')):
        fastest(*fast)
        train(folder, *LEAN, '--epochs', epochs, '--resume-if-any')
        log = (folder / 'log.log').read_text()
        assert recorded(folder) == began
        for what, mine, here in zip(('Attack', 'Update'), began, fast):
            assert '{} precision: {}, {}\n'.format(what, mine, why.format(here)) in log
        assert 'Under attack the network computes in {},'.format(began[0]) in log
        assert ('gradients computed in bfloat16, weights kept in float32' in log) == (began[1] == 'bfloat16')
    assert not (tmp_path / 'run-2').exists()
    for flag, mine, here in zip(('attack_precision', 'update_precision'), began, other):
        with pytest.raises(SystemExit) as end:
            train(folder, *LEAN, '--epochs', '3', '--resume', '--' + flag.replace('_', '-'), here)
        assert end.value.code == 2
        assert '{} {}, now it is {}'.format(flag, mine, here) in capsys.readouterr().err


def test_a_typed_precision_is_taken_whatever_is_fastest_and_decides_nothing_else(train, fastest, tmp_path):
    fastest('float32', 'bfloat16')
    train(tmp_path / 'run', *LEAN, '--epochs', '1', '--attack-precision', 'float16')
    assert recorded(tmp_path / 'run') == ('float16', 'bfloat16')
    assert 'Attack precision: float16, as typed' in (tmp_path / 'run' / 'log.log').read_text()


def test_a_run_of_before_updates_had_precisions_goes_on_in_float32(train, fastest, tmp_path):
    fastest('float32', 'float32')
    folder = tmp_path / 'run'
    train(folder, *LEAN, '--epochs', '1')
    run = read_json(folder / 'run.json')
    del run['update_precision']
    (folder / 'run.json').write_text(json.dumps(run))
    fastest('bfloat16', 'bfloat16')
    train(folder, *LEAN, '--epochs', '2', '--resume')
    assert recorded(folder) == ('float32', 'float32')


def test_a_precision_that_there_is_not_is_not_taken_from_a_run():
    typed = {'attack_precision': None, 'update_precision': None}
    with pytest.raises(ValueError, match='the attack_precision 8, which is none of float32, bfloat16, float16'):
        decide_precisions(typed, {**typed, 'attack_precision': 8}, Precisions('float32', 'float32'))


def tf32():
    return tf.config.experimental.tensor_float_32_execution_enabled()


def test_tensorflow_s_tf32_is_off_in_every_program_with_a_network_and_may_be_on_for_a_while():
    assert not tf32()
    with gpus.tensor_float_32(True):
        assert tf32()
        with pytest.raises(KeyError), gpus.tensor_float_32(False):
            assert not tf32()
            raise KeyError
        assert tf32()
    assert not tf32()


def test_training_may_compute_in_tf32_and_its_evaluations_never_do(train, tmp_path, monkeypatch):
    """TensorFlow keeps plans with TF32 by shapes: batches of the evaluations then have another size than training's."""
    before_run, judge = FeedTrainingStep._before_run, EvaluationTower.run

    def note_step(self, *arguments):
        steps.add(tf32())
        return before_run(self, *arguments)

    def note_evaluation(self, session, batches, *arguments):
        batches = list(batches)
        evaluations.update((tf32(), len(image)) for image, *_ in batches)
        return judge(self, session, batches, *arguments)

    monkeypatch.setattr(FeedTrainingStep, '_before_run', note_step)
    monkeypatch.setattr(EvaluationTower, 'run', note_evaluation)
    found = []
    for flags, in_steps, size in ([], {False}, BATCH), (['--tf32'], {True}, BATCH + 1):
        steps, evaluations, folder = set(), set(), tmp_path / str(size)
        train(folder, '--epochs', '1', *flags)
        assert (steps, evaluations) == (in_steps, {(False, size)})
        assert read_json(folder / 'run.json')['tf32'] == bool(flags) and not tf32()
        found.append({name: value for name, value in json.loads((folder / 'stats.json').read_text())[0].items()
                      if name.startswith('eval-')})
    assert len(found[0]) >= 5 and found[0] == found[1], 'the size of its batches decides no verdict'


@pytest.mark.parametrize('override, wanted, gpu, message', [
    (None, True, True, None), ('0', False, True, None), ('1', False, False, None), ('0', True, False, None),
    ('0', True, True, '--tf32: NVIDIA_TF32_OVERRIDE=0 forbids it'),
    ('1', False, True, 'NVIDIA_TF32_OVERRIDE=1: verdicts could be computed in TF32'),
    ('1', True, True, 'NVIDIA_TF32_OVERRIDE=1: verdicts could be computed in TF32')])
def test_an_environment_that_overrides_what_is_asked_for_is_refused_on_gpus(monkeypatch, override, wanted, gpu,
                                                                            message):
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: ['a GPU'] * gpu)
    monkeypatch.delenv('NVIDIA_TF32_OVERRIDE', raising=False)
    if override:
        monkeypatch.setenv('NVIDIA_TF32_OVERRIDE', override)
    if not message:
        return gpus.check_override(wanted)
    with pytest.raises(ValueError, match=message):
        gpus.check_override(wanted)
