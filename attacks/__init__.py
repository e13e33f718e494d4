"""Attackers: images [N,...] that a network gets wrong, near the given ones. They know images, labels and ``get_logits``."""
