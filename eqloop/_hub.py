"""Runs and models on the Hugging Face Hub, through `huggingface_hub` and its cache."""

import glob
import logging
import re
from pathlib import Path

from ._errors import InputError
from ._text import one_line
from .run import CHECKPOINTS, MANIFEST, SPEC

PREFIX = "hf://"
_ADDRESS = re.compile(
    r"hf://(?P<repository>[\w.-]+/[\w.-]+)(?P<path>(/[^/@\x00-\x1f]+)*)"
    r"(@(?P<revision>[\w./-]+))?",
    re.ASCII,
)
_COMMIT = re.compile("[0-9a-f]{40}")
_RUN_FILES = (SPEC, MANIFEST, f"{CHECKPOINTS}/*")
_LOG = logging.getLogger(__name__)


def download(address: str, *, pinned: bool) -> Path:
    """Return a folder or file of the Hub in the cache, downloaded unless it is there.

    **Arguments:**

    - `address`: `hf://owner/repository/path@revision`; `path` is a run folder or ends in
        `.safetensors`, and may be left out for a repository that is a run folder.
    - `pinned`: whether the caller knows the hash of the file. If it does not, and the revision is
        not a whole commit hash, a warning is logged, which names the present commit.

    **Raises** `InputError` if the address is wrong, `huggingface_hub` is not installed, or the Hub
    does not have it or cannot be reached and the cache does not have it.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or ".." in re.split("[/@]", address):
        raise InputError(f"{one_line(address)}: must be hf://owner/repository/path@revision")
    repository, path, revision = match["repository"], match["path"][1:], match["revision"]
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError(
            f"{address}: reading from the Hub needs huggingface_hub: pip install huggingface_hub"
        ) from None
    files = [""] if path.endswith(".safetensors") else [f"/{name}" for name in _RUN_FILES]
    patterns = [f"{glob.escape(path)}{name}".removeprefix("/") for name in files]
    try:
        snapshot = Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=patterns, library_name="eqloop"
            )
        )
    except Exception as error:  # those of its HTTP library, too, which is not always the same
        why = one_line(str(error).strip().partition("\n")[0][:200]) or type(error).__name__
        raise InputError(f"{address}: cannot be had from the Hub ({why})") from error
    if not (snapshot / path).exists():
        raise InputError(f"{address}: the repository has no {path} at commit {snapshot.name}")
    if not pinned and not _COMMIT.fullmatch(revision or ""):
        _LOG.warning(
            "%s: its content can change; to load the same again, write @%s", address, snapshot.name
        )
    return snapshot / path
