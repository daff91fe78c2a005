"""Encoders of a policy beyond the linear layer, and running normalisation.

`make_encoder` chooses by the shape of an observation. All take [rows, *shape] and give [rows, hidden].
"""

import math

import torch
from torch import Tensor, nn


def make_encoder(shape: tuple[int, ...], hidden: int, parts: list[tuple[int, ...]] | None) -> nn.Module:
    """Images and grids are convolved, parts encoded each by its shape; for the rest a plain linear layer."""
    if parts:
        return Parts(parts, hidden)
    kind = next((kind for kind in (Convolution, Grid) if kind.fits(shape)), None)
    return kind(shape, hidden) if kind else nn.Linear(math.prod(shape), hidden)


class Parts(nn.Module):
    """Observations of several parts, as of a Dict or Tuple: each encoded by its shape, all put together by
    a linear layer. `parts` are their shapes, in the order in which a flat observation holds them."""

    def __init__(self, parts: list[tuple[int, ...]], hidden: int):
        super().__init__()
        self.parts, self.sizes = parts, [math.prod(shape) for shape in parts]
        self.encoders = nn.ModuleList(make_encoder(shape, hidden, None) for shape in parts)
        self.linear = nn.Linear(len(parts) * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Flat observations [rows, numbers] to [rows, hidden]."""
        encoded = []
        for shape, part, encoder in zip(self.parts, x.split(self.sizes, -1), self.encoders, strict=True):
            plain = isinstance(encoder, nn.Linear)
            encoded.append(torch.relu(encoder(part if plain else part.unflatten(-1, shape))))
        return self.linear(torch.cat(encoded, -1))


class Entities(nn.Module):
    """Sets of entities [rows, entities, features] in any order: one linear layer for each, the maximum over
    those that are there (Qi et al. 2017, "PointNet"). Features that are all 0 are of an entity that is not.
    """

    def __init__(self, features: int, hidden: int):
        super().__init__()
        self.each, self.linear = nn.Linear(features, hidden), nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        there = (x != 0).any(-1, keepdim=True)
        each = torch.relu(self.each(x)).masked_fill(~there, 0)  # relu is never below 0
        return self.linear(each.amax(-2))


class Grid(nn.Module):
    """Grids [rows, channels, height, width] of 3 x 3 cells or more: two 3 x 3 convolutions that keep the
    size, and a linear layer."""

    def __init__(self, shape: tuple[int, ...], hidden: int, channels: int = 16):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(c, channels, 3, padding=1) for c in (shape[0], channels))
        self.linear = nn.Linear(channels * shape[1] * shape[2], hidden)

    @staticmethod
    def fits(shape: tuple[int, ...]) -> bool:
        return len(shape) == 3 and min(shape[1:]) >= 3

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.linear(x.flatten(1))


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
        """Adds numbers [..., *shape]."""
        x = x.reshape(-1, *self.mean.shape).double()
        self.merge(len(x), x.mean(0), x.var(0, correction=0))

    def merge(self, n: int, mean: Tensor, variance: Tensor) -> None:
        """Adds n numbers by their moments (Chan, Golub and LeVeque 1983, equation 2.1)."""
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
