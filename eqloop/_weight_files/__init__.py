"""Files of weights of other codes: PyTorch and safetensors, read without running anything that they
contain."""

from ._config import read_config as read_config
from ._read import read_weights as read_weights
