"""data/: folders, the embedded digits, the list of ImageNet's classes."""
import os
import resource
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from image_folders import make_folder
from third_party.imagenet_utils import (
    Unreadable,
    decode_image,
    list_images,
    open_dataset,
    read_image,
    synset_words,
    synsets,
)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(scope='module')
def digits_cache(tmp_path_factory):
    """A cache folder of its own, already filled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        open_dataset(None, 'train', 10)
        yield os.environ['XDG_CACHE_HOME']


def base_names(dataset):
    return [os.path.basename(path) for path in dataset.files]


def test_synsets_are_the_1000_sorted_ids_of_ilsvrc_2012():
    ids = synsets()
    assert len(ids) == 1000 and ids == sorted(set(ids)) and all(len(wnid) == 9 and wnid[0] == 'n' for wnid in ids)
    assert (ids[0], ids[207], ids[999]) == ('n01440764', 'n02099601', 'n15075141')


def test_synset_words_are_in_label_order():
    words = synset_words()
    assert words[0] == 'n01440764 tench, Tinca tinca' and words[207] == 'n02099601 golden retriever'
    assert [line.split()[0] for line in words] == synsets() and all(len(line.split()) > 1 for line in words)


def test_imagenet_labels_hold_when_most_classes_are_absent(tmp_path):
    data = make_folder(tmp_path, ['train/n02099601/a.JPEG', 'train/n01440764/b.JPEG', 'val/n02099601/c.JPEG'])
    assert open_dataset(data, 'train', 1000).labels.tolist() == [0, 207]
    validation = open_dataset(data, 'val', 1000)
    assert validation.labels.tolist() == [207] and validation.labels.dtype == np.int32
    assert validation.classes == synsets()


def test_other_folder_names_are_labelled_in_sorted_order(tmp_path):
    folder = make_folder(tmp_path, ['train/zebra/1.png', 'train/ant/2.png', 'train/ant/1.png'])
    dataset = open_dataset(folder, 'train', 2)
    assert dataset.classes == ['ant', 'zebra'] and dataset.labels.tolist() == [0, 0, 1]
    assert [os.path.relpath(path, str(tmp_path)) for path in dataset.files] == [
        'train/ant/1.png', 'train/ant/2.png', 'train/zebra/1.png']
    assert dataset.name == os.path.realpath(str(tmp_path))


def test_one_folder_that_is_no_synset_makes_the_set_an_ordinary_one(tmp_path):
    data = make_folder(tmp_path, ['train/n02099601/a.png', 'train/n99999999/b.png'])
    assert open_dataset(data, 'train', 2).classes == ['n02099601', 'n99999999']


def test_class_folders_without_splits_serve_for_evaluation_alone(tmp_path):
    data = make_folder(tmp_path, ['cat/1.png', 'dog/1.png'])
    assert open_dataset(data, 'val', 2).labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match='both trained and judged; move those for training to .*/train/<class>/, '
                                         'others to .*/val/<class>/$'):
        open_dataset(data, 'train', 2)


@pytest.mark.parametrize('typed', ['four/train', 'four/val', './four/train/', 'four/train/ant'])
def test_training_on_a_part_of_a_data_set_is_refused_with_the_path_to_type(tmp_path, monkeypatch, typed):
    make_folder(tmp_path / 'four', ['train/ant/1.png', 'train/bee/1.png', 'val/ant/2.png', 'val/bee/2.png'])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match='give --data four$'):
        open_dataset(typed, 'train', 2)
    monkeypatch.chdir(tmp_path / 'four' / 'train')
    with pytest.raises(ValueError, match=r'give --data \.\.$'):
        open_dataset('.', 'train', 2)


def test_a_split_alone_has_the_labels_of_its_data_set(tmp_path):
    data = make_folder(tmp_path, ['train/ant/1.png', 'train/bee/1.png', 'val/bee/2.png'])
    assert open_dataset(os.path.join(data, 'val'), 'val', 2).labels.tolist() == [1]


@pytest.mark.parametrize('levels', ['', 'Data', 'Data/CLS-LOC'])
def test_a_level_above_names_the_folder_that_has_train(tmp_path, levels):
    root = tmp_path / 'ILSVRC'
    whole = make_folder(root / levels / 'set', ['train/ant/1.png', 'val/ant/2.png'])
    for split in ('train', 'val'):
        with pytest.raises(ValueError, match='give --data {}$'.format(whole)):
            open_dataset(str(root), split, 1)


def test_what_is_left_out_is_counted_by_kind_in_one_line(tmp_path, caplog, logged):
    data = make_folder(tmp_path, ['train/ant/1.png', 'train/ant/deeper/2.png', 'train/bee/1.png', 'train/3.png',
                                  'train/.hidden.png'])
    for name in ('ant/a.gif', 'ant/b.GIF', 'bee/c.gif', 'bee/Thumbs.db', 'bee/README', 'bee/.hidden.gif'):
        (tmp_path / 'train' / name).touch()
    dataset = open_dataset(data, 'train', 2)
    assert len(dataset.files) == 2
    assert logged() == [
        '{}: left out: 1 .db files, 3 .gif files, 1 files without an ending, 1 folders, 1 images beside the class '
        'folders'
        .format(tmp_path / 'train')]
    caplog.clear()
    assert len(list_images(str(tmp_path / 'train' / 'ant'))) == 1
    assert logged()[0].endswith('left out: 2 .gif files, 1 folders')
    caplog.clear()
    flat = make_folder(tmp_path / 'flat', ['val/a.png', 'val/b.png'])
    (tmp_path / 'flat' / 'val' / 'val.txt').write_text('a.png 3')
    assert len(open_dataset(flat, 'val').files) == 1
    assert logged()[0].endswith('left out: 1 images that val.txt does not list')
    caplog.clear()
    open_dataset(make_folder(tmp_path / 'whole', ['train/ant/1.png']), 'train', 1)
    assert not logged()


@pytest.mark.parametrize('name', ['val', 'validation', 'test'])
def test_validation_labels_are_those_of_the_training_folders(tmp_path, name):
    data = make_folder(tmp_path, ['train/ant/1.png', 'train/bee/1.png', name + '/bee/2.png'])
    validation = open_dataset(data, 'val', 2)
    assert validation.labels.tolist() == [1] and base_names(validation) == ['2.png']


@pytest.mark.parametrize('place', ['val.txt', 'val/val.txt'])
@pytest.mark.parametrize('label', ['207', 'n02099601'])
def test_flat_validation_takes_labels_from_the_list(tmp_path, place, label):
    data = make_folder(tmp_path, ['val/b.JPEG', 'val/a.JPEG', 'val/not listed.JPEG'])
    (tmp_path / place).write_text('b.JPEG {}\n\na.JPEG\t0\n'.format(label))
    validation = open_dataset(data, 'val', 1000)
    assert base_names(validation) == ['a.JPEG', 'b.JPEG'] and validation.labels.tolist() == [0, 207]
    assert validation.classes == synsets()


def test_an_image_is_loaded_as_it_is_stored_with_its_label(tmp_path):
    dataset = open_dataset(make_folder(tmp_path, ['train/ant/1.png', 'train/bee/2.png', 'train/bee/3.png']), 'train', 2)
    content, label = dataset.load(1)
    assert content == (tmp_path / 'train' / 'bee' / '2.png').read_bytes() and label == 1
    assert (decode_image(content) == read_image(dataset.files[1])).all()
    os.remove(dataset.files[2])
    with pytest.raises(Unreadable, match='3.png: No such file or directory$'):
        dataset.load(2)


def test_class_names_of_a_checkpoint_decide_the_labels(tmp_path):
    data = make_folder(tmp_path, ['train/ant/1.png', 'train/bee/1.png'])
    dataset = open_dataset(data, 'train', 3, classes=['bee', 'cow', 'ant'])
    assert dataset.labels.tolist() == [2, 0] and dataset.classes == ['bee', 'cow', 'ant']


def test_only_visible_image_files_count(tmp_path):
    names = ['a.JPEG', 'b.jpg', 'c.PNG', 'd.bmp', 'e.webp', 'f.ppm', 'g.tif', 'h.TIFF']
    make_folder(tmp_path / 'train' / 'ant', names + ['.hidden.png'])
    make_folder(tmp_path / 'train' / '.cache', ['x.png'])
    (tmp_path / 'train' / 'ant' / 'Thumbs.db').write_text('')
    (tmp_path / 'train' / 'ant' / 'folder.png').mkdir()
    dataset = open_dataset(str(tmp_path), 'train', 1)
    assert base_names(dataset) == names and dataset.classes == ['ant']
    assert list_images(str(tmp_path / 'train' / 'ant')) == dataset.files


def test_digits_hold_every_sixth_image_back_for_validation(digits_cache):
    train, validation = open_dataset(None, 'train', 10), open_dataset(None, 'val', 10)
    assert (len(train.files), len(validation.files), train.name) == (1498, 299, 'digits')
    assert train.classes == [str(digit) for digit in range(10)]
    assert sorted(base_names(validation)) == ['{:04d}.png'.format(k) for k in range(5, 1797, 6)]
    assert sorted(base_names(train) + base_names(validation)) == ['{:04d}.png'.format(k) for k in range(1797)]


def test_digits_are_full_contrast_grey_images_of_their_label(digits_cache):
    from sklearn.datasets import load_digits
    dataset = open_dataset(None, 'train', 10)
    source = load_digits()
    for index in range(0, len(dataset.files), 100):
        image, number = read_image(dataset.files[index]), int(base_names(dataset)[index][:4])
        assert image.shape == (32, 32, 3) and image.min() == 0 and image.max() >= 235
        assert (image == image[:, :, :1]).all() and dataset.labels[index] == source.target[number]
        small = cv2.resize(image[:, :, 0], (8, 8), interpolation=cv2.INTER_AREA)
        assert np.corrcoef(small.ravel(), source.images[number].ravel())[0, 1] > 0.95


@pytest.mark.slow
def test_processes_that_start_together_see_one_complete_set_of_digits(tmp_path):
    count = "from third_party.imagenet_utils import open_dataset; print(len(open_dataset(None, 'train', 10).files))"
    environment = dict(os.environ, XDG_CACHE_HOME=str(tmp_path))
    processes = [subprocess.Popen([sys.executable, '-c', count], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
                 for _ in range(3)]
    assert [process.communicate()[0] for process in processes] == [b'1498\n'] * 3
    assert os.listdir(str(tmp_path / 'smooth-adversarial-training')) == ['digits-v1']


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    with pytest.raises(ValueError, match='XDG_CACHE_HOME'):
        open_dataset(None, 'train', 10)


@pytest.mark.parametrize('size', [0, 300])
def test_a_full_disk_leaves_no_digits_behind(tmp_path, monkeypatch, size):
    """As on a full disk, files cannot become longer than a limit: 0 bytes, or less than a digit takes."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(ValueError, match='cannot write the embedded digits'):
            open_dataset(None, 'val', 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path / 'smooth-adversarial-training') == []


