"""What shows a run while it goes on: the records of its epochs, index.html, images and flags for TensorBoard."""
import base64
import io
import os
import re
import signal
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import tensorflow.compat.v1 as tf
from PIL import Image

from adv_model import image_preprocess, to_pixels
from evaluation.passes import Sample
from evaluation.verdicts import CLEAN
from files.charts import Curve, Point, chart
from html_pages import Page
from small_runs import STEPS, differing, read_json, variables
from training import page, page_parts
from training.about import About, differing as differing_flags
from training.callbacks import FeedTrainingStep
from training.epochs import Epoch, Judged, read_epochs
from training.samples import TAG, DrawSamples

AVERAGED = ['--moving-average-decay', '0.9', '--more-eval-attack-iter', '3', '--attack-precision', 'float32',
            '--update-precision', 'float32']
NUM_VALIDATION, EPSILON = 5, 4
NASTY = '<b>&"ü\''
ABOUT = About('heading ' + NASTY, 'lead ' + NASTY, 'sat', [('--epochs', NASTY, '100')], 'PGD-9 ' + NASTY,
              'attacked by ' + NASTY, 8, 50, 2, False, True)


@pytest.fixture(scope='module')
def finished(train, tmp_path_factory):
    """Log directory of a run of two epochs with averages of the weights."""
    folder = tmp_path_factory.mktemp('finished') / NASTY
    train(folder, *AVERAGED)
    return folder


@pytest.fixture(scope='module')
def content(finished):
    return (finished / 'index.html').read_text(encoding='ascii')


def judged(attack, right, total=200, averaged=False):
    return Judged(attack, averaged, total, 0, 1 - right / (total or 200), 0.0, None if attack == CLEAN else 0.5)


def epoch(number, *found, **known):
    usual = Epoch(number, 50 * number, 0.1 / number, 2.0 / number, 0.75, 0.25, True, 0.5, found, 10.0 * number,
                  4.0 if found else None)
    return usual._replace(**known)


def text_of(content):
    return ' '.join(' '.join(Page(content).text).split())


def figures(content):
    """The charts of a page: (title, words and places along the axes, marks by style, drawing)."""
    found = []
    for figure in re.findall(r'<figure class="chart">.*?</figure>', content, re.DOTALL):
        title = re.search(r'<figcaption>(.*?)</figcaption>', figure)[1]
        drawing = ElementTree.fromstring(re.search(r'<svg class="plot".*?</svg>', figure, re.DOTALL)[0])
        words = {kind: [float(each.text.rstrip('%')) for each in drawing.iter('text') if each.get('class') == kind]
                 for kind in 'xy'}
        lines = [[float(word) for word in re.match(r'M([\d.]+) ([\d.]+)[Hv]', each.get('d')).groups()] for each in
                 drawing.iter('path') if each.get('class') in ('grid', 'axis')]
        # Lines of the values of y come first, then those of x, then the axis itself.
        texts = {'y': [(value, y) for value, (_, y) in zip(words['y'], lines)],
                 'x': [(value, x) for value, (x, _) in zip(words['x'], lines[len(words['y']):-1])]}
        marks = {}
        for mark in drawing.iter('g'):
            at = re.match(r'translate\(([\d.]+) ([\d.]+)\)', mark.get('transform')).groups()
            marks.setdefault(mark.find('path').get('class'), []).append((
                tuple(map(float, at)), mark.find('title').text))
        found.append((title, texts, marks, drawing))
    return found


def axis(texts):
    """function(place) -> value, from the words along an axis."""
    values, places = zip(*texts)
    slope, offset = np.polyfit(places, values, 1)
    return lambda place: slope * place + offset


def values_of(texts, marks):
    """[(x, y)] that marks stand at, by the words along the axes."""
    x, y = axis(texts['x']), axis(texts['y'])
    return [(x(at[0]), y(at[1])) for at, _ in marks]


