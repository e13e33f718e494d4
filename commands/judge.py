"""``--eval``: a network judged on the validation set."""
import contextlib
import dataclasses
import os
import signal
import sys
import time

from tensorpack.utils import logger

import nets
from commands import sources
from commands.networks import make_evaluation_attackers, matched, open_session
from commands.saying import print_recipe, say_evaluation, say_idle_gpus
from data import efficientnet_view
from data.subsets import spread
from data.synsets import in_words, synsets
from data.views import shown_whole
from evaluation import journal, judging, listing, threat_models
from evaluation.passes import ROW, row_ranges
from evaluation.results import (
    columns,
    make_results,
    make_results_folder,
    print_results,
    results_name,
    write_results,
)
from evaluation.verdicts import CLEAN, MAX_UNREADABLE, UNREADABLE_EXIT_CODE, too_many_unreadable
from files import output_folders
from files.atomic import write_bytes
from files.pictures import png_bytes
from machine.gpus import check_override
from machine.versions import library_versions
from ranks.cores import threads_for
from ranks.end import fail
from ranks.gather import together
from ranks.launched import Ranks
from ranks.terminal import say
from settings import sections
from settings.resolve import resolve
from training import trackers
from training.stopping import exit_code
from weights.classes import read_classes
from weights.find import find_checkpoint, open_checkpoint
from weights.flags import published_model
from weights.plausible import doubts, not_finite

SHOWN = 8  # images of --show


def validation_batches(settings, dataset, ranks, indices=None, plain=False):
    """This rank's images, of all or of ``indices``, seen as a network wants them that was trained so; ``plain``: whole
    images where the view does not say otherwise."""
    # Another size than that of training's batches, see ``tensor_float_32``.
    batch, view = settings.data.batch + settings.update.tf32, settings.view
    if plain and shown_whole(view):
        view = dataclasses.replace(view, augmentation='none')
    return efficientnet_view.validation_batches(
        dataset, batch, view, ranks.rank, ranks.size, threads_for(ranks), indices)


