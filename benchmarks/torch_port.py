"""The looped transformer in PyTorch, written for the benchmarks: the same function of the same
weights (its parameters have the names of `eqloop.interop.to_paper_state_dict`), written to be fast.

Internal recall with outer normalisation on full attention: the model of `benchmarks/step.py`. What
does not change over the loop (`W_h e + b`, rotary tables) is computed once, outside it; query, key
and value are one product; norms and attention are PyTorch's own fused functions, with an explicit
attention to choose from.
"""

# pyright: reportMissingImports=false
# PyTorch is not a dependency of the package: see benchmarks/requirements.txt.

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eqloop.nn import rotary_tables


class RMSNorm(nn.Module):
    """`nn.RMSNorm` with the machine epsilon."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, torch.finfo(x.dtype).eps)


class Attention(nn.Module):
    """Attention over all cells; `explicit` spells out the softmax instead of calling PyTorch's
    `scaled_dot_product_attention`."""

    def __init__(self, grid: tuple[int, ...], width: int, heads: int, explicit: bool):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.q_norm, self.k_norm = RMSNorm(width // heads), RMSNorm(width // heads)
        self.heads, self.explicit = heads, explicit
        cos, sin = (torch.tensor(t).flatten(0, -2) for t in rotary_tables(grid, width // heads))
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = self.cos, self.sin
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        batch, cells, width = x.shape
        q, k, v = self.qkv(x).view(batch, cells, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(self.rotate(q)), self.k_norm(self.rotate(k))
        if self.explicit:
            scores = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
            out = torch.softmax(scores, -1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(out.transpose(1, 2).reshape(batch, cells, width))


class Block(nn.Module):
    """`c = W_x z + r;  z <- N(z + F(c))` for F in attention, MLP."""

    def __init__(self, grid: tuple[int, ...], width: int, heads: int, explicit: bool):
        super().__init__()
        self.Wx, self.Wh = nn.Linear(width, width), nn.Linear(width, width)
        self.attn = Attention(grid, width, heads, explicit)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.post_norm_func = RMSNorm(width)

    def inject(self, e: Tensor) -> Tensor:
        return self.Wh(e) + self.Wx.bias

    def forward(self, z: Tensor, r: Tensor) -> Tensor:
        z = self.post_norm_func(z + self.attn(F.linear(z, self.Wx.weight) + r))
        return self.post_norm_func(z + self.mlp(F.linear(z, self.Wx.weight) + r))


class LoopedTransformer(nn.Module):
    """(batch, cells, channels) -> logits (batch, cells, classes) after `steps` iterations."""

    def __init__(
        self,
        grid: tuple[int, ...],
        channels: int,
        classes: int,
        width: int = 256,
        heads: int = 8,
        *,
        explicit: bool = False,
    ):
        super().__init__()
        self.projection = nn.Linear(channels, width)
        self.recur_blocks = nn.ModuleList([Block(grid, width, heads, explicit)])
        self.head = nn.Sequential(
            RMSNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, classes)
        )

    def forward(self, x: Tensor, steps: int) -> Tensor:
        block = self.recur_blocks[0]
        z = self.projection(x)
        r = block.inject(z)
        for _ in range(steps):
            z = block(z, r)
        return self.head(z)
