"""What ``--eval-directory`` leaves: a table of its files, in one of two formats, and a sheet of its images."""
import csv
import io

from files.pictures import image_grid

HEADER = ['file', 'class_index', 'class_name', 'probability', 'unreadable']
SHOWN, _A_ROW = 48, 8  # images of a sheet at most, and in each of its rows
_SIDE = 128  # pixels at least, for captions to be read


def as_csv(files, found, names, reasons):
    """The table as CSV (RFC 4180): a line for each file, in their order.

    Args:
        files (list of str): by index. found (Classified). names (list of str): of the classes; may be shorter than they
            are many. reasons (dict): unreadable file to what is wrong with it.
    Returns:
        str: with lines that end as the RFC wants them. Of a prediction that is none (-1) there is no name and no
        probability.
    """
    known = {int(k): (int(label), float(share)) for k, label, share in zip(*found)}
    text = io.StringIO(newline='')
    writer = csv.writer(text)
    writer.writerow(HEADER)
    for number, file in enumerate(files):
        if number not in known:
            writer.writerow([file, '', '', '', reasons[file]])
            continue
        label, share = known[number]
        writer.writerow([file, label, _name(names, label), '{:.6f}'.format(share) if label >= 0 else '', ''])
    return text.getvalue()


def as_released(files, found):
    """The originals' lines, ``path,class index``, of the files that could be read; nothing is quoted."""
    return ''.join('{},{}\n'.format(files[k], label) for k, label in zip(found.index, found.prediction))


def contact_sheet(images, captions):
    """A picture of images with captions under them, in rows.

    Args:
        images (list): uint8 or float [S,S,3], BGR, 0-255. captions (list of str): one for each.
    Returns:
        np.ndarray: uint8 [H,W,3] in RGB.
    """
    rows = range(0, len(images), _A_ROW)
    return image_grid([[image[..., ::-1] for image in images[k:k + _A_ROW]] for k in rows],
                      [captions[k:k + _A_ROW] for k in rows], least=_SIDE)


def caption(names, label, share, below=''):
    """Two lines for an image: its class, and the probability with what else is to be read there."""
    lines = ('no finite logits', below) if label < 0 else (
        _name(names, label) or 'class {}'.format(label), '{:.1f}% {}'.format(100 * share, below))
    return '\n'.join(' '.join(line.split()) for line in lines)


def _name(names, label):
    return names[label] if 0 <= label < len(names) else ''
