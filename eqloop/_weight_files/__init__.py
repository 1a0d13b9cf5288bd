"""Files of weights of other codes: PyTorch and safetensors, read without running anything that they
contain."""

from ._config import CONFIG as CONFIG
from ._config import read_config as read_config
from ._read import read_weights as read_weights
from ._write import WEIGHTS as WEIGHTS
from ._write import check_new as check_new
from ._write import write_weights as write_weights
