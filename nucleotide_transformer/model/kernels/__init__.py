"""What is tuned for a platform's compiler, each beside its plain form: `plain_*` says the same.

`products`, `layer_norm` and `gate` have derivatives of their own, and so has `per_head`, the
attention of CPUs; `cudnn` is NVIDIA's attention kernel by way of JAX; `flash` is what they share.
The rest of `model/` reads like the paper and does not care.

Derivatives: the rules are for reverse mode (`jax.custom_vjp`). `jax.grad`, `jax.vjp`, gradients of
gradients and forward over reverse (`jax.hessian`, `jax.jvp` of a `jax.grad`) work; `jax.jvp`,
`jax.jacfwd` and `jax.linearize` of the model itself raise JAX's `TypeError`. The plain forms have
every derivative.
"""
