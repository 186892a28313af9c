"""Installs the package `nucleotide_transformer` and the command `nt`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (ROOT / "nucleotide_transformer" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
)
assert VERSION, "nucleotide_transformer/__init__.py holds the version"

# Every lower bound is one that the tests ran with, but for the five packages that
# constraints-minimum.txt names: it holds the same numbers.
REQUIREMENTS = [
    "array_record>=0.8.1",
    "dm-haiku>=0.0.16",
    "grain>=0.2.16",
    "huggingface_hub>=1.3",
    "jax>=0.10.0",
    "joblib>=1.4.2",
    "jaxtyping>=0.3.3",
    "matplotlib>=3.9",
    "ml_dtypes>=0.5",
    "numpy>=2.1",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.11.33",
    "rich>=13.9",
    "safetensors>=0.8",
    "tensorboardX>=2.6.4",
    "tyro>=1.0",
]

# Embeddings and sequences as HDF5 and Parquet files.
IO = ["h5py>=3.12.1", "pyarrow>=18.0"]

# Pictures of embeddings and sequence logos.
PLOTS = ["logomaker>=0.8.6", "pandas>=2.2.3", "scikit-learn>=1.6"]

# Probes of embeddings.
ANALYSIS = ["scikit-learn>=1.6", "scipy>=1.14.1", "threadpoolctl>=3.6"]

# Variants: VCF, bgzip and tabix, regions of FASTA files, Parquet.
VARIANTS = ["pyarrow>=18.0", "pysam>=0.23"]

# Tracks as BigWig files.
BIGWIG = ["pyBigWig>=0.3.29"]

# Genomes from the network.
DOWNLOAD = ["requests>=2.32.4", "urllib3>=2.5"]

# The chunks of the published corpus, from the Hugging Face hub.
HUB = ["datasets>=5.2"]

# Gzipped FASTA files, 1.8 times as fast.
FAST = ["isal>=1.7.2"]

EXTRAS = {
    # jax's own choice for NVIDIA GPUs; `cuda12` is for drivers too old for CUDA 13.
    "cuda": ["jax[cuda13]"],
    "cuda12": ["jax[cuda12]"],
    "tpu": ["jax[tpu]"],
    "io": IO,
    "plots": PLOTS,
    "analysis": ANALYSIS,
    "download": DOWNLOAD,
    "fast": FAST,
    "hub": HUB,
    "variants": VARIANTS,
    "bigwig": BIGWIG,
    "umap": ["umap-learn>=0.5.8"],
    "dev": [
        *IO,
        *PLOTS,
        *ANALYSIS,
        *DOWNLOAD,
        *FAST,
        *VARIANTS,
        *BIGWIG,
        "beartype>=0.21",
        "chex>=0.1.91",
        "hypothesis>=6.130",
        "mypy>=1.18.1",
        "pre-commit>=4.0",
        "pytest>=8.3",
        "pytest-timeout>=2.4.0",
        "pytest-xdist>=3.6.1",
        "ruff>=0.14",
    ],
    # The bound above keeps pip on one torch; PyTorch's own index has the small CPU builds.
    "interop": [*HUB, "peft>=0.21.2", "torch>=2.13,<2.14", "transformers>=5.23"],
    "notebooks": ["ipykernel>=6.29", "ipywidgets>=8.1.5", "nbmake>=1.5.5"],
}

setup(
    name="nucleotide-transformer-jax",
    version=VERSION.group(1),
    description="The Nucleotide Transformer in JAX and Haiku: pre-training and inference",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["nucleotide_transformer", "nucleotide_transformer.*"]),
    package_data={
        "nucleotide_transformer": ["py.typed", "packaged/*/*"],
        "nucleotide_transformer.data": ["genomes/*.fa.gz", "genomes/*.tsv", "genomes/*.md"],
    },
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["nt = nucleotide_transformer.cli:run_and_exit"]},
)
