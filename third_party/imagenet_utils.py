"""Public names of the data path, under the file name the released programs use (FD, SAT:
`third_party/imagenet_utils.py`).

Works as `third_party.imagenet_utils` and, with this folder on the path, as `imagenet_utils`; both give the same
objects. Images are uint8 BGR in OpenCV's order, [N,H,W,3]; labels are int32.
"""
from data.augment import center_crop, resize_plain, resize_shortest_edge
from data.folders import ImageSet, count_classes, default_data, list_images, open_dataset
from data.handshake import Job, default_data_address, info_address, new_job
from data.images import Unreadable, decode_image, read_image
from data.lease import Lease, check_servers
from data.policies import POLICIES, describe_policy, make_policy
from data.records import RecordSet
from data.stream import FakeStream, TrainingStream, ValidationBatches, available_cores, iterate
from data.synsets import synset_words, synsets
from data.views import AUGMENTATIONS, augment, default_augmentation, validation_transform
from settings.data import View

__all__ = ['AUGMENTATIONS', 'FakeStream', 'ImageSet', 'Job', 'Lease', 'POLICIES', 'RecordSet', 'TrainingStream',
           'Unreadable', 'ValidationBatches', 'View', 'augment', 'available_cores', 'center_crop', 'check_servers',
           'count_classes', 'decode_image', 'default_augmentation', 'default_data', 'default_data_address',
           'describe_policy', 'info_address', 'iterate', 'list_images', 'make_policy', 'new_job', 'open_dataset',
           'read_image', 'resize_plain', 'resize_shortest_edge', 'synset_words', 'synsets', 'validation_transform']
