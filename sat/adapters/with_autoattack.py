"""A network as AutoAttack and RobustBench call theirs: images [N,3,H,W] in [0, 1] to logits.

    adversary = autoattack.AutoAttack(forward_pass(net), norm='Linf', eps=8 / 255, device='cpu')
    adv = adversary.run_standard_evaluation(x, y, bs=100)

This project's own AutoAttack, in the graph, is ``net.attack(images, labels, 'autoattack', epsilon=8)``.
"""
import functools

import numpy as np

BOUNDS = (0, 1)


def forward_pass(net):
    """The function of a network (sat.network.Network) that gives logits float32 [N, classes] of RGB images float32
    [N,3,S,S] in [0, 1]: NumPy arrays of arrays, PyTorch tensors, through which gradients flow, of tensors."""
    def forward(x):
        return _logits(net, x) if isinstance(x, np.ndarray) else _function().apply(x, net)
    return forward


def _logits(net, x):
    return net.predict(x.transpose(0, 2, 3, 1), bounds=BOUNDS, evaluated=False)


@functools.lru_cache(maxsize=None)
def _function():
    """A network as a function of PyTorch's, which is imported where the first tensor comes."""
    import torch

    class Logits(torch.autograd.Function):
        """Computed by TensorFlow, forwards and back."""

        @staticmethod
        def forward(context, x, net):
            context.net = net
            context.save_for_backward(x)
            return torch.from_numpy(_logits(net, x.detach().cpu().numpy())).to(x)

        @staticmethod
        def backward(context, slopes):
            x, = context.saved_tensors
            image = x.detach().cpu().numpy().transpose(0, 2, 3, 1)
            found = context.net.gradient(image, slopes.cpu().numpy(), bounds=BOUNDS, evaluated=False)
            return torch.from_numpy(np.ascontiguousarray(found.transpose(0, 3, 1, 2))).to(x), None
    return Logits
