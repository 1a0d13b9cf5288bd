"""Any map: where its loop goes, and which of its gradients can be trusted.

python docs/examples/any_map.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import eqloop


class Cell(eqx.Module):
    """`f(z, x) = tanh(W z + x)`: its weights are the leaves of the module."""

    weight: jax.Array

    def __call__(self, z, x):
        return jnp.tanh(self.weight @ z + x)


def distance(state, target):
    return jnp.mean((state - target) ** 2)


weight_key, input_key, target_key, key = jr.split(jr.key(0), 4)
f = Cell(jr.normal(weight_key, (8, 8)) / 4)
xs, targets = jr.normal(input_key, (6, 8)), jr.normal(target_key, (6, 8))

report = eqloop.stability.analyse(f, jnp.zeros((6, 8)), xs, key=key, iterations=64, detail=2)
print(report)

gradients = {"one-step": eqloop.OneStep(), "implicit": eqloop.Implicit()}
audit = eqloop.gradient_audit(
    f, (xs, targets), z0=jnp.zeros(8), loss=distance, gradients=gradients, repeats=1
)
for name, gradient in audit.gradients.items():
    print(f"{name:20} cosine to backpropagation {gradient.total.backprop.cosine:.4f}")
