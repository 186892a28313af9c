"""First weights of a head: those of a linear probe on the network as it is, before any update.

A head with random weights first pulls the layers below it out of shape; one that starts where a
probe ends does not, and needs fewer updates (Kumar et al. 2022, arXiv 2202.10054).
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from nucleotide_transformer.finetuning.estimators import fit_estimator
from nucleotide_transformer.finetuning.job import Job
from nucleotide_transformer.inference.embedding import embed, resolve_layers
from nucleotide_transformer.model.task_network import HEAD, join_layers
from nucleotide_transformer.types import Params


def fit_head(job: Job, *, advance: Callable[[], object] = lambda: None) -> Params:
    """The head's weights and bias, by logistic regression (ridge regression for numbers).

    It is trained on the pooled embeddings of the training set, each sequence whole, as written; the
    strength of its penalty is chosen by cross-validation.

    Args:
        job: the run.
        advance: called after each embedding.

    Raises:
        InputError: if a class has fewer than two sequences, or an extra is missing.
    """
    config = job.config
    layers = resolve_layers(job.model.config, config.layers)
    stream = embed(
        job.model,
        job.train.sequences,
        layers=layers,
        pooling=config.pooling,
        batching=dataclasses.replace(config.inference, window_tokens=job.max_tokens),
    )
    rows = []
    for embedding in stream:
        # Where nothing is known: zero, as in training.
        rows.append({layer: np.nan_to_num(row) for layer, row in embedding.items()})
        advance()
    pooled = {layer: jnp.asarray([row[layer] for row in rows]) for layer in layers}
    features = np.asarray(join_layers(pooled, layers, job.model.config))
    train = job.train
    if train.kind == "regression":
        train = dataclasses.replace(train, labels=job.standard.apply(train.labels))
    weights, bias = fit_estimator(features, train, seed=config.seed).unfold()
    dtype = jnp.dtype(job.model.compute.param_dtype)
    return {f"{HEAD}/~/outputs": {"w": jnp.asarray(weights, dtype), "b": jnp.asarray(bias, dtype)}}
