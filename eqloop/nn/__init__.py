"""The parts of a looped transformer, each a function of one example's grid of cells."""

from .._places import NORMS as NORMS
from .._places import RECALLS as RECALLS
from .._places import NormPlaces as NormPlaces
from .._places import RecallPlaces as RecallPlaces
from ._attention import Attention as Attention
from ._attention import AttentionBias as AttentionBias
from ._block import Block as Block
from ._block import FoldedBlock as FoldedBlock
from ._block import Loop as Loop
from ._feedforward import FeedForward as FeedForward
from ._gelu import gelu as gelu
from ._linear import Linear as Linear
from ._linear import at_least_float32 as at_least_float32
from ._norm import RMSNorm as RMSNorm
from ._norm_placement import NormKind as NormKind
from ._norm_placement import NormPlacement as NormPlacement
from ._recall import Recall as Recall
from ._recall import RecallKind as RecallKind
from ._residual import GRU as GRU
from ._residual import Add as Add
from ._residual import ResidualKind as ResidualKind
from ._rotary import ROTARY_BASE as ROTARY_BASE
from ._rotary import rotary_tables as rotary_tables
from ._rotary import rotate as rotate