def test_points_and_intervals_stand_where_the_axes_say():
    random = np.random.default_rng(0)
    curves = [Curve('a' + NASTY, [Point(x, y, 0.9 * y, 1.1 * y, 'at {}'.format(x)) for x, y in zip(
        range(3, 40, 4), 70 * random.random(10))], 0), Curve('b', [Point(k, 90 * random.random()) for k in (3, 39)], 0,
                                                             second=True)]
    (title, texts, marks, drawing), = figures(chart('t', curves, 'epoch', '{:g}%'.format))
    assert [value for value, *_ in texts['x']] == [10, 20, 30] and texts['y'][0][0] == 0
    for curve, kind in zip(curves, ('s0 f0', 's0 hollow')):
        assert np.allclose(values_of(texts, marks[kind]), [(p.x, p.y) for p in curve.points], atol=0.05)
    assert [note for _, note in marks['s0 f0']] == [point.note for point in curves[0].points]
    band, = (each.get('d') for each in drawing.iter('path') if each.get('class') == 'band f0')
    corners = np.array(re.findall(r'([\d.]+) ([\d.]+)', band), float)
    y = axis(texts['y'])
    assert np.allclose(y(corners[:10, 1]), [p.high for p in curves[0].points], atol=0.05)
    assert np.allclose(y(corners[:9:-1, 1]), [p.low for p in curves[0].points], atol=0.05)


@pytest.mark.parametrize('first, last', [(1, 1), (1, 2), (5, 8), (1, 300)])
def test_epochs_are_whole_numbers_along_the_axis(first, last):
    (_, texts, marks, _), = figures(chart('t', [Curve('a', [Point(x, x) for x in range(first, last + 1)], 1)], 'epoch',
                                          '{:g}'.format))
    shown = [value for value, *_ in texts['x']]
    assert shown and all(value == int(value) and first <= value <= last for value in shown)
    assert len(set(shown)) == len(shown) <= 7 and len(marks['s1 f1']) == last - first + 1


def test_the_records_are_what_stats_json_and_the_images_say(finished):
    first, last = read_epochs(str(finished))
    entry = read_json(finished / 'stats.json')[-1]
    assert (first.number, last.number, last.step) == (1, 2, 2 * STEPS)
    assert (last.learning_rate, last.cost) == (entry['learning_rate'], entry['cost'])
    assert last.attacked and last.counted and last.seconds > 0 and last.evaluation_seconds > 0
    assert [(each.attack, each.averaged) for each in last.judged] == [
        (attack, averaged) for averaged in (False, True) for attack in (CLEAN, '2step', '3step')]
    for each in last.judged:
        name = 'eval-{}{}-top1-error'.format('ema-' * each.averaged, each.attack)
        assert each.top1_error == entry[name] and each.num_images == NUM_VALIDATION
        assert each.top1_correct / NUM_VALIDATION == pytest.approx(1 - entry[name])
        interval = scipy.stats.binomtest(each.top1_correct, NUM_VALIDATION).proportion_ci(0.95, method='wilson')
        assert each.top1_accuracy_95 == pytest.approx([interval.low, interval.high], abs=1e-9)
    assert last.of('3step', True) in last.judged and last.of('4step') is None


@pytest.mark.parametrize('damaged', [
    '{}', '[{"epoch_num": "1"}]', '[{"epoch_num": 1, "eval-clean-top1-error": 1.5}]', '['])
def test_damaged_records_are_refused_with_the_file_s_name(tmp_path, damaged):
    (tmp_path / 'stats.json').write_text(damaged)
    with pytest.raises(ValueError, match='stats.json'):
        read_epochs(str(tmp_path))


def test_records_of_runs_before_images_were_counted_have_no_intervals(tmp_path):
    (tmp_path / 'stats.json').write_text('[{"epoch_num": 1, "eval-clean-top1-error": 0.5, "train-error-top1": null}]')
    only, = read_epochs(str(tmp_path))
    assert only.of(CLEAN).top1_accuracy_95 is None and not only.counted and not only.attacked
    assert 'no intervals: of how many images is not known' in text_of(''.join(page_parts.curves(ABOUT, [only])))


