"""What a task reads from the state of a loop."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._scores import EXACT
from .._task import Task
from ..nn import at_least_float32


class Decoder(eqx.Module):
    """Decodes the state of one example.

    **Attributes:**

    - `coda`: state -> logits.
    - `task`: decodes logits to an answer, and scores it.

    ```python
    >>> import eqloop, jax.numpy as jnp, numpy as np
    >>> task = eqloop.tasks.make_task("prefix-sums", {"length": 5})
    >>> decoder = eqloop.claims.Decoder(lambda z: z, task)      # the state is the logits
    >>> logits, targets = jnp.array([[2.0, 1.0]] * 5), np.array([0, 0, 0, 0, 1], np.uint8)
    >>> answer, right = decoder.read(logits, (targets, targets))
    >>> print(answer, right)
    [0 0 0 0 0] False

    ```
    """

    coda: Callable[[Array], Array]
    task: Task = eqx.field(static=True)

    def read(self, z: Array, example: tuple[Array, Array]) -> tuple[Array, Bool[Array, ""]]:
        """The answer, and whether it is right; `example` is tokens and targets."""
        tokens, targets = example
        answer = self.task.predict(self.coda(z), tokens)
        return answer, self.task.score(answer, tokens, targets)[EXACT].astype(bool)

    def solved(self, z: Array, tokens: Array, targets: Array) -> Bool[Array, ""]:
        """Whether the answer is right."""
        return self.read(z, (tokens, targets))[1]

    def entropy(self, z: Array) -> Float[Array, ""]:
        """The entropy of the softmax of the logits, in nats, the mean over the cells."""
        logits = self.coda(z)
        p = jax.nn.softmax(logits.astype(at_least_float32(logits.dtype)), axis=-1)
        return jnp.mean(jnp.sum(jax.scipy.special.entr(p), axis=-1))
