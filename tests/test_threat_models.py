"""One evaluation under several threat models: each as by itself, their worst case, and the published figures beside."""
import json
import os
import signal

import numpy as np
import pytest

import main
import test_judging
from adv_model import AdvImageNetModel
from analysis import judged
from attacks.ensemble import Ensemble
from attacks.pgd import FGSMAttacker, PGDAttacker
from commands.networks import make_evaluation_attacker
from evaluation import journal, threat_models
from evaluation.judging import Found, Outcome
from evaluation.passes import Passes
from evaluation.verdicts import Verdicts, wilson
from settings.resolve import resolve
from settings.threat_models import USUAL, parse
from small_runs import mpirun
from test_judging import ATTACKS, COUNT, PROGRAM, Killed, found_in, kill, stop_in
from test_main import refusal
from zoo import published

# Its images and network, and how it runs an evaluation in this process.
data, load, here = test_judging.data, test_judging.load, test_judging.here

MODELS = {'Linf:6': ['--norm', 'Linf', '--attack-epsilon', '6'], 'L2:90': ['--norm', 'L2', '--attack-epsilon', '90'],
          'L1:600': ['--norm', 'L1', '--attack-epsilon', '600']}
TOGETHER = ['--threat-models', ','.join(MODELS)]
EVERY_ATTACK = pytest.mark.parametrize('attack', ATTACKS)
EVERY_ATTACK_AT_LENGTH = pytest.mark.parametrize('attack', [
    name if name == 'pgd' else pytest.param(name, marks=pytest.mark.slow) for name in ATTACKS])
