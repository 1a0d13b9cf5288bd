"""How long does the audit of all gradients take?

    python benchmarks/audit.py [--width 256] [--examples 16] [--iterations 30] [--max-steps 256]

**Question:** A new model of width 256 on 81 cells, 16 examples: is `eqloop.gradient_audit` with its
default gradients done within 60 s on two cores, compiling included? (A new model is the slow case:
no example has converged after 256 iterations.)

**Machine:** 2 cores of an AMD EPYC (Zen 4), shared with others.

**Last numbers:** 37.6 s, of which compiling 19.1 s, while the load was 3 to 4 (68.9 s of CPU time).
Full backpropagation 1.00 s and 166 MiB, one step 0.29 s and 57 MiB, implicit 1.45 s and 109 MiB.
With one gradient more and more timed runs it took 64 to 79 s at loads of 4 to 6, and 132 and 278 s
at loads of 10 and 16: the 60 s are missed on a machine that busy.
"""

import argparse
import os
import time

import jax
import jax.numpy as jnp
import jax.random as jr

import eqloop


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--max-steps", type=int, default=256)
    options = parser.parse_args()

    keys = jr.split(jr.key(0), 3)
    model = eqloop.LoopedTransformer(
        grid=(9, 9), channels=10, classes=10, width=options.width, heads=8, key=keys[0]
    )
    shape = (options.examples, 9, 9)
    inputs = jax.nn.one_hot(jr.randint(keys[1], shape, 0, 10), 10, dtype=jnp.float32)
    targets = jr.randint(keys[2], shape, 0, 10)
    audit = eqloop.gradient_audit(
        model, (inputs, targets), iterations=options.iterations, max_steps=options.max_steps
    )
    columns = f"{'seconds':>9}{'compile':>9}{'f':>6}{'again':>6}{'vjp':>6}{'MiB':>6}{'cosine':>9}"
    print(f"{'':19}{columns}")
    for name, gradient in audit.gradients.items():
        counts = (
            gradient.evaluations,
            gradient.repeated,
            gradient.products,
            (gradient.memory or 0) / 2**20,
        )
        print(
            f"{name:19}{gradient.seconds:9.3f}{gradient.compile_seconds:9.1f}"
            + "".join(f"{count:6.0f}" for count in counts)
            + f"{gradient.total.backprop.cosine:9.4f}"
        )
    compiling = sum(gradient.compile_seconds for gradient in audit.gradients.values())
    print(f"converged: {audit.share:.0%} of the examples")
    print(f"all: {audit.seconds:.1f} s, of which compiling {compiling:.1f} s")
    print(f"CPU time of the process: {time.process_time():.1f} s")
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
