"""``--eval-directory``: a network applied to the images of a folder."""
import json
import os

import numpy as np
from tensorpack.utils import logger

import nets
from commands.judge import refuse_unreadable, validation_batches
from commands.networks import matched, open_session
from data.folders import ImageSet, list_images
from evaluation import listing
from evaluation.classification import Classifier
from files.atomic import write_bytes, write_text
from files.pictures import png_bytes
from machine.gpus import check_override
from ranks.end import fail
from ranks.gather import gather_texts, together
from ranks.launched import Ranks
from ranks.terminal import say
from settings.resolve import resolve
from settings.run import RELEASED
from weights.classes import names_of_outputs
from weights.find import open_checkpoint
from weights.plausible import not_finite


def classify_directory(args, ranks):
    """A line for every image file of a folder, and with ``--show`` a picture of the first ones."""
    together(ranks, lambda: check_override(args.tf32))
    values, names = together(ranks, lambda: (open_checkpoint(args.load),
                                             names_of_outputs(args.load, args.num_classes)))
    files = together(ranks, lambda: list_images(args.eval_directory))
    if not files:
        fail("--eval-directory '{}': no image files".format(args.eval_directory), ranks.rank)
    settings = resolve(args)
    classifier = Classifier(nets.build(settings), ranks)
    dataset = ImageSet(files, np.zeros(len(files), np.int32), [], args.eval_directory)
    # The releases' way for folders of ResNets: cubic, ignoring the aspect ratio.
    batches = validation_batches(settings, dataset, ranks, plain=True)
    with together(ranks, lambda: open_session(ranks, matched(args, values))) as session:
        found = classifier.run(session, batches, ranks.is_chief)
    reasons = {}
    for told in gather_texts(ranks, json.dumps(batches.reasons)):
        reasons.update(json.loads(told))
    read = len(found.index)
    if ranks.is_chief:
        write_text(args.prediction_file, listing.as_released(files, found) if args.prediction_format == RELEASED else
                   listing.as_csv(files, found, names, reasons))
        say('{} predictions are in {}; {} files could not be read'.format(
            read, args.prediction_file, len(files) - read))
        if args.show and read:
            _write_sheet(os.path.splitext(args.prediction_file)[0] + '.png', settings, dataset, found, names)
        for warning in not_finite([found.prediction]):
            logger.warning(warning)
    refuse_unreadable(args, ranks, read, len(files), 'they have no prediction')


def _write_sheet(path, settings, dataset, found, names):
    """The contact sheet, of the first images as the network has seen them, read again by this process alone."""
    shown = found.index[:listing.SHOWN]
    images = [image for batch, _, index in validation_batches(settings, dataset, Ranks(), shown, plain=True)
              for image in batch[index >= 0]]
    captions = [listing.caption(names, label, share, os.path.basename(dataset.files[k]))
                for k, label, share in zip(shown, found.prediction, found.probability)]
    write_bytes(path, png_bytes(listing.contact_sheet(images, captions)))
    say('{} with their classes are in {}'.format(
        'All {} images'.format(len(shown)) if len(shown) == len(found.index) else
        'The first {} of {} images'.format(len(shown), len(found.index)), path))