BATCHES = -(-COUNT // 4)


# What is typed

@pytest.mark.parametrize('text, found', [
    ('Linf,L2,L1', [('Linf', 4.0), ('L2', 510.0), ('L1', 19125.0)]), ('L2', [('L2', 510.0)]),
    ('Linf:8/255, L2:510/255', [('Linf', 8.0), ('L2', 510.0)]), ('Linf:4,Linf:8', [('Linf', 4.0), ('Linf', 8.0)]),
    ('L2:2px,Linf:0.3px', [('L2', 2.0), ('Linf', 0.3)])])
def test_threat_models_are_norms_at_their_usual_or_another_radius(text, found):
    assert [model[:2] for model in parse(text, USUAL)] == found


@pytest.mark.parametrize('text, said', [
    ('L0:3', "'L0:3' is no norm"), ('Linf:4,', "'' is no norm"), ('Linf:4,Linf:4/255', 'Linf:4 is named twice'),
    ('Linf:300', r'\(0, 255\]'), ('L2:0', 'needs a radius'), ('L2:-1', 'below 0'), ('Linf:', "'' is no length"),
    ('Linf:0.0157', 'did you mean 4 '), ('L2:2', r'did you mean 510 \(2 for images in \[0, 1\]\)\? Write 2px if not'),
    ('L1:75', 'did you mean 19125 ')])
def test_what_is_no_threat_model_is_said(text, said, capsys):
    with pytest.raises(Exception, match=said):
        parse(text, USUAL)
    assert '--threat-models' in refusal(capsys, main.parse_args, ['--eval', '--threat-models', text])


@pytest.fixture
def judge(load, data):
    return test_judging.ARCHITECTURE + ['--eval', '--load', load, '--data', data, '--threat-models']


@pytest.mark.parametrize('typed, said', [
    (['--norm', 'L2'], '--norm and --threat-models: choose one'), (['--attack-epsilon', '4'], '--attack-epsilon and'),
    (['--attack-step-size', '1'], '--attack-step-size and'), (['--attack-iter', '0'], 'without steps')])
def test_what_each_threat_model_has_of_its_own_is_not_typed_beside(capsys, judge, typed, said):
    assert said in refusal(capsys, main.parse_args, judge + typed)


def test_training_has_no_threat_models(capsys):
    assert '--threat-models is for --eval' in refusal(capsys, main.parse_args, ['--threat-models'])


def test_programs_of_one_threat_model_refuse_several(capsys, judge):
    from analysis import flags
    line = refusal(capsys, flags.parse, ['sweep', *[word for word in judge if word != '--eval']])
    assert '--threat-models: the checks here are of PGD in Linf' in line
    with pytest.raises(ValueError, match='--threat-models: there is one threat model here; type --norm and'):
        make_evaluation_attacker(resolve(main.parse_args(judge)))


@pytest.mark.parametrize('typed, steps', [
    ([], [1.0, 127.5, 4781.25]), (['--attack', 'fgsm'], [4.0, 510.0, 19125.0]),
    (['--attack', 'momentum', '--attack-iter', '5'], [0.8, 102.0, 3825.0]),
    (['--attack', 'autoattack', '--autoattack-version', 'apgd'], [None] * 3)])
def test_steps_are_those_of_each_norm_alone(judge, typed, steps):
    args = main.parse_args(judge + typed)
    assert [model.norm for model in args.threat_models] == ['Linf', 'L2', 'L1']
    assert [model.step_size for model in args.threat_models] == steps
    for model, step in zip(args.threat_models, steps):
        alone = main.parse_args(judge[:-1] + typed + ['--norm', model.norm, '--attack-epsilon', str(model.epsilon)])
        assert alone.attack_step_size == step


# Each as by itself

@pytest.fixture(scope='module')
def alone():
    """Results and rows of an evaluation under each threat model, by attack and threat model; filled by ``singly``."""
    return {}


@pytest.fixture
def singly(alone, here):
    """function(attack): the evaluations under one threat model each."""
    def run(attack):
        for title, typed in MODELS.items():
            if (attack, title) not in alone:
                alone[attack, title] = here(*ATTACKS[attack], *typed, '--results-dir', title)
        return {title: alone[attack, title] for title in MODELS}
    return run


def columns_of(row, title):
    """The cells of one threat model, as the table of an evaluation under it alone has them."""
    own = {name[:-len(title) - 1]: cell for name, cell in row.items() if name.endswith(' ' + title)}
    return {**{name: row[name] for name in ('file', 'label', 'clean_pred')}, **own}


def check_as_singly(results, rows, single, attack):
    for (title, (expected, expected_rows)), found in zip(single.items(), results['threat_models']):
        assert {name: columns_of(row, title) for name, row in rows.items()} == expected_rows
        assert {name: found[name] for name in ('adversarial', 'attack', 'attacks', 'threat_model', 'verdict',
                                               'attack_success_rate', 'attack_success_of')} == {
            name: expected[name] for name in ('adversarial', 'attack', 'attacks', 'threat_model', 'verdict',
                                              'attack_success_rate', 'attack_success_of')}
        assert results['clean'] == expected['clean'] and results['num_images'] == expected['num_images'] == COUNT
    standing = {name for name in rows if all(
        row['clean_pred'] == row['label'] == row['adv_pred'] for row in (each[name] for _, each in single.values()))}
    fewest = min(sum(row['clean_pred'] == row['label'] == row['adv_pred'] for row in each.values())
                 for _, each in single.values())
    assert {name for name, row in rows.items() if row['robust_under_all'] == '1'} == standing
    assert {row['robust_under_all'] for row in rows.values()} == {'0', '1'} and len(standing) <= fewest
    assert results['worst_case'] == {'num_images': COUNT, 'robust_correct': len(standing),
                                     'robust_accuracy': len(standing) / COUNT,
                                     'robust_accuracy_95': wilson(len(standing), COUNT)}


@EVERY_ATTACK
def test_every_image_has_the_verdicts_of_three_evaluations_and_is_robust_where_all_say_so(here, singly, monkeypatch,
                                                                                          attack):
    single = singly(attack)
    judged_clean, judge_batch = [], Passes.judge

    def judge(self, session, number, batch, *more):
        judged_clean.extend(batch[2][batch[2] >= 0] if number == 0 else [])
        return judge_batch(self, session, number, batch, *more)
    monkeypatch.setattr(Passes, 'judge', judge)
    results, rows = here(*ATTACKS[attack], *TOGETHER, '--batch', '5')
    assert sorted(judged_clean) == list(range(COUNT))  # once for all
    check_as_singly(results, rows, single, attack)
    assert results['attack'] is results['adversarial'] is results['published'] is None
    # What breaks in one norm need not in another: or the worst case would be no more than one of them.
    assert len({each['adversarial']['top1_correct'] for each in results['threat_models']}) > 1


def test_radii_of_one_norm_share_a_graph_and_have_their_own_verdicts(here, monkeypatch):
    built, build = [], AdvImageNetModel.get_inference_func
    with monkeypatch.context() as patch:
        patch.setattr(AdvImageNetModel, 'get_inference_func', lambda *args: built.append(args) or build(*args))
        _, rows = here('--attack-iter', '3', '--threat-models', 'Linf:2,Linf:8')
    assert len(built) == 2  # clean, and one for both
    for radius in '28':
        _, expected = here('--attack-iter', '3', '--attack-epsilon', radius, '--results-dir', radius)
        assert {name: columns_of(row, 'Linf:' + radius) for name, row in rows.items()} == expected


def test_a_single_threat_model_is_its_own_worst_case(here, singly):
    results, _ = here(*ATTACKS['pgd'], '--threat-models', 'L2:90')
    found, = results['threat_models']
    assert found['adversarial'] == singly('pgd')['L2:90'][0]['adversarial']
    assert results['worst_case']['robust_correct'] == found['attacks'][0]['robust_correct']


def test_the_folder_of_the_results_names_all(here, data, load, tmp_path):
    typed = test_judging.flags(data, load, *TOGETHER, '--attack-iter', '1')
    place = typed.index('--results-dir')
    del typed[place:place + 2]
    with test_judging.tf.Graph().as_default():
        main.main(typed)
    folder, = os.listdir(tmp_path / 'results')
    assert 'PGD-1-Linf-eps6-L2-eps90-L1-eps600-' in folder


# Stopping and going on

PASSES = {'pgd': 2, 'early-stop': 2, 'autoattack': 5}  # a pass of the second threat model, for each attack


def in_pass(monkeypatch, number, batch, act):
    """``act`` when a batch (from 1) of a pass has been judged."""
    judge_batch, calls = Passes.judge, []

    def judge(self, session, found, *more):
        rows = judge_batch(self, session, found, *more)
        calls.extend([None] * (found == number))
        if len(calls) == batch and found == number:
            act()
        return rows
    monkeypatch.setattr(Passes, 'judge', judge)


@EVERY_ATTACK_AT_LENGTH
def test_killed_in_the_second_threat_model_it_goes_on_with_the_same_verdicts(here, singly, tmp_path, monkeypatch,
                                                                             attack):
    single = singly(attack)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        in_pass(patch, PASSES[attack], 2, kill)
        here(*ATTACKS[attack], *TOGETHER)
    assert os.listdir(tmp_path / 'out') == [journal.FILE]
    again = stop_in(monkeypatch, 0, None)
    results, rows = here('--resume-eval', '--batch', '3', *ATTACKS[attack], *TOGETHER)
    check_as_singly(results, rows, single, attack)
    assert results['complete'] is True and sorted(os.listdir(tmp_path / 'out')) == ['per_example.csv', 'results.json']
    if attack == 'autoattack':  # the clean pass and the first threat model were over
        assert len(again) <= 6 * -(-COUNT // 3)


@EVERY_ATTACK_AT_LENGTH
def test_a_signal_in_the_second_threat_model_leaves_valid_results(here, singly, tmp_path, monkeypatch, capsys, attack):
    single = singly(attack)
    capsys.readouterr()
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        in_pass(patch, PASSES[attack], 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        here(*ATTACKS[attack], *TOGETHER)
    assert end.value.code == 143 and capsys.readouterr().out == ''
    results, rows = found_in(tmp_path / 'out')
    assert results['complete'] is False and len(rows) == results['num_images']
    if attack == 'autoattack':
        first, second, third = results['threat_models']
        assert first['adversarial'] == single['Linf:6'][0]['adversarial'] and len(second['attacks']) == 2
        assert third['adversarial'] is None and third['attacks'] == [] and results['worst_case'] is None
        # Broken is broken; of the others one attack at least is still to come.
        assert {row['robust_under_all'] for row in rows.values()} == {'0', ''}
        for name, row in rows.items():
            broken = [single[title][1][name]['broken_by'] for title in list(MODELS)[:1]]
            assert row['robust_under_all'] == '0' or broken == ['none']
    else:
        assert len(rows) == 8 and results['worst_case']['num_images'] == 8
    check_as_singly(*here('--resume-eval', *ATTACKS[attack], *TOGETHER), single, attack)


def test_an_evaluation_under_other_threat_models_is_not_gone_on_with(here, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_in(patch, 9, kill)
        here(*ATTACKS['pgd'], *TOGETHER)
    for typed, named in ((['--threat-models', 'Linf:6,L2:100,L1:600'], 'attack 2: epsilon 90.0, now it is 100.0'),
                         (['--threat-models', 'Linf:6,L2:90'], 'attack 3: name PGD-3-L1, now it is None')):
        with pytest.raises(SystemExit) as end:
            here(*ATTACKS['pgd'], *typed, '--resume-eval')
        assert end.value.code == 2 and named in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
@EVERY_ATTACK
def test_any_number_of_ranks_gives_the_same_table_byte_for_byte(data, load, tmp_path, attack):
    tables = []
    for ranks in (1, 3):
        ended = mpirun(ranks, '-c', PROGRAM, *test_judging.flags(data, load, *ATTACKS[attack], *TOGETHER), cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        os.rename(tmp_path / 'out', tmp_path / str(ranks))
        tables.append((tmp_path / str(ranks) / 'per_example.csv').read_bytes())
    assert tables[0] == tables[1] and tables[0].count(b'\n') == COUNT + 1


# Beside the published figures

def verdicts(predictions):
    n = len(predictions)
    return Verdicts(np.arange(n), np.zeros(n, int), np.array(predictions), np.zeros(n), np.full(n, -1), np.zeros(n))


@pytest.fixture
def tables(monkeypatch):
    """function(model, attackers): results of 4 images, 3 right, of which the first two attackers break one each."""
    def run(model, attackers):
        clean, attacked = verdicts([0, 0, 0, 1]), [verdicts([0, 1, 0, 1]), verdicts([0, 0, 1, 1])]
        outcome = Outcome(clean, [Found({'clean': clean, part.name: each}, each, None, True)
                                  for attacker, each in zip(attackers, attacked) for part in attacker.parts], 4, 0)
        args = {'seed': 0, 'input_size': 224, 'load': 'x.npz'}
        return threat_models.make_results(outcome, attackers, model, args, {}, 1.0)
    return run


def autoattack(norm, epsilon):
    return Ensemble('autoattack-standard-' + norm, norm, epsilon, [FGSMAttacker(epsilon, norm=norm)])


def test_the_published_figure_stands_beside_what_was_measured(tables):
    results = tables(published.find('ConvNeXt-T-CvSt'), [autoattack('Linf', 4.0), autoattack('L2', 510.0)])
    assert threat_models.table(results) == [
        '                       attack                    right   95%           published',
        'clean                                            75.00%  30.1 to 95.4  72.7%',
        'Linf 4 (0.01569 of 1)  autoattack-standard-Linf  50.00%  15.0 to 85.0  49.5%',
        'L2 510 (2 of 1)        autoattack-standard-L2    50.00%  15.0 to 85.0  -',
        'worst case of all                                25.00%  4.6 to 69.9',
        'published: ConvNeXt-T-CvSt at 224 pixels; Revisiting Adversarial Training for ImageNet: AutoAttack '
        '(standard), epsilon 4; 5000 images, accuracy in %']
    assert json.loads(json.dumps(results)) == results


@pytest.mark.parametrize('model, attackers, figures', [
    ('ConvNeXt-T-CvSt', [autoattack('Linf', 8.0), PGDAttacker(10, 4, 1)], [None, None]),
    ('Res50-silu', [PGDAttacker(10, 4, 1), PGDAttacker(10, 4, 1, targeted=True)], [43.0, None]),
    ('R152', [PGDAttacker(10, 16, 2, targeted=True), PGDAttacker(30, 16, 1, targeted=True)], [52.5, None])])
def test_a_figure_of_another_attack_or_radius_is_none(tables, model, attackers, figures):
    assert [each['published'] for each in tables(published.find(model), attackers)['threat_models']] == figures


def test_at_another_size_there_are_other_figures(tables):
    model = published.find('ConvNeXt-L-CvSt')
    assert [model.figures_at(size).clean for size in (224, 320)] == [77.0, 78.2] and model.figures_at(256) is None


def test_without_a_published_model_there_is_no_such_column(tables):
    lines = threat_models.table(tables(None, [autoattack('Linf', 4.0), autoattack('L2', 510.0)]))
    assert lines[0].split() == ['attack', 'right', '95%'] and len(lines) == 5


def test_the_report_has_a_row_for_each_threat_model_and_the_worst_case(tables, tmp_path):
    from types import SimpleNamespace
    np.savez(tmp_path / 'x.npz', W=np.zeros(1))
    results = tables(published.find('ConvNeXt-T-CvSt'), [autoattack('Linf', 4.0), autoattack('L2', 510.0)])
    results['args']['load'] = str(tmp_path / 'x.npz')
    path = tmp_path / 'results.json'
    network = SimpleNamespace(name='a', args=SimpleNamespace(load=str(tmp_path / 'x.npz')))
    path.write_text(json.dumps(results))
    assert judged.read_results([str(path)], [network]) == {
        'autoattack-standard-Linf, Linf epsilon 4, 4 images': {
            'a': '50.0% (15.0–85.0); published for ConvNeXt-T-CvSt: 49.5%'},
        'autoattack-standard-L2, L2 epsilon 510, 4 images': {'a': '50.0% (15.0–85.0)'},
        'worst case of 2 threat models, 4 images': {'a': '25.0% (4.6–69.9)'}}
    for change in ({'threat_models': 3}, {'threat_models': [{}]}, {'worst_case': {'robust_correct': 9}},
                   {'published': []}):
        path.write_text(json.dumps({**results, **change}))
        with pytest.raises(ValueError, match='no results of main.py --eval'):
            judged.read_results([str(path)], [network])


def test_the_table_is_printed_in_place_of_the_releases_lines(here, capsys):
    here(*ATTACKS['pgd'], *TOGETHER)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ['attack', 'clean', 'Linf', 'L2', 'L1', 'worst']
    assert 'Error' not in ''.join(lines)
