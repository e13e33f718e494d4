"""What was meant by a word that is none: the field's other names for it, or the nearest spelling."""
import difflib
import re
from typing import Iterable, List, Mapping


def nearest(word: str, words: Iterable[str], most: int = 1) -> List[str]:
    """Of ``words`` those that are spelt most alike, case and signs aside; the nearest first, ``most`` of them or fewer.

    What begins or ends like the word alone is not taken for it: '--batch' for '--batch-norm-momentum'.
    """
    plain = {_plain(each): each for each in words}
    return [plain[each] for each in difflib.get_close_matches(_plain(word), plain, n=most, cutoff=0.65)]


def did_you_mean(word: str, words: Iterable[str], others: Mapping[str, str] = {}) -> str:
    """'; did you mean WORD?' for a word that is none of ``words``, or '' where nothing is near.

    Args:
        others (dict): what the field calls it, as a regular expression in lower case with - for _, to what is to be
            typed, in which {0} is its first group.
    """
    for pattern, meant in others.items():
        found = re.fullmatch(pattern, word.lower().replace('_', '-'))
        if found:
            return '; did you mean {}?'.format(meant.format(*found.groups()))
    near = nearest(word, words)
    return '; did you mean {}?'.format(near[0]) if near else ''


def _plain(word: str) -> str:
    return re.sub(r'[\W_]', '', word.lower())
