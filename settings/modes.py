"""The modes of ``main.py``. Each option says in which of them it means something; elsewhere a typed flag is refused.

A flag that would be ignored lets a command say one thing and a figure mean another.
"""
from typing import Any, List

TRAINING, FAKE, SERVED, EVAL, DIRECTORY = (
    'training', '--fake', 'training from a data server', '--eval', '--eval-directory')

# Training with --fake has no images and no evaluations; SERVED stands beside TRAINING or FAKE. What --eval and
# --eval-directory do with a network needs neither batch norm's update nor what is drawn in training.
EVERY = TRAINING, FAKE, EVAL, DIRECTORY
TRAINED = TRAINING, FAKE
TRAINED_ON_IMAGES = TRAINING,
FROM_SERVER = SERVED,
JUDGED = TRAINING, EVAL
WITH_IMAGES = TRAINING, EVAL, DIRECTORY
ATTACKED = TRAINING, FAKE, EVAL
FOLLOWED = TRAINING, FAKE, EVAL
EVALUATED = EVAL,
EVALUATED_OR_LISTED = EVAL, DIRECTORY
LISTED = DIRECTORY,


def modes_of(args: Any, launched: bool) -> List[str]:
    """The modes of a command: one of eval, directory, training and fake, and for these two perhaps SERVED.

    Args:
        args: ``eval``, ``eval_directory``, ``fake`` and ``serve_address``.
        launched (bool): whether mpirun or srun started this process. Its ranks ask their machine's data server.
    """
    if args.eval:
        return [EVAL]
    if args.eval_directory:
        return [DIRECTORY]
    return [FAKE if args.fake else TRAINING] + [SERVED] * bool(args.serve_address or (launched and not args.fake))
