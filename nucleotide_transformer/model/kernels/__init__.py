"""What is tuned for a platform's compiler, with a plain form that says the same.

`products`, `layer_norm` and `gate` have derivatives of their own, each beside its `plain_*`.
`per_head`, the attention of CPUs, has such, too, and `cudnn` is NVIDIA's attention kernel by way of
JAX: the plain form of both is the einsum of `model/attention.py`. The rest of `model/` reads like
the paper and does not care.

Derivatives: the rules are for reverse mode (`jax.custom_vjp`): `jax.grad` of any order, `jax.vjp`,
and forward over reverse (`jax.hessian`). In forward mode by itself (`jax.jvp`, `jax.jacfwd`,
`jax.linearize`) JAX raises a `TypeError`. The plain forms have every derivative.
"""
