"""Figures of the demo: training curves, and clean beside adversarial images."""
import json
import os

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np

SHOWN = 8  # images in a row
MAGNIFIED = 3  # factor of the perturbation in the picture


def draw_curves(runs, path):
    """Accuracy against the epoch; ``runs`` maps a name to its log directory."""
    figure, axis = plt.subplots(figsize=(7, 4.2))
    for k, (name, folder) in enumerate(runs.items()):
        with open(os.path.join(folder, 'stats.json')) as f:
            entries = json.load(f)
        for label, key, style in (('as in training', 'train-error-top1', ':'),
                                  ('validation, clean', 'eval-clean-top1-error', '--'),
                                  ('validation, PGD-10', 'eval-10step-top1-error', '-')):
            points = [(e['epoch_num'], 100 * (1 - e[key])) for e in entries if key in e]
            axis.plot(*zip(*points), style, color='C{}'.format(k), label='{}: {}'.format(name, label))
    axis.set_xlabel('epoch')
    axis.set_ylabel('accuracy (%)')
    axis.set_ylim(0, 100)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc='lower right')
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _attack_first_images(network, folder, epsilon):
    """(clean [N,S,S,3] uint8 BGR, adversarial likewise, labels, clean and adversarial predictions) of one network."""
    import tensorflow.compat.v1 as tf
    from tensorpack.tfutils.tower import TowerContext

    import nets
    from adv_model import image_preprocess
    from attacks.pgd import PGDAttacker
    from attacks.threat import PIXEL
    from commands.command_line import parse_args
    from data.folders import open_dataset
    from data.stream import ValidationBatches
    from settings.sections import view_of
    from weights.find import read_checkpoint
    from weights.match import load_into, match_variables

    args = parse_args(network + ['--data-format', 'NHWC'])
    dataset = open_dataset(None, 'val', args.num_classes)
    # The list is ordered by class; take images from all of them.
    some = np.linspace(0, len(dataset.files) - 1, SHOWN).astype(int)
    dataset = dataset._replace(files=[dataset.files[i] for i in some], labels=dataset.labels[some])
    image, label, _ = next(iter(ValidationBatches(dataset, SHOWN, view_of(vars(args)))))
    with tf.Graph().as_default(), TowerContext('', is_training=False):
        model = nets.ARCHITECTURES[args.arch].model(args)
        clean = image_preprocess(tf.constant(image), model.data_format)
        adv = PGDAttacker(10, epsilon, 4).attack(clean, tf.constant(label), model.get_logits).image
        outputs = [(adv + 1) / PIXEL] + [tf.argmax(model.get_logits(x), 1) for x in (clean, adv)]
        values = read_checkpoint(folder)
        with tf.Session() as session:
            load_into(session, match_variables(tf.global_variables(), values, folder))
            attacked, before, after = session.run(outputs)
    return image, attacked, label, before, after


def draw_images(network, runs, epsilon, path):
    """Rows of images: clean, and for each network attacked ones and what was added to them, magnified."""
    results = {name: _attack_first_images(network, folder, epsilon) for name, folder in runs.items()}
    figure, axes = plt.subplots(1 + 2 * len(results), SHOWN, figsize=(1.4 * SHOWN, 1.7 * (1 + 2 * len(results))))

    def show(row, k, pixels, title):
        axis = axes[row, k]
        axis.imshow(np.clip(pixels, 0, 255).astype(np.uint8)[..., ::-1])
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_title(title, fontsize=8)

    for row, (name, (clean, attacked, label, before, after)) in enumerate(results.items()):
        for k in range(SHOWN):
            if row == 0:
                show(0, k, clean[k], 'a {}'.format(label[k]))
            show(1 + 2 * row, k, attacked[k], 'says {}'.format(after[k]))
            show(2 + 2 * row, k, 128 + MAGNIFIED * (attacked[k] - clean[k]), 'clean: {}'.format(before[k]))
    rows = ['clean']
    for name in results:
        rows += ['{}:\nattacked'.format(name.replace(' on ', ' on\n')), 'change x{}'.format(MAGNIFIED)]
    for row, text in enumerate(rows):
        axes[row, 0].set_ylabel(text, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