def test_damaged_digits_are_named(digits_cache, tmp_path, monkeypatch):
    shutil.copytree(digits_cache, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    folder = tmp_path / 'smooth-adversarial-training' / 'digits-v1'
    assert len(open_dataset(None, 'val', 10).files) == 299
    os.truncate(folder / 'train' / '0' / '0000.png', 0)
    os.remove(folder / 'val' / '5' / '0005.png')
    for split in ('train', 'val'):
        with pytest.raises(ValueError, match='{} are damaged: 2 of their 1797 files '
                                             '.*remove that folder'.format(folder)):
            open_dataset(None, split, 10)


@pytest.mark.parametrize('names, split, num_classes, message', [
    ([], 'train', 10, 'no class folders and no images'),
    (['train/1.png'], 'train', 10, 'no class folders in .*one sub-folder of images per class'),
    (['train/ant/readme.txt'], 'train', 10, 'no images in the 1 class folders'),
    (['train/ant/1.png'], 'val', 10, 'train/ is there, but no val/ or validation/ or test/'),
    (['val/ant/1.png'], 'train', 10, 'val/ is there, but no train/'),
    (['train/ant/1.png', 'val/bee/1.png'], 'val', 10, r"1 of its 1 class folders \(first: 'bee'\)"),
    (['train/ant/1.png', 'train/bee/1.png'], 'train', 1, 'train/bee/1.png has label 1.*end at 0; give --num-classes 2'),
    (['train/n02099601/1.png'], 'train', 100, '--num-classes 100: .*n02099601/1.png has label 207'),
    (['val/1.png'], 'val', 10, r'no list of its labels: write .*val\.txt or .*val/val\.txt'),
    (['train/ant/1.png'], 'dev', 10, "'dev': choose from"),
])
def test_folders_that_do_not_fit_are_refused(tmp_path, names, split, num_classes, message):
    make_folder(tmp_path, [name for name in names if name.endswith('.png')])
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=message) as error:
        open_dataset(str(tmp_path), split, num_classes)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('text, message', [
    ('1.png 0\n9.png 1\n8.png 1\n', r"names 2 files that are not in .*first '8\.png'"),
    ('1.png 1000\n', r"line 1: '1\.png 1000' is not '<file name> <label>' with a label of 0 to 999"),
    ('\n1.png n00000000\n', 'line 2'),
    ('1.png\n', 'line 1'),
    ('1.png 0\n1.png 0\n', "line 2: '1.png' is listed twice"),
    ('\n', 'is empty'),
    ('1.png 999\n', '--num-classes 10: .*1.png has label 999'),
])
def test_lists_that_do_not_fit_are_refused(tmp_path, text, message):
    data = make_folder(tmp_path, ['val/1.png'])
    (tmp_path / 'val.txt').write_text(text)
    with pytest.raises(ValueError, match=message):
        open_dataset(data, 'val', 10)


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(ValueError, match="--data '.*nowhere': no such directory"):
        open_dataset(str(tmp_path / 'nowhere'), 'train', 10)


