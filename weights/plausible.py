"""What a figure says of the flags it was made with: mistakes that names and shapes of variables cannot tell."""
from nets import channel_order

LEAST_IMAGES = 200
LEAST_RIGHT = 0.1  # of clean images; every published network of ImageNet's classes has more than half right
BACKGROUND = 'background'  # of 1001 classes, the first


def doubts(judged, right, classes, imagenet, args):
    """Why the figure of an evaluation without an attack is not to be believed.

    Args:
        judged, right (int): clean images, and those of them that the network was right about.
        classes (list of str): of the data. imagenet (list of str): ImageNet's.
        args: resolved flags: ``arch``, ``num_classes`` and those that are named.
    Returns:
        list of str: a sentence, or none.
    """
    of_imagenet = args.num_classes in (len(imagenet), len(imagenet) + 1) and set(classes) <= {BACKGROUND, *imagenet}
    if not of_imagenet or judged < LEAST_IMAGES or right >= LEAST_RIGHT * judged:
        return []
    causes = ['--activation-name {}'.format(args.activation_name)]
    if args.batch_norm_epsilon is not None:
        causes.append('--batch-norm-epsilon {:g}'.format(args.batch_norm_epsilon))
    causes.append('--input-size {}'.format(args.input_size))
    if args.padding is not None:
        causes.append('--padding {} (or --recipe {})'.format(args.padding, args.recipe))
    if args.input_scaling is not None:
        causes.append('--input-scaling {}'.format(args.input_scaling))
    causes += ['the channel order ({} here)'.format(channel_order(args.arch, args.input_scaling)),
               'the weights ({})'.format('their moving averages; --moving-average-decay 0 takes the plain ones'
                                         if args.moving_average_decay else 'the plain ones, not their averages')]
    return ['only {:.1f}% of {} clean images are right: something does not belong to these weights; likely causes: '
            '{}'.format(100 * right / judged, judged, ', '.join(causes))]


def not_finite(predictions):
    """What is to be said where a network's outputs are no numbers, for which it counts as wrong.

    Args:
        predictions (list of int arrays): of the passes over the images; -1 where the outputs were not finite.
    Returns:
        list of str: a sentence, or none.
    """
    times, of = sum(int((each < 0).sum()) for each in predictions), sum(len(each) for each in predictions)
    return ["the network's outputs are not finite (prediction -1) in {} of {} looks at an image, which count as wrong: "
            'something does not belong to these weights'.format(times, of)] * (times > 0)
