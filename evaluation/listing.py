"""What evaluations leave of single images: a table of a folder's files, in one of two formats, and pictures."""
import csv
import io

from files.pictures import image_grid, magnified_difference

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
    lines = in_a_word(names, label), '{:.1f}% {}'.format(100 * share, below) if label >= 0 else below
    return '\n'.join(' '.join(line.split()) for line in lines)


def attacked_sheet(samples, names, rows=('label: said', 'attacked', 'difference')):
    """A picture of images, of the same under an attack, and of what that has added to them, a row each.

    Args:
        samples (list of Sample). names (list of str): of the classes. rows (tuple of str): names of the rows; there are
            as many as these.
    Returns:
        np.ndarray: uint8 [H,W,3] in RGB.
    """
    columns = [(sample.image, sample.attacked, magnified_difference(sample.image, sample.attacked)[0])
               for sample in samples]
    said = [['{}: {}'.format(in_a_word(names, s.label), in_a_word(names, s.prediction)) for s in samples],
            [in_a_word(names, s.attacked_prediction) for s in samples], [''] * len(samples)]
    return image_grid(list(zip(*columns))[:len(rows)], said[:len(rows)], rows)


def in_a_word(names, label):
    """A label or a prediction."""
    return 'not finite' if label < 0 else _name(names, label) or 'class {}'.format(label)


def _name(names, label):
    return names[label] if 0 <= label < len(names) else ''