def test_the_page_is_whole_and_asks_for_nothing_from_elsewhere(content):
    found = Page(content)
    assert not [tag for tag, _ in found.elements if tag in ('script', 'link', 'iframe', 'object')]
    sources = [each['src'] for each in found.all('img')]
    assert len(sources) == 3 * NUM_VALIDATION and all(src.startswith('data:image/png;base64,') for src in sources)
    assert {each['href'] for each in found.all('a')} == {'log.log', 'run.json', 'stats.json'}
    assert 'url(' not in content and '@import' not in content and 'http://' not in content and 'https://' not in content
    policy, = (each['content'] for each in found.all('meta') if each.get('http-equiv') == 'Content-Security-Policy')
    assert policy.startswith("default-src 'none'")
    assert not [each for each in found.all('meta') if each.get('http-equiv') == 'refresh'], 'of a run that goes on'


def test_the_page_says_what_was_trained_and_that_it_is_finished(finished, content):
    text = text_of(content)
    assert 'CifarResNet8 on images' in text and 'Finished. 2 of 2 epochs are over, 6 of 6 steps.' in text
    assert 'Attack in training: PGD-2, Linf, epsilon 4, steps of 2; in evaluations: PGD-2, Linf, epsilon 4, ' in text
    assert '1 rank of 4 images in a step, 2 epochs of 3 steps' in text
    flags = read_json(finished / 'run.json')
    rows = {flag: (here, usual) for flag, here, usual in differing_flags(flags)}
    assert rows['--attack-iter'] == ('2', '1') and rows['--epochs'] == ('2', '100') and rows['--batch'][1] == ''
    assert rows['--moving-average-decay'] == ('0.9', '0') and '--weight-decay' not in rows and '--logdir' not in rows
    assert all('{} {}'.format(flag, here) in text for flag, (here, _) in rows.items())


def test_the_curves_are_the_records(finished, content):
    epochs = read_epochs(str(finished))
    titles = [title for title, *_ in figures(content)]
    assert titles == ['Validation images that are right', 'Training images that are right', 'Loss', 'Learning rate']
    validation, training, loss, rate = figures(content)
    attacks = [CLEAN, '2step', '3step']
    for style, attack in enumerate(attacks):
        for averaged in (False, True):
            marks = validation[2]['s{} {}'.format(style, 'hollow' if averaged else 'f{}'.format(style))]
            found = [each.of(attack, averaged) for each in epochs]
            assert np.allclose(values_of(validation[1], marks), [
                (k, 100 * each.top1_accuracy) for k, each in enumerate(found, 1)], atol=0.2)
            assert all('{} of {}'.format(each.top1_correct, NUM_VALIDATION) in note
                       for (_, note), each in zip(marks, found))
    for chart_, value, within in ((training, lambda each: 100 * (1 - each.train_error), 0.2),
                                  (loss, lambda each: each.cost, 5e-3), (rate, lambda each: each.learning_rate, 1e-5)):
        (marks,) = chart_[2].values()
        assert np.allclose(values_of(chart_[1], marks), [(each.number, value(each)) for each in epochs], atol=within)
    text = text_of(content)
    assert '95% Wilson intervals, of 5 images' in text and 'running average over the steps' in text
    assert 'PGD-2, averaged weights' in text and 'PGD-3, averaged weights' in text


def test_the_table_has_every_epoch_s_numbers_the_last_one_first(finished, content):
    rows = re.findall(r'<tr><th scope="row">(\d+)</th>(.*?)</tr>', content.split('<details>')[1].split('</details>')[0])
    epochs = read_epochs(str(finished))
    assert [int(number) for number, _ in rows] == [each.number for each in epochs][::-1] == [2, 1]
    for (_, cells), each in zip(rows, epochs[::-1]):
        cells = re.findall('<td>(.*?)</td>', cells)
        assert cells[0] == str(each.step) and cells[2] == '{:.4g}'.format(each.cost)
        assert [cell.split('), ')[1] for cell in cells[4:-2]] == ['{} of {}'.format(
            each.of(attack, averaged).top1_correct, NUM_VALIDATION) for attack in (CLEAN, '2step', '3step')
            for averaged in (False, True)]


def pictures(content):
    return [np.array(Image.open(io.BytesIO(base64.b64decode(each['src'].partition(',')[2]))), float)
            for each in Page(content).all('img')]


