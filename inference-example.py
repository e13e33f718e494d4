#!/usr/bin/env python
"""Classify one image with a released network: the smallest program that uses these models.

    python inference-example.py --load R152-Denoise.npz --arch ResNetDenoise -d 152 --input image.jpg
    python inference-example.py --load zoo:Res50-silu --input image.jpg
    python inference-example.py --load efficientnet-b0/efficientnet-b0 --arch EfficientNet --input image.jpg
"""
import sys

from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

import cv2
import tensorflow.compat.v1 as tf

import nets
from commands.command_line import add_architecture_flags, add_averages_flag, resolve_architecture
from commands.sources import usual_view
from data.augment import resize_plain
from data.efficientnet_view import for_tensorflow, released_view
from data.images import Undecodable, Unreadable, decode_image, read_content
from data.synsets import synset_words
from data.views import decoded, made_by_tensorflow, shown_whole, validation_transform
from ranks.command_line import OneLineParser
from settings.run import LOAD_HELP
from weights.classes import read_classes
from weights.find import open_checkpoint
from weights.flags import parse_with_checkpoint
from weights.match import load_into, match_variables
from zoo.fetch import bring

DEPTH = 152  # FD release


def main():
    parser = OneLineParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    parser.add_argument('--load', required=True, help=LOAD_HELP)
    parser.add_argument('--input', required=True, help='an image file')
    add_averages_flag(parser, default=0.0)
    add_architecture_flags(parser, depth=DEPTH, arch='ResNetDenoise')
    args = parse_with_checkpoint(parser, sys.argv[1:], parser.parse_args().load)
    if args.depth is None and 'depth' in nets.architecture_defaults(args.arch):
        args.depth = DEPTH
    resolve_architecture(args, parser)

    try:
        content = read_content(args.input)
        picture = decode_image(content)
    except (Undecodable, Unreadable) as error:
        parser.error("--input '{}': not a readable image{}".format(
            args.input, ', ' + str(error) if isinstance(error, Undecodable) and str(error) else ''))
    kind = nets.ARCHITECTURES[args.arch]
    model = kind.model(args)
    view = usual_view(args)
    if made_by_tensorflow(view):
        pixels = tf.reverse(released_view(tf.constant(for_tensorflow(content)), args.input_size), [2])
    elif not shown_whole(view):
        pixels = tf.constant(validation_transform(decoded(content, view), view))
    else:
        # The FD release's example resizes bilinearly, ignoring the aspect ratio.
        pixels = tf.constant(resize_plain(picture, args.input_size, cv2.INTER_LINEAR))
    logits = model.classify(pixels[tf.newaxis])
    try:
        bring(args.load, None)
        pairs = match_variables(tf.global_variables(), open_checkpoint(args.load), args.load,
                                  averages=args.moving_average_decay > 0)
        names = read_classes(args.load) or synset_words()
    except (ValueError, OSError) as error:
        parser.error(error)
    with tf.Session() as session:
        load_into(session, pairs)
        scores = session.run(logits)[0]
    best = scores.argsort()[::-1][:5]
    print('Prediction: ', best[0])
    if len(scores) > len(best):
        print('Top 5: ', [names[k] if k < len(names) else str(k) for k in best])


if __name__ == '__main__':
    main()
