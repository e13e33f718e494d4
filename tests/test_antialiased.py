"""data/antialiased.py and the augmentations made of it, against the recorded results of Pillow and the rules of
torchvision."""
import hashlib
import io
import itertools
import math

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from data.antialiased import antialiased_centre, antialiased_crop, crop_box
from data.images import decode_image
from data.increasing import rand_augment
from image_folders import numbered_set
from settings.data import View
from test_jpeg_part import EXIF, encode, picture
from test_resampling import pillow_resize
from third_party.imagenet_utils import ImageSet, TrainingStream, ValidationBatches, augment, validation_transform
from tiny_cnn import uniform

HEAVY, BASIC = 'revisiting-at', 'revisiting-at-basic'


def recorded_image(name, height, width):
    """The image of a recorded result: uint8 [H,W,3] of levels, blocks and noise, made from its name."""
    tag, size, cell = 'prep-' + name, max(height, width), 24
    level = 0.5 + 0.5 * uniform(tag + '/level', (1, 3, 1, 1))
    coarse = 0.5 + 0.5 * uniform(tag + '/coarse', (1, 3) + 2 * (-(-size // cell),))
    coarse = coarse.repeat(cell, axis=2).repeat(cell, axis=3)[:, :, :size, :size]
    fine = 0.5 + 0.5 * uniform(tag + '/noise', (1, 3, size, size))
    image = np.floor((0.4 * level + 0.4 * coarse + 0.2 * fine) * 256).astype(np.uint8)[0]
    return np.ascontiguousarray(image.transpose(1, 2, 0)[:height, :width])


def digest(image):
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


@pytest.mark.parametrize('case', ['landscape_224', 'landscape_256', 'landscape_320', 'portrait_224', 'small_224',
                                  'exact_224'])
def test_the_view_of_an_evaluation_is_the_recorded_one(load_json, case):
    record = load_json('rat/data_path.json')['preprocess'][case]
    name, size = case.split('_')
    image = recorded_image(name, *record['input_hw'])
    assert digest(image) == record['input_sha256']
    assert digest(antialiased_centre(image, int(size))) == record['sha256_uint8_hwc']
    for augmentation in (HEAVY, BASIC):  # whatever the order of the channels
        seen = validation_transform(image[..., ::-1], View(int(size), augmentation))
        assert digest(seen[..., ::-1]) == record['sha256_uint8_hwc']


@pytest.mark.parametrize('height, width', [(333, 500), (500, 333), (37, 400), (64, 64), (230, 231), (260, 257)])
@pytest.mark.parametrize('size', [32, 224, 225, 299])
def test_the_view_of_an_evaluation_is_pillow_s_resize_and_the_middle_of_it(height, width, size):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    shorter = int(size / 0.875)
    new = (shorter, int(shorter * height / width)) if width < height else (int(shorter * width / height), shorter)
    top, left = round((new[1] - size) / 2.0), round((new[0] - size) / 2.0)
    for augmentation, kernel in ((HEAVY, Image.BICUBIC), ('torchvision', Image.BILINEAR)):
        resized = np.asarray(Image.fromarray(image).resize(new, kernel))[top:top + size, left:left + size]
        assert (validation_transform(image, View(size, augmentation)) == resized).all()


@pytest.mark.parametrize('height, width', [(300, 400), (375, 250), (64, 64)])
def test_crops_have_a_uniform_area_and_a_uniform_logarithm_of_aspect(height, width):
    rng, count = np.random.default_rng(0), 6000
    boxes = np.array([crop_box(height, width, rng) for _ in range(count)])
    assert (boxes[:, 2:] > 0).all() and (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= (height, width)).all()
    # Small ones always fit: among them both are as they were drawn.
    share, aspect = boxes[:, 2] * boxes[:, 3] / (height * width), boxes[:, 3] / boxes[:, 2]
    small = (share > 0.1) & (share < 0.4)
    low, high = 0.1, 0.4
    steps = 1.5 / math.sqrt(height * width * low)  # sides are whole pixels
    for values, first, last in ((share[small], low, high), (np.log(aspect[small]), math.log(3 / 4), math.log(4 / 3))):
        found = scipy.stats.ks_1samp(values, scipy.stats.uniform(first, last - first).cdf)
        assert found.statistic < 1.95 / math.sqrt(small.sum()) + steps, found
    room = np.array([height, width]) - boxes[:, 2:]
    places = (boxes[:, :2] + 0.5) / (room + 1)
    assert all(scipy.stats.kstest(p[r > 30], 'uniform').pvalue > 1e-3 for p, r in zip(places.T, room.T))


@pytest.mark.parametrize('height, width, box', [(20, 420, (0, 196, 20, 27)), (420, 20, (196, 0, 27, 20)),
                                                (1, 90, (0, 44, 1, 1))])
def test_where_no_crop_fits_it_is_the_largest_central_one(height, width, box):
    assert crop_box(height, width, np.random.default_rng(0)) == box


def test_a_training_view_is_its_crop_resized_flipped_or_not_and_augmented():
    image = picture(120, 150)
    flips = 0
    for seed in range(40):
        top, left, height, width = crop_box(120, 150, np.random.default_rng(seed))
        crop = image[top:top + height, left:left + width]
        resized, smooth = (pillow_resize(crop, 64, 64, kernel) for kernel in (Image.BICUBIC, Image.BILINEAR))
        assert (augment(image, View(64, BASIC), np.random.default_rng(seed)) == resized).all()
        rng = np.random.default_rng(seed)
        antialiased_crop(image, 64, rng)
        flip = rng.uniform() < 0.5
        flips += flip
        if flip:
            resized, smooth = (np.ascontiguousarray(view[:, ::-1]) for view in (resized, smooth))
        assert (augment(image, View(64, 'torchvision'), np.random.default_rng(seed)) == smooth).all()
        expected = rand_augment(resized, rng)
        assert (augment(image, View(64, HEAVY), np.random.default_rng(seed)) == expected).all()
    assert 8 < flips < 32


def photographs(folder, count=3):
    """An ImageSet of JPEGs, of which the second has EXIF data that tell to turn it."""
    files = []
    for number in range(count):
        content = encode(picture(40 + number, 60))
        files.append(str(folder / '{}.jpg'.format(number)))
        with open(files[-1], 'wb') as f:
            f.write(content[:2] + EXIF + content[2:] if number == 1 else content)
    return ImageSet(files, np.arange(count, dtype=np.int32), [str(k) for k in range(count)], 'photographs')


def test_exif_data_do_not_turn_an_image(tmp_path):
    """As Pillow, and unlike the views of networks that were trained with OpenCV."""
    dataset = photographs(tmp_path)
    with Image.open(dataset.files[1]) as file:
        stored = np.asarray(file.convert('RGB'))[..., ::-1]
    (image, label, _), = ValidationBatches(dataset, 3, View(32, HEAVY), threads=1)
    assert label.tolist() == [0, 1, 2] and (image[1] == antialiased_centre(stored, 32)).all()
    (turned, _, _), = ValidationBatches(dataset, 3, View(32, 'imagenet'), threads=1)
    assert (turned[1] != validation_transform(stored, View(32, 'imagenet'))).any()
    images, labels = TrainingStream(dataset, 3, View(32, BASIC), seed=0).batch(0)
    row = labels.tolist().index(1)
    assert (images[row] == augment(stored, View(32, BASIC), np.random.default_rng([0, 1, row]))).all()


def as_jpeg(mode):
    content = io.BytesIO()
    Image.fromarray(picture(75, 93)).convert(mode).save(content, 'JPEG')
    return content.getvalue()


@pytest.mark.parametrize('content, share', [
    *[(encode(picture(75, 93), sampling), 0.01) for sampling in ('4:2:0', '4:2:2', '4:4:4')],
    (as_jpeg('L'), 0.01), (as_jpeg('CMYK'), 1)], ids=['4:2:0', '4:2:2', '4:4:4', 'grey', 'CMYK'])
def test_jpegs_are_decoded_as_by_pillow(content, share):
    """Versions of libjpeg differ by a level here and there; of CMYK each library makes colours by a rule of its own."""
    theirs = np.asarray(Image.open(io.BytesIO(content)).convert('RGB'))[..., ::-1].astype(int)
    difference = np.abs(decode_image(content) - theirs)
    assert difference.max() <= 1 and (difference > 0).mean() <= share


def test_order_and_views_differ_from_epoch_to_epoch_and_come_again_after_a_restart(tmp_path):
    dataset = numbered_set(tmp_path, 12)

    def epochs(first):
        stream = TrainingStream(dataset, 4, View(16, HEAVY), seed=5)
        batches = [stream.batch(number) for number in range(3 * first, 9)]
        return [[np.concatenate(arrays) for arrays in zip(*batches[k:k + 3])] for k in range(0, len(batches), 3)]
    whole = epochs(0)
    for (_, one), (_, other) in itertools.combinations(whole, 2):
        assert sorted(one) == sorted(other) and one.tolist() != other.tolist()
    for arrays, again in zip(whole[1:], epochs(1)):  # a process that begins at the second epoch
        assert all((x == y).all() for x, y in zip(arrays, again))
