"""Masked-language-model pre-training: masks, objective, evaluation, baselines, the run."""
