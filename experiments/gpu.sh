#!/usr/bin/env bash
# All that is measured on a GPU, in one command: correctness first, then speed and memory.
#
#     experiments/gpu.sh                     # everything, 30 to 40 minutes on an H100
#     experiments/gpu.sh check attention     # some of: check attention 100M 500M scaling profile peers
#
# Results go to experiments/results/, one JSON file and picture a benchmark; RESULTS=folder changes
# that. PYTHON names the interpreter, .venv/bin/python by default.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -z ${PYTHON:-} ]]; then
  PYTHON=.venv/bin/python
  [[ -x $PYTHON ]] || PYTHON=python3
fi
RESULTS=${RESULTS:-experiments/results}
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH}

benchmark() {
  "$PYTHON" -m nucleotide_transformer.cli benchmark --output "$RESULTS" \
    --compute.compute-dtype bfloat16 --no-peer --num-devices 1 "$@"
}

# bfloat16 against float32, and the attention kernels against each other.
run_check() { "$PYTHON" experiments/check_device.py; }

# Which form of the attention is the fastest here.
run_attention() {
  for form in cudnn xla einsum; do
    benchmark --models 100M --sequences-per-device 32 --compute.attention "$form"
  done
}

# MFU, memory and compile time by batch and recomputation; the targets: 50 % in training, and
# 64 sequences in 40 GB without recomputation, 256 with it.
run_100M() {
  benchmark --models 100M --sequences-per-device 16 32 64 128 --cache
  benchmark --models 100M --tasks train --sequences-per-device 64 128 --compute.remat none
  benchmark --models 100M --tasks train --sequences-per-device 64 256 --compute.remat block
  benchmark --models 100M --tasks train --sequences-per-device 64 --compute.stack loop
}

# The target: 60 % MFU in training.
run_500M() {
  benchmark --models 500M --sequences-per-device 8 16 32 --cache
  benchmark --models 500M --tasks train --sequences-per-device 32 64 --compute.remat none
  benchmark --models 500M --tasks train --sequences-per-device 64 128 --compute.remat block
}

# 1, 2, 4, ... all GPUs, where there are several.
run_scaling() {
  "$PYTHON" -m nucleotide_transformer.cli benchmark --output "$RESULTS" --no-peer \
    --compute.compute-dtype bfloat16 --models 100M --tasks train --sequences-per-device 64 \
    --scaling weak strong
}

# Where the time goes, by operation.
run_profile() { benchmark --models 100M 500M --sequences-per-device 32 --profile --profile-rows 30; }

# ESM on torch with CUDA, and the plain model; JAX must leave torch some memory.
run_peers() {
  XLA_PYTHON_CLIENT_PREALLOCATE=false "$PYTHON" experiments/benchmark_peers.py \
    --dtype bfloat16 --sequences 16 --round-steps 5 --output "$RESULTS"
}

for step in "${@:-check}"; do
  declare -F "run_$step" > /dev/null || { echo "gpu.sh: no step $step" >&2; exit 2; }
done
if [[ $# -eq 0 ]]; then
  set -- check attention 100M 500M scaling profile peers
fi
for step in "$@"; do
  echo "== $step"
  "run_$step"
done
