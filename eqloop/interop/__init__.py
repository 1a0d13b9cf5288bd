"""Weights of other codes."""

from ._paper import from_paper_state_dict as from_paper_state_dict
from ._paper import to_paper_state_dict as to_paper_state_dict
from ._sibling import from_sibling_state_dict as from_sibling_state_dict
from ._sibling import to_sibling_state_dict as to_sibling_state_dict
