"""What a training says after each epoch, in one line."""
from evaluation.during_training import attack_name, monitored_name, prefix
from ranks.terminal import say


class EpochLine:
    """Says what an epoch has found, as a listener of ``FollowEpochs``; see ``in_words``.

    Args:
        epochs (int): of the run.
        attacker (Attacker): of the training. watching (Attacker): of the evaluations, which decides what is best; None
            without evaluations.
    """

    def __init__(self, epochs, attacker, watching):
        self.epochs, self.accuracy = epochs, training_accuracy_under(attacker)
        self.watched = watching and monitored_name(watching)[len(prefix(False)):]

    def __call__(self, records):
        say(self.in_words(records[-1]))

    def in_words(self, epoch):
        """A line on an ``Epoch``: with an evaluation clean and robust accuracy, else the training accuracy by its name,
        and the cost; the averaged weights' where there are some, the steps that were skipped if any were, and the time.

        Returns:
            str: of some 80 characters where the weights are not averaged and there is one attack.
        """
        training = '' if epoch.train_error is None else '{} {:.1%}'.format(self.accuracy, 1 - epoch.train_error)
        parts = []
        if epoch.judged:
            parts += [self._judged(epoch.judged, averaged) for averaged in (False, True)]
            training = training.replace('training accuracy', 'training', 1)
        parts.append(training)
        if not epoch.judged and epoch.cost is not None:
            parts.append('cost {:.4g}'.format(epoch.cost))
        if epoch.skipped_steps:
            parts.append('{} step{} skipped, loss scale {:g}'.format(
                epoch.skipped_steps, 's' * (epoch.skipped_steps > 1), epoch.loss_scale))
        if epoch.seconds is not None:
            parts.append(duration(epoch.seconds + (epoch.evaluation_seconds or 0)))
        return 'epoch {}/{}: {}'.format(epoch.number, self.epochs, ', '.join(filter(None, parts)) or 'no step was left')

    def _judged(self, judged, averaged):
        found = ['{} {:.1%}'.format('robust' if each.attack == self.watched else attack_name(each.attack),
                                    each.top1_accuracy) for each in judged if each.averaged == averaged]
        return ('averaged weights: ' if averaged and found else '') + ', '.join(found)


def training_accuracy_under(attacker):
    """What the training images that the network gets right are called: of clean or of attacked images."""
    return 'training accuracy' + (' under {}'.format(attacker.name) if attacker.parts else '')


def duration(seconds):
    """'0:42', '21:07' or '1:02:03'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return '{}:{:02}:{:02}'.format(hours, minutes, seconds) if hours else '{}:{:02}'.format(minutes, seconds)
