"""A small vision transformer (Dosovitskiy et al. 2021) whose slots see maps, as adapters would."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kasmina.network.host import HostShape, StagedHost
from kasmina.network.hosts.options import HostOptions

CHANNELS = (96, 96, 96)
OPTIONS = {"patch": 4, "depth": 6, "heads": 3, "mlp_ratio": 2, "dropout": 0.0}
_POSITION_DEVIATION = 0.02


class Patches(nn.Module):
    """Images as a map of patches, each with what it learns of its place."""

    def __init__(self, image: tuple[int, int, int], patch: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(image[0], width, kernel_size=patch, stride=patch)
        places = torch.empty(1, width, image[1] // patch, image[2] // patch)
        self.places = nn.Parameter(nn.init.trunc_normal_(places, std=_POSITION_DEVIATION))

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) to (batch, width, rows, columns)."""
        h: Tensor = self.embedding(images) + self.places
        return h


class Block(nn.Module):
    """Self-attention and a two-layer perceptron, each normalised before and added to what came."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mixture = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, mlp_ratio * width),
            nn.GELU(),
            nn.Linear(mlp_ratio * width, width),
            nn.Dropout(dropout),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        tokens = tokens + self.dropout(self.mixture(self._attended(tokens)))
        result: Tensor = tokens + self.perceptron(tokens)
        return result

    def _attended(self, tokens: Tensor) -> Tensor:
        projected = self.queries_keys_values(self.attention_norm(tokens))
        # (batch, tokens, 3 * width) to three of (batch, heads, tokens, width / heads)
        parts = projected.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(*parts.unbind(0))
        return attended.transpose(1, 2).flatten(2)


class Blocks(nn.Module):
    """Blocks in a row, over the pixels of a map."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, h: Tensor) -> Tensor:
        """(batch, width, rows, columns) to the same."""
        tokens = self.blocks(h.flatten(2).transpose(1, 2))
        result: Tensor = tokens.transpose(1, 2).unflatten(2, h.shape[2:])
        return result


class Head(nn.Module):
    """Layer norm, the mean over all places (there is no class token), and a linear layer."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, h: Tensor) -> Tensor:
        """(batch, width, rows, columns) to (batch, classes)."""
        tokens = self.norm(h.flatten(2).transpose(1, 2))
        logits: Tensor = self.classifier(tokens.mean(1))
        return logits


def vit(shape: HostShape) -> StagedHost:
    """Groups of transformer blocks with a slot after each, all of one width.

    `channels` has the width once for each group. Options: `patch` (4) pixels along a side, `depth`
    (6) blocks in all, of which every group has as many, `heads` (3), `mlp_ratio` (2) of the
    perceptron's hidden layer to the width, `dropout` (0) after attention and perceptron. Raises
    ValueError.
    """
    channels = shape.channels or CHANNELS
    options = HostOptions("vit", shape.options, OPTIONS)
    width, groups = channels[0], len(channels)
    patch, depth, heads = (options.count(name) for name in ("patch", "depth", "heads"))
    if set(channels) != {width}:
        raise ValueError(f"channels is {channels}; the groups of a vit are all of one width")
    if width % heads:
        raise ValueError(f"channels is {channels}; {heads} heads do not divide that width")
    if depth % groups:
        raise ValueError(f"host_options depth of vit is {depth}; {groups} groups do not divide it")
    if shape.image[1] % patch or shape.image[2] % patch:
        raise ValueError(
            f"host_options patch of vit is {patch}; it does not divide images of"
            f" {shape.image[1]}x{shape.image[2]}"
        )
    stages = []
    for group in range(groups):
        blocks = [
            Block(width, heads, options.count("mlp_ratio"), options.share("dropout"))
            for _ in range(depth // groups)
        ]
        before = [Patches(shape.image, patch, width)] if group == 0 else []
        stages.append(nn.Sequential(*before, Blocks(blocks)))
    return StagedHost(stages, channels, Head(width, shape.classes))
