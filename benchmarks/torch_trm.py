"""TRM with an MLP over cells in PyTorch, written from its equations in its authors' layout: the
same function of the same weights as `eqloop.recursive.RecursiveModel` (its parameters have the
names of `eqloop.interop.to_sibling_state_dict`).

Gate and up are one product; the mixer transposes its input to (batch, features, positions) and
back. The loss is that of the authors: stablemax in float64, and binary cross-entropy of the first
output of the q head.
"""

# pyright: reportMissingImports=false
# PyTorch is not a dependency of the package: see benchmarks/requirements.txt.

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eqloop.nn import swiglu_width


def rms(x: Tensor, eps: float = 1e-5) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


class SwiGLU(nn.Module):
    """`W_down (silu(gate) up)`, gate and up from one product."""

    def __init__(self, width: int, ratio: int = 4):
        super().__init__()
        hidden = swiglu_width(width, ratio)
        self.gate_up_proj = nn.Linear(width, 2 * hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    """`x <- rms(x + mlp(x))` over the positions of each feature, then over its features."""

    def __init__(self, positions: int, width: int):
        super().__init__()
        self.mlp_t, self.mlp = SwiGLU(positions), SwiGLU(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        x = rms(x + self.mlp_t(x)).transpose(1, 2)
        return rms(x + self.mlp(x))


class Net(nn.Module):
    """`net(z, i) = blocks(z + i)`."""

    def __init__(self, positions: int, width: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList([Block(positions, width) for _ in range(layers)])

    def forward(self, z: Tensor, i: Tensor) -> Tensor:
        x = z + i
        for layer in self.layers:
            x = layer(x)
        return x


class Named(nn.Module):
    """One array under the name that the authors give it."""

    def __init__(self, name: str, *shape: int):
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.zeros(shape)))


class TRM(nn.Module):
    """One segment: states (batch, extra + cells, width) -> states, class scores, q."""

    def __init__(
        self,
        cells: int,
        vocabulary: int,
        width: int,
        extra: int,
        layers: int,
        high_cycles: int,
        low_cycles: int,
    ):
        super().__init__()
        self.embed_tokens = Named("embedding_weight", vocabulary, width)
        self.puzzle_emb = Named("weights", 1, width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.q_head = nn.Linear(width, 2)
        self.L_level = Net(extra + cells, width, layers)
        self.extra, self.high_cycles, self.low_cycles = extra, high_cycles, low_cycles

    def embed(self, inputs: Tensor) -> Tensor:
        width = self.lm_head.in_features
        tokens = F.embedding(inputs, self.embed_tokens.embedding_weight)
        puzzle = F.pad(self.puzzle_emb.weights, (0, (self.extra - 1) * width))
        puzzle = puzzle.view(1, self.extra, width).expand(len(inputs), -1, -1)
        return math.sqrt(width) * torch.cat([puzzle, tokens], 1)

    def cycle(self, z_H: Tensor, z_L: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(self.low_cycles):
            z_L = self.L_level(z_L, z_H + e)
        return self.L_level(z_H, z_L), z_L

    def forward(
        self, z_H: Tensor, z_L: Tensor, inputs: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the states, detached, the class scores, and the loss, a sum over the rows."""
        e = self.embed(inputs)
        with torch.no_grad():
            for _ in range(self.high_cycles - 1):
                z_H, z_L = self.cycle(z_H, z_L, e)
        z_H, z_L = self.cycle(z_H, z_L, e)
        logits, q = self.lm_head(z_H[:, self.extra :]), self.q_head(z_H[:, 0])
        right = (logits.argmax(-1) == labels).all(-1).to(q.dtype)
        q_loss = F.binary_cross_entropy_with_logits(q[:, 0], right, reduction="sum")
        loss = stablemax_cross_entropy(logits, labels) + 0.5 * q_loss
        return z_H.detach(), z_L.detach(), logits, loss


def stablemax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over the cells, summed over the rows, of `-log(s / sum s)[label]`."""
    x = logits.double()
    scores = torch.where(x < 0, 1 / (1 - x.clamp(max=0)), x + 1)
    logs = torch.log(scores / scores.sum(-1, keepdim=True))
    return -logs.gather(-1, labels[..., None])[..., 0].mean(-1).sum()
