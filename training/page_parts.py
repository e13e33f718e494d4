"""The parts of a run's page, as HTML: its state, curves, images and numbers."""
import time
from statistics import median

from evaluation.during_training import attack_name
from evaluation.verdicts import CLEAN
from files.charts import Curve, Point, chart
from files.pages import Table, as_html_block, data_uri, safe
from files.pictures import magnified_difference, png_bytes

RUNNING, FINISHED, STOPPED = 'running', 'finished', 'stopped'
_RECENT = 5  # epochs by whose time the rest is estimated
_STYLES = 5  # of charts, for attacks; those beyond these begin anew
_OF_TRAINING = 5  # the style of what is no attack
_SMALL = 96  # pixels of a side, up to which an image is shown in squares


def state(about, epochs, what, step, now):
    """How far the run is; for the arguments see ``page.compose``."""
    over, total = epochs[-1].number if epochs else 0, about.epochs
    lines = [{RUNNING: '<b>Running</b> when this was written.', FINISHED: '<b class="good">Finished.</b>',
              STOPPED: '<b class="bad">Stopped</b> before its end; log.log says why. The same command with --resume '
                       'goes on from the last checkpoint.'}[what]]
    if what == FINISHED and over < total:
        lines[0] = '<b class="good">Finished</b> before its last epoch, for overfitting (--stop-when-overfitting).'
    lines[0] += ' {} of {} epochs are over, {} of {} steps.'.format(over, total, step, total * about.steps_per_epoch)
    left = seconds_left(about, epochs)
    if what == RUNNING and left is not None:
        lines[0] += ' About <b>{}</b> left.'.format(duration(left))
    lines += [_overfitting(epoch) for epoch in epochs if epoch.overfitting or epoch.went_back_to]
    lines.append('<span class="soft">Written {}{}.</span>'.format(
        _at('%Y-%m-%d %H:%M:%S %Z', now), ' and anew after each epoch' * (what == RUNNING)))
    if what == RUNNING and left is not None:
        lines[-1] += ' <span class="soft">The next one is expected at {}.</span>'.format(
            _at('%H:%M:%S', now + next_epoch(about, epochs)))
    return '<div class="state {}">{}<progress value="{}" max="{}">{} of {}</progress></div>'.format(
        what, ''.join('<p>{}</p>'.format(line) for line in lines), over, total, over, total)


def _overfitting(epoch):
    found = 'Epoch {}: <b class="bad">{} overfitting</b> began'.format(epoch.number, epoch.overfitting) \
        if epoch.overfitting else 'Epoch {}: overfitting went on'.format(epoch.number)
    return found + ('; the run went on with the weights of epoch {}.'.format(epoch.went_back_to)
                    if epoch.went_back_to else '.')


def _at(form, seconds):
    return time.strftime(form, time.localtime(seconds))


def seconds_left(about, epochs):
    """float: estimated of the last epochs' time; None where there is no time to go by."""
    steps, judging = _mean_seconds(epochs)
    if steps is None:
        return None
    left = range(epochs[-1].number + 1, about.epochs + 1)
    return len(left) * steps + judging * sum(_is_judged(about, epoch) for epoch in left)


def next_epoch(about, epochs):
    """float: seconds until the next page, likewise estimated."""
    steps, judging = _mean_seconds(epochs)
    return steps + judging * _is_judged(about, epochs[-1].number + 1)


def _mean_seconds(epochs):
    steps = [each.seconds for each in epochs[-_RECENT:] if each.seconds is not None]
    judging = [each.evaluation_seconds for each in epochs if each.evaluation_seconds is not None][-_RECENT:]
    return median(steps) if steps else None, median(judging) if judging else 0.0


def _is_judged(about, epoch):
    return about.judged_by is not None and (epoch % about.eval_every == 0 or epoch == about.epochs)


def duration(seconds):
    """'35 s', '12 min', '3 h 5 min' or '2 days 4 h'."""
    minutes = round(seconds / 60)
    hours, days = minutes // 60, minutes // (24 * 60)
    if seconds < 90:
        return '{:.0f} s'.format(seconds)
    if hours < 1:
        return '{} min'.format(minutes)
    return '{} h {} min'.format(hours, minutes % 60) if days < 2 else '{} days {} h'.format(days, hours % 24)


def curves(about, epochs):
    """The charts for which there is something to draw: list of str."""
    judged, drawn = _judged_curves(epochs), []
    if judged:
        drawn.append(chart('Validation images that are right', judged, 'epoch', _percent_of_axis, _of_images(epochs)))
    for title, name, value, shown, note in (
            ('Training images that are right', about.trained_on, lambda epoch: _or_none(
                lambda error: 100 * (1 - error), epoch.train_error), _percent_of_axis, _training_images(epochs)),
            ('Loss', 'loss and weight decay', lambda epoch: epoch.cost, '{:.3g}'.format,
             'running average over the steps'),
            ('Learning rate', 'at the last step of the epoch', lambda epoch: epoch.learning_rate, '{:.3g}'.format, '')):
        points = [Point(epoch.number, value(epoch), note='epoch {}: {}'.format(epoch.number, shown(value(epoch))))
                  for epoch in epochs if value(epoch) is not None and value(epoch) >= 0]
        if points:
            drawn.append(chart(title, [Curve(name, points, _OF_TRAINING, value='{}, epoch {}'.format(
                shown(points[-1].y), points[-1].x))], 'epoch', shown, note))
    return drawn


def _training_images(epochs):
    """What the training images' figures are of, in words."""
    return 'while the network changes: all images of an epoch' if all(epoch.counted for epoch in epochs) else \
        'while the network changes: running average over the steps, or all images of an epoch where they were counted'


