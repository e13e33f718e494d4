"""What a published checkpoint is: files, what ``main.py`` needs to judge it, and the figures its authors give."""
import os
from typing import Mapping, NamedTuple, Optional, Tuple

DRIVE = 'https://drive.google.com/uc?id='


class File(NamedTuple):
    """A file's name and its address, on Google Drive or any web server; its SHA-256 where that is published."""
    name: str
    address: str
    sha256: str = ''


class Figures(NamedTuple):
    """Published accuracies in %, None where there are none.

    size (int): pixels per side of the images. attacked, success: accuracy, and attack success rate where it is given,
    for each of the release's attacks.
    """
    size: int
    clean: Optional[float] = None
    attacked: Tuple[Optional[float], ...] = ()
    success: Tuple[float, ...] = ()


class Under(NamedTuple):
    """What a figure was made with. title: above its column. name, norm, epsilon (pixel levels), targeted: as the
    attackers of ``attacks`` have them; no name where the release does not tell enough."""
    title: str
    name: str
    norm: str
    epsilon: float
    targeted: bool = False


class Release(NamedTuple):
    """Where models come from. attacks: what the figures were made with, which ``title`` says in words."""
    title: str
    attacks: Tuple[Under, ...]
    page: str
    note: str = ''


class Model(NamedTuple):
    """A published model.

    files: the last one makes a checkpoint whole; () where only ``pages`` offer it, from which it is saved by hand as
    ``prefix``. flags: of main.py, which say what network it is; None for a folder of models that the release does not
    name. judged_flags: those that only judging needs. prefix: the checkpoint's name among the files. pages: of shared
    folders that hold it, the newest address first. epochs: of its training, where published. robustbench: its name
    there.
    """
    name: str
    release: Release
    figures: Tuple[Figures, ...]
    files: Tuple[File, ...]
    prefix: str
    flags: Optional[Tuple[str, ...]] = None
    judged_flags: Tuple[str, ...] = ()
    pages: Tuple[str, ...] = ()
    epochs: Optional[int] = None
    robustbench: str = ''

    def figures_at(self, size: int) -> Optional[Figures]:
        """Those for images of ``size`` pixels a side; None where there are none."""
        return next((figures for figures in self.figures if figures.size == size), None)

    def published_under(self, figures: Figures, attack: Mapping[str, object]) -> Optional[float]:
        """The accuracy that ``figures``, of this model, have under an attack; None where there is none.

        Args:
            attack (dict): ``describe()`` of an attacker.
        """
        found = dict(zip(self.release.attacks, figures.attacked))
        return next((figure for under, figure in found.items() if under.name and all(
            attack.get(key, False) == getattr(under, key) for key in ('name', 'norm', 'epsilon', 'targeted'))), None)

    def path(self, folder: str) -> str:
        """Where its checkpoint lies below ``folder``, as ``--load`` takes it."""
        return os.path.join(folder, self.name, self.prefix)

    def is_in(self, folder: str) -> bool:
        """bool: whether all its files are there; each has its name only when it is whole."""
        names = [file.name for file in self.files] or [self.prefix]
        return all(os.path.isfile(os.path.join(folder, self.name, name)) for name in names)

    def check_network(self) -> None:
        """Raises ValueError if it is not one model, of a network that is told."""
        if self.flags is None:
            raise ValueError("'{}' is a folder of models, which the release does not name; save one of {} and give it "
                             'as --load FILE, with --arch and --model-name'.format(self.name, ' or '.join(self.pages)))
