"""Weights of other codes."""

from .._weight_files import read_config as read_config
from .._weight_files import read_weights as read_weights
from ..recursive import spec_tables as spec_tables
from ._checkpoints import SIBLING_TASKS as SIBLING_TASKS
from ._checkpoints import SiblingCheckpoint as SiblingCheckpoint
from ._checkpoints import sibling_checkpoint as sibling_checkpoint
from ._paper import from_paper_state_dict as from_paper_state_dict
from ._paper import to_paper_state_dict as to_paper_state_dict
from ._sibling import from_sibling_state_dict as from_sibling_state_dict
from ._sibling import to_sibling_state_dict as to_sibling_state_dict
from ._sibling_run import sibling_task as sibling_task
from ._sibling_run import to_nested as to_nested
