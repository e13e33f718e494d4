"""The exported steps' work in PyTorch, as fast as its users can have it: one answer for each line it reads."""
import torch
from torch.nn import functional as F

import torch_networks
from gpu import clock
from gpu.answers import answer
from gpu.plan import IN_TORCH

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
PIXEL = 2 / 255
EPSILON = 4 * PIXEL
DTYPES = {'tf32': torch.float32}  # others have PyTorch's own names
# What torch.compile is asked for; None: it is not. Those with a mode run as CUDA graphs, and so does 'graph'.
WAYS = {'eager': None, 'graph': None, 'reduce-overhead': 'reduce-overhead', 'max-autotune': 'max-autotune'}


def versions():
    """What is said of this side, JSON-ready."""
    found = {'PyTorch': torch.__version__}
    if DEVICE.type == 'cuda':
        found.update({'CUDA': torch.version.cuda, 'cuDNN': str(torch.backends.cudnn.version())})
    return {'versions': found, 'platform': DEVICE.type,
            'device': torch.cuda.get_device_name() if DEVICE.type == 'cuda' else 'cpu'}


def wait(_=None):
    if DEVICE.type == 'cuda':
        torch.cuda.synchronize()


def set_tf32(allowed):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def limits(size):
    """FLOP/s of a product of square matrices, and bytes/s of a copy, read and written."""
    def rate(dtype, tf32):
        set_tf32(tf32)
        left, right = (torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2))
        return 2 * size ** 3 / clock.seconds(lambda: torch.mm(left, right), wait)
    data = torch.zeros(4 * size * size, device=DEVICE)
    target = torch.empty_like(data)
    return {'bfloat16': rate(torch.bfloat16, False), 'tf32': rate(torch.float32, True),
            'float32': rate(torch.float32, False),
            'copy': 2 * 4 * data.numel() / clock.seconds(lambda: target.copy_(data), wait)}


class Work:
    """A network with its images, labels and steps.

    Args:
        said (dict): of an exported step, what its JSON file has. way (str): of ``WAYS``.
    """

    def __init__(self, said, way):
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        set_tf32(said['precision'] == 'tf32')
        self.said = said
        self.dtype = DTYPES.get(said['precision']) or getattr(torch, said['precision'])
        network = torch_networks.make_network(IN_TORCH[said['network']], False).train()
        self.copy = torch_networks.Attacked(network, self.dtype)
        for module in network, self.copy.network:
            module.to(DEVICE)
        self.copy.refresh()
        shape = [said['batch'], 3, said['size'], said['size']]
        self.image = (2 * torch.rand(shape, device=DEVICE) - 1).contiguous(memory_format=torch.channels_last)
        self.label = torch.randint(0, said['classes'], shape[:1], device=DEVICE)
        self.lower, self.upper = (torch.clamp(self.image + end, -1, 1) for end in (-EPSILON, EPSILON))
        self.attacked = self._compiled(self.copy.network, way)
        self.point = self.image.clone()
        if said['trains']:
            self.optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=1e-4, nesterov=True,
                                             fused=True)
            self.trained = self._compiled(network, way)
            self.scaler = torch.amp.GradScaler(DEVICE.type, enabled=self.dtype == torch.float16)

    @staticmethod
    def _compiled(network, way):
        return torch.compile(network, mode=WAYS[way]) if WAYS[way] else network

    def _gradient(self, x):
        """Of the cross entropy by the image, and the cross entropy [N]."""
        x = x.detach().requires_grad_()
        losses = F.cross_entropy(self.attacked(x.to(self.dtype)).float(), self.label, reduction='none')
        return torch.autograd.grad(losses.sum(), x)[0], losses.detach()

    def _project(self, x):
        return torch.minimum(torch.maximum(x, self.lower), self.upper)

    def pgd(self):
        """Steps from where the run before came to."""
        point = self.point
        for _ in range(self.said['passes']):
            gradient, _ = self._gradient(point)
            point = self._project(point + PIXEL * gradient.sign())
        self.point.copy_(point)

    def apgd(self):
        """Points of a run of APGD, with a step that is halved where it does not get on, from the last run's best."""
        point = before = best = self.point
        best_loss = torch.full_like(self.label, -torch.inf, dtype=torch.float32)
        size = torch.full([len(point), 1, 1, 1], 2 * EPSILON, device=DEVICE)
        best_gradient = torch.zeros_like(point)
        for number in range(self.said['passes']):
            gradient, loss = self._gradient(point)
            better = loss > best_loss
            row = better[:, None, None, None]
            size = torch.where(row, size, size / 2)
            best, best_gradient = torch.where(row, point, best), torch.where(row, gradient, best_gradient)
            best_loss = torch.where(better, loss, best_loss)
            point, gradient = torch.where(row, point, best), torch.where(row, gradient, best_gradient)
            share = 0.75 if number else 1.0
            climbed = self._project(point + size * gradient.sign())
            before, point = point, self._project(point + share * (climbed - point) + (1 - share) * (point - before))
        self.point.copy_(best)

    def train(self):
        """PGD-1 from a random point, and the update."""
        self.copy.refresh()
        start = self._project(self.image + torch.empty_like(self.image).uniform_(-EPSILON, EPSILON))
        gradient, _ = self._gradient(start)
        adv = self._project(start + EPSILON * gradient.sign()).detach()
        self.optimizer.zero_grad(set_to_none=True)
        # Without the cache of casts, which a CUDA graph would not make anew.
        with torch.autocast(DEVICE.type, self.dtype, enabled=self.dtype != torch.float32, cache_enabled=False):
            logits = self.trained(adv)
        loss = F.cross_entropy(logits.float(), self.label, label_smoothing=0.1)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()


def captured(work):
    """``work``, () -> None, as one CUDA graph."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # PyTorch's notes on CUDA graphs ask for a few runs beside the main stream
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def measured(said, way):
    """What is said of a step done one way: seconds of a run, and bytes."""
    torch._dynamo.reset()
    if DEVICE.type == 'cuda':
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    work = getattr(Work(said, way), said['step'])
    seconds = clock.seconds(captured(work) if way == 'graph' else work, wait)
    return {'seconds': seconds, 'bytes': torch.cuda.max_memory_allocated() if DEVICE.type == 'cuda' else None}


if __name__ == '__main__':
    answer({'versions': versions, 'limits': limits, 'step': measured})