def test_a_class_unknown_to_the_checkpoint_is_refused(tmp_path):
    data = make_folder(tmp_path, ['train/ant/1.png', 'train/bee/1.png'])
    with pytest.raises(ValueError, match="first: 'bee'.*from the checkpoint"):
        open_dataset(data, 'train', 2, classes=['ant', 'cow'])


def test_the_two_import_names_give_the_same_objects():
    """`import imagenet_utils` from its own folder, in a directory that knows nothing of the repository."""
    code = ("import sys; sys.path.insert(0, {!r}); import imagenet_utils as a; from third_party import imagenet_utils "
            "as b; assert a.open_dataset is b.open_dataset and 'tensorflow' not in sys.modules").format(
                os.path.join(ROOT, 'third_party'))
    subprocess.run([sys.executable, '-c', code], cwd='/', check=True)


def test_a_network_of_1001_outputs_has_the_background_before_imagenets_classes(tmp_path):
    # As the labels of the EfficientNet release's records, 1 to 1000.
    root = make_folder(tmp_path, ['val/n01440764/a.png', 'val/n15075141/b.png'])
    dataset = open_dataset(root, 'val', 1001)
    assert dataset.labels.tolist() == [1, 1000] and dataset.classes[:2] == ['background', 'n01440764']
    assert open_dataset(root, 'val', 1000).labels.tolist() == [0, 999]
