"""Images from disk to batches: data sets, augmentation, streams, and the talk between data server and trainers.

No module of this package imports TensorFlow. `third_party/imagenet_utils.py` is the public face.
"""
