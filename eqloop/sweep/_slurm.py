"""The executor of a cluster: the same workers, as jobs that submitit hands to SLURM."""

from collections.abc import Sequence
from typing import Any

from .._errors import InputError
from ._folder import Sweep


def submit(sweep: Sweep, command: Sequence[str], jobs: int) -> list[Any]:
    """Submit an array of workers to SLURM, each of which takes cells until none is left. Their
    output is in `slurm/` of the sweep.

    The `[slurm]` table of the grid is passed to `AutoExecutor.update_parameters`
    (`slurm_partition`, `gpus_per_node`, `timeout_min`, ...), but for `cluster`: `"slurm"`, or
    submitit's `"local"` or `"debug"` to try it without one.

    **Arguments:**

    - `sweep`: the sweep.
    - `command`: the command line of a worker, which calls `work`.
    - `jobs`: number of workers.

    **Returns** one `Job` of submitit per worker.

    **Raises** `InputError` without submitit, without SLURM, and for parameters that submitit does
    not know.
    """
    try:
        import submitit
    except ModuleNotFoundError:
        raise InputError("--executor slurm needs submitit: pip install submitit") from None
    parameters = dict(sweep.grid.slurm)
    cluster = parameters.pop("cluster", "slurm")
    function = submitit.helpers.CommandFunction(list(command))
    try:
        executor = submitit.AutoExecutor(folder=sweep.path / "slurm", cluster=cluster)
        executor.update_parameters(name="eqloop", **parameters)
        with executor.batch():
            submitted = [executor.submit(function) for _ in range(jobs)]
    except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:
        raise InputError(f"[slurm]: {' '.join(str(error).split())}") from None
    return submitted
