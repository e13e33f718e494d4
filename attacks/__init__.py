"""Attackers: images [N,...] that a network gets wrong, near the given ones. They know images, truths and
``get_logits``."""
from machine.graph_mode import use_graphs

use_graphs()  # an attacker outside of ``adv_model`` too
