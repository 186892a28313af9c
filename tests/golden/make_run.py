"""Writes a run of this version, which all later ones must open: tests/golden/run_vN.

    python tests/golden/make_run.py CORPUS OUTPUT

CORPUS is a folder that `nt corpus build` made; what it holds does not matter. Of the run only the
last checkpoint is kept, and what a reader must find in it. Run it once for each format version,
with the package of that version.
"""

import json
import shutil
import sys
from pathlib import Path

from nucleotide_transformer import pretrain
from nucleotide_transformer.config import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
)
from nucleotide_transformer.pretrained import load_pretrained
from nucleotide_transformer.weights.assembly import digest_params


def main() -> None:
    """Trains four updates and keeps what is needed."""
    corpus, output = Path(sys.argv[1]), Path(sys.argv[2])
    config = PretrainConfig(
        output=output,
        seed=3,
        model=ModelConfig(k=3, num_layers=3, embed_dim=16, num_heads=2, ffn_dim=24),
        data=DataConfig(corpus=corpus, sequence_tokens=64),
        tokens_per_update=512,
        sequences_per_device=4,
        total_tokens=512 * 4,
        num_devices=1,
        optimizer=OptimizerConfig(peak_learning_rate=1e-2, warmup_steps=4),
        evaluation=EvaluationConfig(num_sequences=5, every_steps=4),
        checkpoint=CheckpointConfig(every_steps=2, keep=1),
    )
    pretrain(config, show=False)
    params = load_pretrained(output).params
    expected = {
        "names": {name: sorted(leaves) for name, leaves in params.items()},
        "digest": digest_params(params),
    }
    for path in output.iterdir():
        if path.name != "checkpoints":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (output / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