def test_the_strip_shows_the_evaluation_s_images_within_the_radius_and_as_it_judged_them(finished, content, data):
    shown = pictures(content)
    assert all(picture.shape == (8, 8, 3) for picture in shown)
    for clean, attacked, difference in zip(shown[::3], shown[1::3], shown[2::3]):
        assert 0 < np.abs(clean - attacked).max() <= EPSILON
        factor = 127 / EPSILON
        assert np.abs(difference - 128 - factor * (attacked - clean)).max() <= factor / 2 + 1
    files = sorted(path for path in (os.path.join(root, name) for root, _, names in os.walk(os.path.join(data, 'val'))
                                     for name in names))
    assert np.array_equal(shown[0], np.array(Image.open(files[0]).convert('RGB'), float))
    last = read_epochs(str(finished))[-1]
    text = text_of(content)
    assert 'As the network sees them after step {}, with its weights, not their averages'.format(2 * STEPS) in text
    for said, attack in (('clean:', CLEAN), ('attacked:', '2step')):
        assert text.count(said + ' ✓') == last.of(attack).top1_correct
        assert text.count(said + ' ✓') + text.count(said + ' ✗') == NUM_VALIDATION


def test_the_strip_and_the_page_change_nothing_that_is_trained(train, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(DrawSamples, '_draw', lambda self: None)
    monkeypatch.setattr(page.RunPage, '_write', lambda *_: None)
    train(tmp_path / 'bare', '--epochs', '1', *AVERAGED)
    assert not (tmp_path / 'bare' / 'index.html').exists()
    assert differing(variables(tmp_path / 'bare', STEPS), variables(finished, STEPS)) == []


@pytest.mark.slow
def test_a_stopped_run_says_so_and_a_resumed_one_keeps_its_records(train, finished, tmp_path, monkeypatch):
    folder, before_run = tmp_path / 'run', FeedTrainingStep._before_run

    def stop_in_step(self, context):
        if self.global_step == STEPS + 1:
            seen.append(text_of((folder / 'index.html').read_text()))
            os.kill(os.getpid(), signal.SIGTERM)
        return before_run(self, context)
    seen = []
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(FeedTrainingStep, '_before_run', stop_in_step)
        train(folder, *AVERAGED)
    assert re.search(r'Running when this was written\. 1 of 2 epochs are over, 3 of 6 steps\. About .* left', seen[0])
    stopped = text_of((folder / 'index.html').read_text())
    assert 'Stopped before its end' in stopped and '1 of 2 epochs are over, 5 of 6 steps' in stopped
    before = read_epochs(str(folder))
    train(folder, '--resume', *AVERAGED)
    first, last = read_epochs(str(folder))
    assert [first] == before
    assert (first.judged, last.judged) == tuple(each.judged for each in read_epochs(str(finished)))
    assert 'Finished. 2 of 2 epochs are over, 6 of 6 steps.' in text_of((folder / 'index.html').read_text())


def samples(count, side=4):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, [count, side, side, 3], dtype=np.uint8)
    return SimpleNamespace(step=100, named=lambda label: 'class <{}>&'.format(label), latest=[
        Sample(pixels, pixels + np.float32(0.5), 1, k % 2, -1) for k, pixels in enumerate(image)])


def compose(epochs, state=page_parts.RUNNING, shown=None):
    return page.compose(ABOUT, '/runs/' + NASTY, epochs, state, 75, shown, 0.0)


def test_names_are_shown_as_they_are():
    content = compose([epoch(2, judged(CLEAN, 150), judged('7step', 90), judged('x' + NASTY, 80))], shown=samples(2))
    text = text_of(content)
    for part in ('heading ' + NASTY, 'lead ' + NASTY, 'PGD-9 ' + NASTY, 'PGD-7', 'x' + NASTY, 'attacked by ' + NASTY,
                 'label: class <1>&', '✓ class <1>&', '✗ class <-1>&'):
        assert part in text, part


def test_a_folder_whose_name_is_no_text_has_a_page(tmp_path):
    folder = os.fsdecode(os.fsencode(str(tmp_path)) + b'/\xff')
    os.mkdir(folder)
    shown = page.RunPage(ABOUT._replace(heading=folder), folder)
    shown.trainer = SimpleNamespace(global_step=0, loop=SimpleNamespace(global_step=0))
    shown([])
    assert os.listdir(folder) == ['index.html']


