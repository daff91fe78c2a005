"""Parts of a policy beyond the default: convolution for images, running normalisation.

`cleanpuffer.Policy` encodes images with `Convolution`, and everything else with a linear layer.
"""

import torch
from torch import Tensor, nn


class Convolution(nn.Module):
    """Images [rows, channels, height, width] to [rows, hidden]: three convolutions and a linear layer.

    The network of Mnih et al. 2015, "Human-level control through deep reinforcement learning", with `hidden`
    outputs. Sides of 36 pixels or more.
    """

    SMALLEST = 36  # pixels: what the three kernels need

    def __init__(self, shape: tuple[int, ...], hidden: int):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(*channels, kernel, stride)
            for channels, kernel, stride in (((shape[0], 32), 8, 4), ((32, 64), 4, 2), ((64, 64), 3, 1))
        )
        with torch.no_grad():
            features = self.convolve(torch.zeros(1, *shape)).shape[1]
        self.linear = nn.Linear(features, hidden)

    @staticmethod
    def fits(shape: tuple[int, ...]) -> bool:
        return len(shape) == 3 and min(shape[1:]) >= Convolution.SMALLEST

    def convolve(self, images: Tensor) -> Tensor:
        for layer in self.layers:
            images = torch.relu(layer(images))
        return images.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.convolve(images))


class Normalizer(nn.Module):
    """Mean and variance of all that was seen so far, and numbers brought to mean 0 and variance 1 by them.

    They are buffers, so they are saved with the policy. Until the first `update` nothing changes.
    """

    def __init__(self, shape: tuple[int, ...] = ()):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Adds numbers [..., *shape] (Chan, Golub and LeVeque 1983, equation 2.1)."""
        x = x.reshape(-1, *self.mean.shape).double()
        n, mean, variance = len(x), x.mean(0), x.var(0, correction=0)
        total, difference = self.count + n, mean - self.mean
        squares = self.variance * self.count + variance * n + difference**2 * self.count * n / total
        self.mean += difference * n / total
        self.variance.copy_(squares / total)
        self.count.copy_(total)

    def scale(self) -> Tensor:
        """The standard deviation, bounded away from zero."""
        return (self.variance + 1e-8).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        """Numbers [..., *shape] normalised, and cut at 10 standard deviations."""
        return ((x - self.mean.float()) / self.scale().float()).clamp(-10, 10)
