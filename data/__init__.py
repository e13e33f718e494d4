"""Images from disk to batches: data sets, augmentation, streams, and the talk between data server and trainers.

All modules but `efficientnet_view.py` do without TensorFlow; `third_party/imagenet_utils.py` is the public face.
"""
