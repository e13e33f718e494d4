"""AutoAttack (Croce and Hein 2020, "Reliable evaluation of adversarial robustness", key AA; in L1: Croce and Hein 2021,
"Mind the box", key MB): APGD, FAB and Square as attackers of the threat model in ``attacks/threat.py``.

The numbers and rules are those of the authors' published code (github.com/fra31/auto-attack), by which robustness is
compared; ``ensemble.py`` has its versions. Inside, images are flat, float32 [N, elements] in [0, 1], and epsilon is in
these units; ``attacker.py`` converts, once.
"""