def some_batches(settings, dataset, count):
    """``count`` images of a validation set, spread over it, in one batch for one rank."""
    # Of another size than what training computes on, see ``tensor_float_32``.
    batch = count + (settings.data.batch // settings.update.accumulate == count + settings.update.tf32)
    few = dataclasses.replace(settings, data=dataclasses.replace(settings.data, batch=batch))
    return validation_batches(few, dataset, Ranks(), spread(len(dataset.files), count))


def _settings(args, dataset, values, attackers):
    """All that decides an evaluation's verdicts and what they consist of, JSON-ready.

    ``values`` (dict): the weights that are judged, name to array.
    """
    # The subset goes before the data, whose digest is another one then and says less.
    settings = {'checkpoint content': journal.digest_of_checkpoint(values), 'subset': args.subset,
                journal.DATA: journal.digest_of_data(dataset), journal.IMAGE_FILES: journal.digest_of_files(dataset),
                'columns': ROW}
    for number, attacker in enumerate(attackers, 1):
        for name, value in attacker.describe().items():
            settings['attack {}: {}'.format(number, name)] = value
    return dict(settings, **{name: getattr(args, name) for name in sections.deciding_verdicts()})


def _results_folder(args, attackers):
    """The folder of an evaluation's results: ``--results-dir``, or one of its own; with ``--resume-eval`` the last of
    these that holds an unfinished evaluation.

    Raises:
        ValueError: it cannot be made or written.
    """
    if args.results_dir:
        make_results_folder(args.results_dir)
        return args.results_dir
    base = os.path.join('results', results_name(
        nets.network_name(args), find_checkpoint(args.load), attackers[0], args.data or 'digits', args.subset,
        attackers[1:]))
    unfinished = [folder for folder in output_folders.numbered(base)[0]
                  if args.resume_eval and os.path.exists(os.path.join(folder, journal.FILE))]
    return unfinished[-1] if unfinished else output_folders.make_new(base)


def evaluate(args, ranks, signals, held, show=True):
    """``--eval``: judge a checkpoint on the validation set, clean and under attack, over all ranks.

    Args:
        held (contextlib.ExitStack): keeps the folder of the results for this process alone. show (bool): print them
            and which command would use all GPUs.
    Returns:
        dict: the content of results.json, on the first rank.
    """
    begin = time.time()
    together(ranks, lambda: (check_override(args.tf32), trackers.check(args.track)))
    classes, values = together(ranks, lambda: (read_classes(args.load), open_checkpoint(args.load)))
    dataset = together(ranks, lambda: sources.open_judged_images(args, classes))
    settings = resolve(args)
    attackers = together(ranks, lambda: make_evaluation_attackers(settings))
    parts = [part for attacker in attackers for part in attacker.parts]
    print_recipe(args)
    if show:
        say_idle_gpus(ranks)
    say_evaluation(args, ranks, dataset, attackers)

    model = nets.build(settings)
    judge = judging.Judging(model, attackers, ranks, [each.title for each in args.threat_models],
                            settings.evaluation_attack.gradient, settings.evaluation_attack.precision)

    def open_journal():
        folder = _results_folder(args, attackers)
        held.enter_context(output_folders.locked(folder, 'give another --results-dir'))
        return held.enter_context(contextlib.closing(journal.Journal(
            folder, _settings(args, dataset, {v.op.name: value for v, value in pairs}, parts),
            row_ranges(1 + len(parts), len(dataset.files), args.num_classes), args.resume_eval)))
    pairs = together(ranks, lambda: matched(args, values))
    kept = together(ranks, lambda: open_journal() if ranks.is_chief else None)
    with together(ranks, lambda: open_session(ranks, pairs)) as session:
        outcome = judge.run(session, dataset, lambda indices: validation_batches(settings, dataset, ranks, indices),
                            args.seed, kept, signals)
        if args.show and ranks.is_chief and not outcome.signal:
            _write_picture(os.path.dirname(kept.path), judge.samples(session, some_batches(settings, dataset, SHOWN)),
                           in_words(dataset.classes))
    read = len(outcome.clean.index)
    if not read and not outcome.signal:
        together(ranks, lambda: kept and kept.remove())
        fail("none of the {} images of '{}' could be read".format(len(dataset.files), dataset.name), ranks.rank)
    results = None
    if ranks.is_chief:
        results = _report(args, ranks, attackers, dataset, kept, outcome, kept.seconds + time.time() - begin, show)
    if outcome.signal:
        together(ranks, lambda: None)  # a launcher kills those that are left when one has ended
        sys.exit(exit_code(outcome.signal))
    refuse_unreadable(args, ranks, read, outcome.tried, 'the figures are of the others alone; when the same files can '
                                                         'be read, --resume-eval judges them too')
    return results


def _write_picture(folder, samples, names):
    """Some images, clean and under an attack; ``samples``: (the attack's name, list of Sample)."""
    attack, found = samples
    if found:
        rows = ['label: said'] + ([] if attack == CLEAN else [attack, 'difference'])
        path = os.path.join(folder, 'images.png')
        write_bytes(path, png_bytes(listing.attacked_sheet(found, names, rows)))
        say('{} images are in {}'.format(len(found), path))


def refuse_unreadable(args, ranks, read, total, what):
    """End all ranks with an exit code of its own if too many images could not be read; what was found is written."""
    if too_many_unreadable(read, total) and not args.allow_unreadable:
        together(ranks, lambda: None)
        fail('{} of {} images could not be read, more than {:g}%: {}; --allow-unreadable accepts that'.format(
            total - read, total, 100 * MAX_UNREADABLE, what), ranks.rank, UNREADABLE_EXIT_CODE)


def _report(args, ranks, attackers, dataset, kept, outcome, seconds, show):
    """Write, print and return what an evaluation has found, all of it or up to a signal."""
    folder = os.path.dirname(kept.path)
    clean = outcome.clean
    stopped = 'stopped by {} after {} of {} images{{}}; continue with --resume-eval'.format(
        signal.Signals(outcome.signal).name, outcome.tried, len(dataset.files)) if outcome.signal else ''
    if not len(clean.index):
        logger.warning(stopped.format(''))
        return None
    results, cells = _results(args, attackers, outcome, dict(vars(args), ranks=ranks.size), library_versions(), seconds,
                              not stopped)
    results['warnings'] = doubts(results['num_images'], results['clean']['top1_correct'], dataset.classes, synsets(),
                                 args)
    results['warnings'] += not_finite([clean.prediction] + [
        verdicts.prediction for found in outcome.found for name, verdicts in found.verdicts.items() if name != CLEAN])
    write_results(folder, results, clean, cells, dataset.files, kept.resumed)
    if results['num_unreadable']:
        logger.warning('{} of {} images could not be read and are left out'.format(
            results['num_unreadable'], outcome.tried))
    for warning in results['warnings']:
        logger.warning(warning)
    for attacker, found in zip(attackers, results.get('threat_models', [results])):
        for attack in found['attacks'] if attacker.one_after_another else ():
            logger.info('After {name}{}: robust {robust_correct} of {num_images}'.format(
                ' ({norm} {epsilon:g})'.format(**found['threat_model']) if args.threat_models else '', **attack))
    if stopped:
        logger.warning(stopped.format('; results so far are in {}'.format(folder)))
        return results
    if args.allow_unreadable or not results['too_many_unreadable']:
        kept.remove()
    if args.track:
        with trackers.Trackers(args.track, folder, dict(vars(args), ranks=ranks.size), args.num_classes) as following:
            following.tell_results(results)
    if not show:
        return results
    if args.threat_models:
        print('\n'.join(threat_models.table(results)), flush=True)
    else:
        print_results(results)
    say('Results are in {}'.format(folder))
    return results


def _results(args, attackers, outcome, *about):
    """The content of results.json, and the cells of per_example.csv."""
    if args.threat_models:
        titles = [model.title for model in args.threat_models]
        return (threat_models.make_results(outcome, attackers, published_model(args.load), *about),
                threat_models.cells(outcome, titles))
    (attacker,), (found,) = attackers, outcome.found
    return (make_results(found.verdicts, attacker, outcome.tried, *about), columns(found.latest, found.broken_by))