def _of_images(epochs):
    """What the intervals are of, in words."""
    counts = {each.num_images for epoch in epochs for each in epoch.judged}
    known = sorted(counts - {None})
    if not known:
        return 'no intervals: of how many images is not known'
    return '95% Wilson intervals, of {} images{}'.format(
        ' to '.join(map(str, dict.fromkeys([known[0], known[-1]]))),
        '; none where the number of images is not known' * (None in counts))


def _or_none(function, value):
    return None if value is None else function(value)


def _percent_of_axis(value):
    return '{:.3g}%'.format(value)


def _judged_curves(epochs):
    """A curve for each attack, and a second one of the same style for the averaged weights under it."""
    kinds, found = _kinds(epochs), []
    attacks = list(dict.fromkeys(attack for attack, _ in kinds))
    for attack, averaged in kinds:
        of_kind = [(epoch.number, epoch.of(attack, averaged)) for epoch in epochs if epoch.of(attack, averaged)]
        points, latest = [_judged_point(*each) for each in of_kind], of_kind[-1][1]
        found.append(Curve(_kind(attack, averaged), points, attacks.index(attack) % _STYLES, averaged,
                           '{}, epoch {}'.format(_share(latest), points[-1].x)))
    return found


def _kinds(epochs):
    """(attack, averaged) of all evaluations, those of an attack beside each other."""
    kinds = dict.fromkeys((each.attack, each.averaged) for epoch in epochs for each in epoch.judged)
    attacks = list(dict.fromkeys(attack for attack, _ in kinds))
    return sorted(kinds, key=lambda kind: (attacks.index(kind[0]), kind[1]))


def _kind(attack, averaged):
    return ('no attack' if attack == CLEAN else attack_name(attack)) + ', averaged weights' * averaged


def _judged_point(epoch, judged):
    low, high = judged.top1_accuracy_95 or (None, None)
    return Point(epoch, 100 * judged.top1_accuracy, _or_none(lambda x: 100 * x, low), _or_none(lambda x: 100 * x, high),
                 'epoch {}: {}'.format(epoch, _in_numbers(judged)))


def _share(judged):
    """'83.1% (79.0 to 86.4)' of a ``Judged``."""
    low, high = judged.top1_accuracy_95 or (None, None)
    return '{:.1f}%{}'.format(100 * judged.top1_accuracy, '' if low is None else ' ({:.1f} to {:.1f})'.format(
        100 * low, 100 * high))


def _in_numbers(judged):
    """'83.1% (79.0 to 86.4), 299 of 360' of a ``Judged``."""
    return _share(judged) + (', {} of {}'.format(judged.top1_correct, judged.num_images) if judged.num_images else '')


def strip(about, samples):
    """Each image, what the attack makes of it, and the difference, above one another."""
    if not samples.latest:
        return '<p>None of the images chosen for this place can be read.</p>'
    shown = ''.join(_figure(sample, samples.named) for sample in samples.latest)
    return '<p>As the network sees them {}{}: clean, under {}, and what the attack has added, on grey. They are ' \
           'chosen by their places in the validation set alone.</p><div class="strip">{}</div>'.format(
               'after step {}'.format(samples.step) if samples.step else 'before the first step',
               ', with its weights, not their averages' * about.averages, safe(about.judged_by), shown)


def _figure(sample, named):
    difference, factor = magnified_difference(sample.image, sample.attacked)
    label = named(sample.label)

    def said(prediction):
        right = prediction == sample.label
        return '<b class="{}">{} {}</b>'.format(*(('good', '✓') if right else ('bad', '✗')), safe(named(prediction)))
    smooth = ' class="smooth"' * (max(sample.image.shape[:2]) > _SMALL)
    lines = []
    for pixels, alt, caption in (
            (sample.image, '{}, clean'.format(label), 'label: {}<br>clean: {}'.format(
                safe(label), said(sample.prediction))),
            (sample.attacked.round(), '{}, attacked'.format(label), 'attacked: ' + said(sample.attacked_prediction)),
            (difference, 'the difference', 'difference &times; {:.3g}'.format(factor))):
        lines.append('<img{} src="{}" alt="{}"><p>{}</p>'.format(
            smooth, data_uri(png_bytes(pixels.clip(0, 255).astype('uint8'))), safe(alt), caption))
    return '<figure>{}</figure>'.format(''.join(lines))


def numbers(about, epochs):
    """A table of all epochs, the last one first, folded away."""
    kinds = _kinds(epochs)
    header = ['epoch', 'step', 'rate', 'loss', 'training images right', *(_kind(*kind) for kind in kinds),
              'unreadable', 'seconds']
    rows = []
    for epoch in reversed(epochs):
        judged = [epoch.of(*kind) for kind in kinds]
        seconds = [each for each in (epoch.seconds, epoch.evaluation_seconds) if each is not None]
        rows.append([str(epoch.number), _cell(epoch.step, '{}'), _cell(epoch.learning_rate, '{:.4g}'),
                     _cell(epoch.cost, '{:.4g}'), _cell(_or_none(lambda error: 1 - error, epoch.train_error), '{:.1%}'),
                     *(_in_numbers(each) if each else '' for each in judged),
                     _cell(next((each.num_unreadable for each in epoch.judged), None), '{}'),
                     '{:.1f}'.format(sum(seconds)) if seconds else ''])
    words = 'Rate: of the last step. Loss: with weight decay, running average over the steps. Training images: {}, ' \
            '{}. Validation images: 95% Wilson intervals in brackets. Seconds: of steps and evaluations.'.format(
                about.trained_on, _training_images(epochs))
    return '<details><summary>Numbers</summary><p class="soft">{}</p>{}</details>'.format(
        safe(words), as_html_block(Table(header, rows, '')))


def _cell(value, form):
    return '' if value is None else form.format(value)