def test_a_page_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / 'index.html').mkdir()
    told = []
    monkeypatch.setattr(page.logger, 'warning', told.append)
    shown = page.RunPage(ABOUT, str(tmp_path))
    shown.trainer = SimpleNamespace(global_step=0, loop=SimpleNamespace(global_step=0))
    shown([])
    assert len(told) == 1 and re.match(r"index\.html cannot be written: Is a directory .*; the run goes on$", told[0])


@pytest.mark.parametrize('layout', ['NHWC', 'NCHW'])
@pytest.mark.parametrize('channels', ['BGR', 'RGB'])
def test_images_come_back_from_the_network_s_layout_as_they_were(sess, layout, channels):
    image = np.random.default_rng(0).integers(0, 256, [2, 5, 5, 3]).astype(np.uint8)
    found = sess.run(to_pixels(image_preprocess(tf.constant(image), layout, channels), layout, channels))
    assert np.abs(found - image).max() < 1e-4


def test_time_left_is_estimated_from_the_last_epochs_and_the_evaluations_to_come():
    epochs = [epoch(k, *[judged(CLEAN, 100)] * (k % 2 == 0)) for k in range(1, 4)]
    # Steps: the median of 10, 20 and 30 s. Evaluations of 4 s after epochs 4, 6 and 8 of 8.
    assert page_parts.seconds_left(ABOUT, epochs) == 5 * 20 + 3 * 4
    assert page_parts.next_epoch(ABOUT, epochs) == 20 + 4
    assert 'About 2 min left' in text_of(compose(epochs))
    assert page_parts.seconds_left(ABOUT, []) is None and 'left' not in text_of(compose([])).split('Flags')[0]


def test_tensorboard_is_named_where_it_is_told_of_the_run():
    assert 'tensorboard --logdir /runs' in text_of(compose([epoch(1)]))
    assert 'ensor' not in text_of(page.compose(ABOUT._replace(tensorboard=False), '/runs/a', [], page_parts.RUNNING, 0,
                                               None, 0.0))


def test_only_a_running_run_s_page_is_loaded_again():
    for state in page_parts.RUNNING, page_parts.STOPPED, page_parts.FINISHED:
        again = [each for each in Page(compose([epoch(1)], state)).all('meta') if each.get('http-equiv') == 'refresh']
        assert bool(again) == (state == page_parts.RUNNING)


@pytest.mark.parametrize('seconds, words', [(35.2, '35 s'), (89, '89 s'), (100, '2 min'), (3599, '1 h 0 min'),
                                            (11100, '3 h 5 min'), (50 * 3600, '2 days 2 h')])
def test_durations_in_words(seconds, words):
    assert page_parts.duration(seconds) == words


def test_tensorboard_reads_the_images_and_the_flags(finished):
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata
    events = EventAccumulator(str(finished), size_guidance={'tensors': 0}).Reload()
    images = events.Tensors(TAG)
    assert [each.step for each in images] == [0, STEPS, 2 * STEPS]
    width, height, picture = images[-1].tensor_proto.string_val
    assert Image.open(io.BytesIO(picture)).size == (int(width), int(height))
    told = events.PluginTagToContent(metadata.PLUGIN_NAME)
    start = metadata.parse_session_start_info_plugin_data(told[metadata.SESSION_START_INFO_TAG])
    assert start.group_name == NASTY and start.start_time_secs > 0
    flags = read_json(finished / 'run.json')
    assert start.hparams['attack_epsilon'].number_value == EPSILON == flags['attack_epsilon']
    assert start.hparams['arch'].string_value == 'CifarResNet' and start.hparams['targeted'].bool_value is False
    assert start.hparams['ranks'].number_value == 1 and start.hparams['lr_drop_epochs'].string_value == '30,60,90'
    assert set(start.hparams) <= set(flags) and 'model_name' not in start.hparams and flags['model_name'] is None
    end = metadata.parse_session_end_info_plugin_data(told[metadata.SESSION_END_INFO_TAG])
    assert end.status == 1 and end.end_time_secs >= start.start_time_secs  # STATUS_SUCCESS of its api.proto
    assert events.Tensors('eval-2step-top1-error')[-1].tensor_proto.float_val[0] == pytest.approx(
        read_json(finished / 'stats.json')[-1]['eval-2step-top1-error'])
