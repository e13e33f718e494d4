"""What the project must know of a kind of network: an entry of the table in ``nets``."""
import dataclasses
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Type

import numpy as np

from architectures.pytorch import PyTorch, Shapes

# Options of networks with batch norm: part of their ``Architecture.options``; others have no such flags.
BATCH_NORM = {'batch_norm_momentum': None, 'batch_norm_epsilon': None, 'sync_batch_norm': False}


@dataclasses.dataclass(frozen=True)
class Identity:
    """How a checkpoint's variables tell which network of its kind they are of.

    Attributes:
        told (tuple of str): the options that names and shapes of variables tell, in the order in which messages name
            them; the first one is always named, others where they are not the default.
        tell: shapes of variables by name -> dict of these options, or None for those of another kind. May raise
            KeyError or ValueError where a variable that all of the kind have is absent or not of its rank.
        same: these options -> what is equal for two networks with the same variables.
        details: these options -> list of str, what is to be said of such a network beside its name and classes.
    """
    told: Tuple[str, ...]
    tell: Callable[[Shapes], Optional[Dict[str, Any]]]
    same: Callable[[Mapping[str, Any]], Any] = lambda options: options
    details: Callable[[Mapping[str, Any]], List[str]] = lambda options: []


def _as_it_is(name: str, value: np.ndarray, shape: Tuple[int, ...]) -> Optional[np.ndarray]:
    """A stored array fits as it is or not at all."""
    return None


def _no_more_checks(options: Any) -> None:
    """All that there are to choose from are there."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A kind of network.

    Attributes:
        model: class of its models, made from resolved options and the arguments of ``AdvImageNetModel``; mostly a
            ``ConfiguredModel`` (``architectures.model``). It says ``channels``, ``input_scaling`` and
            ``weight_decay_variables``.
        recipe (str): of the release that published it.
        options (dict): the options of ``settings.network`` that it has of those that not all networks have,
            ``input_size`` and ``num_classes``; and their values where not given, None for the recipe's. An option that
            is not here is refused for it.
        depths (tuple of int): choices of --depth.
        sizes (dict): choices of --model-name, the first of which is the default, to options as above.
        augmentation (str): of training on images of ImageNet's kind; it also says how an evaluation crops.
        check: refuses (ValueError) resolved options that contradict each other.
        identity (Identity): None where variables are not looked at to tell it.
        activation (str): of ``smooth_activations``, where none is given; None for the recipe's.
        adapt: (variable's name, stored array of another shape, shape) -> an array of that shape with which a network
            for images of another size goes on; or None where it does not fit.
        pytorch (PyTorch): names and layouts there; None where they are not known.
        classifier (str): regular expression of the whole names of its last layer's variables, whose shapes follow the
            number of classes and which a training on other classes begins anew; None where it is not known.
    """
    model: Type[Any]
    recipe: str
    options: Mapping[str, Any]
    depths: Tuple[int, ...] = ()
    sizes: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    augmentation: str = 'imagenet'
    check: Callable[[Any], None] = _no_more_checks
    identity: Optional[Identity] = None
    activation: Optional[str] = None
    adapt: Callable[[str, np.ndarray, Tuple[int, ...]], Optional[np.ndarray]] = _as_it_is
    pytorch: Optional[PyTorch] = None
    classifier: Optional[str] = None

    def defaults(self, model_name: Optional[str] = None) -> Mapping[str, Any]:
        """The options of its own, and their values where not given.

        Args:
            model_name (str): the size; None for the default one.
        Raises:
            ValueError: it has no such size.
        """
        if not self.sizes:
            return self.options
        model_name = model_name or next(iter(self.sizes))
        if model_name not in self.sizes:
            raise ValueError('--model-name {}: choose from {} for this network'.format(
                model_name, ', '.join(self.sizes)))
        return {**self.options, 'model_name': model_name, **self.sizes[model_name]}
