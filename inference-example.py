#!/usr/bin/env python
"""Classify one image with a released network: the smallest program that uses these models.

    python inference-example.py --load R152-Denoise.npz --arch ResNetDenoise -d 152 --input image.jpg
"""
import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import cv2
import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import checkpoints
import nets
from main import add_architecture_flags, resolve_architecture
from third_party.imagenet_utils import read_image, resize_plain, synset_words
from third_party.utils import OneLineParser


def main():
    parser = OneLineParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    parser.add_argument('--load', required=True, help='weights: .npz, or name of a TensorFlow checkpoint')
    parser.add_argument('--input', required=True, help='an image file')
    add_architecture_flags(parser, depth=152, arch='ResNetDenoise')
    args = parser.parse_args()
    resolve_architecture(args, parser)

    picture = read_image(args.input)
    if picture is None:
        parser.error("--input '{}': not a readable image".format(args.input))
    # The release's example resizes bilinearly, ignoring the aspect ratio, and scales to [-1, 1].
    pixels = resize_plain(picture, args.input_size, cv2.INTER_LINEAR)[np.newaxis].astype(np.float32) / 127.5 - 1

    model = getattr(nets, args.arch + 'Model')(args)
    if model.data_format == 'NCHW':
        pixels = pixels.transpose(0, 3, 1, 2)
    image = tf.placeholder(tf.float32, pixels.shape, name='input')
    with TowerContext('', is_training=False):
        logits = model.get_logits(image)
    try:
        pairs = checkpoints.match(tf.global_variables(), checkpoints.read(args.load), args.load)
        names = checkpoints.read_classes(args.load) or synset_words()
    except ValueError as error:
        parser.error(error)
    with tf.Session() as session:
        checkpoints.load_into(session, pairs)
        scores = session.run(logits, {image: pixels})[0]
    best = scores.argsort()[::-1][:5]
    print('Prediction: ', best[0])
    print('Top 5: ', [names[k] if k < len(names) else str(k) for k in best])


if __name__ == '__main__':
    main()
