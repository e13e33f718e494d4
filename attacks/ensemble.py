"""Attackers one after another."""
from attacks.threat import ANY_STEP


class Ensemble:
    """Attackers that run one after another, each on the images that still stand.

    Attributes:
        name, norm (str). epsilon (float): in pixel levels. attackers (list): of different names; each stays where it
            has succeeded.

    Raises:
        ValueError: two attackers have the same name.
    """

    verdict = ANY_STEP  # see PGDAttacker.verdict

    def __init__(self, name, norm, epsilon, attackers):
        names = [a.name for a in attackers]
        if len(set(names)) < len(names):
            raise ValueError('{}: an attack is listed twice: {}'.format(name, ', '.join(names)))
        self.name, self.norm, self.epsilon, self.attackers = name, norm, epsilon, attackers

    def describe(self):
        """JSON-ready, as an attacker's, with the names of its parts."""
        return {'name': self.name, 'norm': self.norm, 'epsilon': self.epsilon, 'targeted': False,
                'attacks': [a.name for a in self.attackers]}
