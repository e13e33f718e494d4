"""The modes of ``main.py``, and in which of them each flag means something; elsewhere a typed flag is refused.

A flag that would be ignored lets a command say one thing and a figure mean another.
"""
import argparse

TRAINING, FAKE, SERVED, EVAL, DIRECTORY = (
    'training', '--fake', 'training from a data server', '--eval', '--eval-directory')
_TRAINED = TRAINING, FAKE
_JUDGED = TRAINING, EVAL
_EVERY = TRAINING, FAKE, EVAL, DIRECTORY

# Destinations of the parser's flags, by the modes in which they mean something. Training with --fake has no images and
# no evaluations; SERVED stands beside TRAINING or FAKE. What --eval and --eval-directory do with a network needs
# neither batch norm's update nor what is drawn in training.
_FLAGS_OF = {
    _EVERY: 'load eval eval_directory moving_average_decay batch depth arch model_name width_coefficient '
            'depth_coefficient input_scaling res2_bottleneck group activation_name input_size num_classes padding '
            'batch_norm_epsilon data_format recipe ignore_checkpoint_flags',
    _TRAINED: 'logdir resume resume_if_any starting_epoch epochs steps_per_epoch keep_checkpoints fake serve_address '
              'prob_start_from_clean update_gradient label_smoothing optimizer accumulate gradient_compression '
              'weight_decay base_lr warmup_epochs lr_drop_epochs lr_decay_epochs dropout_rate survival_prob '
              'batch_norm_momentum sync_batch_norm tf32',
    (TRAINING,): 'eval_every augment_name randaug_num_layers randaug_magnitude more_eval_attack_iter '
                 'eval_attack_epsilon eval_attack_step_size',
    (SERVED,): 'serve_timeout data_timeout no_zmq_ops',
    _JUDGED: 'data eval_attack_iter',
    (TRAINING, EVAL, DIRECTORY): 'augmentation',
    (TRAINING, FAKE, EVAL): 'seed attack_iter attack_epsilon attack_step_size targeted attack_precision xla '
                            'use_fp16xla attack_gradient recompute',
    (EVAL,): 'results_dir resume_eval attack norm autoattack_version attack_target early_stop',
    (EVAL, DIRECTORY): 'allow_unreadable',
    (DIRECTORY,): 'prediction_file',
}
MODES_OF = {name: modes for modes, names in _FLAGS_OF.items() for name in names.split()}

# What to type instead of a flag of another mode.
_INSTEAD = {(EVAL, 'eval_attack_epsilon'): '--attack-epsilon', (EVAL, 'eval_attack_step_size'): '--attack-step-size',
            (TRAINING, 'results_dir'): '--logdir', (FAKE, 'results_dir'): '--logdir'}


def typed(parser, argv):
    """What ``argv`` itself sets, also to a flag's default.

    Args:
        parser (argparse.ArgumentParser): ``get_parser()``'s. argv (list of str).
    Returns:
        dict: destinations to values.
    """
    unset = object()
    known = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args([])), unset))  # defaults replace nothing
    return {name: value for name, value in vars(parser.parse_args(argv, known)).items() if value is not unset}


def spelling(name, value):
    """The flag that set a destination to ``value``, as it is typed."""
    return '--untargeted' if (name, value) == ('targeted', False) else '--' + name.replace('_', '-')


def modes_of(args, launched):
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


def refusal(flags, modes):
    """Why the flags cannot stand together, in a line, or None.

    Args:
        flags (dict): see ``typed``. modes: see ``modes_of``.
    """
    for name, value in flags.items():
        wanted = MODES_OF[name]
        if not set(modes) & set(wanted):
            here = modes[0] if SERVED not in wanted or modes[0] in (EVAL, DIRECTORY) else \
                'a process that reads or makes its images itself; --serve-address names a server'
            shown = [mode for mode in wanted if mode != FAKE or TRAINING not in wanted]
            instead = _INSTEAD.get((modes[0], name))
            return '{} is for {}, not for {}; {}'.format(
                spelling(name, value), ' and '.join(shown), here,
                'type {}'.format(instead) if instead else 'leave it out')
    return None
