#!/usr/bin/env bash
# All that is measured on a GPU, in one command: correctness first, then speed and memory.
#
#     make install EXTRAS=dev+cuda+interop   # once, in a fresh clone; interop brings torch
#     experiments/gpu.sh                     # everything: probably over an hour, most of it compiling
#     experiments/gpu.sh check attention     # some of the steps below, where runs are cut short
#     experiments/gpu.sh quick               # the essential, in about 8 minutes at most
#
# Steps: check trials attention 100M 500M embed scaling profile peers; quick is by itself. What fails is
# named at the end, and keeps nothing else from running. Results go to experiments/results/, one JSON
# file and picture a benchmark, written after every case; RESULTS=folder changes that, one for each
# machine. What a step prints is added to gpu_STEP.txt there. PYTHON names the interpreter,
# .venv/bin/python by default; nothing but Python, this repository and what setup.py requires is needed,
# and no network.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -z ${PYTHON:-} ]]; then
  PYTHON=.venv/bin/python
  [[ -x $PYTHON ]] || PYTHON=python3
fi
RESULTS=${RESULTS:-experiments/results}
mkdir -p "$RESULTS" || exit 2
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH}
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda}  # an error where JAX finds no GPU, not hours on the CPU
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-.92}

failed=()

# Names in one line what is not installed, or why JAX has no device, before anything is measured.
check_installation() {
  "$PYTHON" - << 'END'
import importlib.metadata, pathlib, re, sys

required = re.search(r"REQUIREMENTS = \[(.*?)\]", pathlib.Path("setup.py").read_text(), re.DOTALL)[1]
missing = []
for package in re.findall('"(.+?)"', required):
    try:
        importlib.metadata.version(re.split("[<>=]", package)[0])
    except importlib.metadata.PackageNotFoundError:
        missing.append(package)
if missing:
    sys.exit(f"gpu.sh: not installed: {', '.join(missing)}")
try:
    import nucleotide_transformer.benchmark.run
    from nucleotide_transformer.training.devices import find_devices
    find_devices(None)
except (ImportError, ValueError) as error:
    sys.exit(f"gpu.sh: {error}")
END
}

# Runs a command, for LIMIT seconds at most where that is set, and goes on if it fails.
try() {
  echo "+ $*"
  ${LIMIT:+timeout "$LIMIT"} "$@" || failed+=("$*")
}

benchmark() {
  try "$PYTHON" -m nucleotide_transformer.cli benchmark --output "$RESULTS" \
    --compute.compute-dtype bfloat16 --no-peer --num-devices 1 "$@"
}

# For a machine that is lent for minutes: what is right, what is fast, what might be faster.
run_quick() {
  LIMIT=100 try "$PYTHON" experiments/check_device.py --layers 2 --forms auto cudnn
  LIMIT=160 benchmark --models 100M 500M --sequences-per-device 32
  LIMIT=210 try "$PYTHON" experiments/gpu_trials.py --output "$RESULTS/trials" \
    --models 100M --sequences 64 --trials 0 2 1 --timeout 80
}

# bfloat16 against float32, and the attention kernels against each other; then the whole depth.
run_check() {
  try "$PYTHON" experiments/check_device.py
  try "$PYTHON" experiments/check_device.py --layers 22 --forms auto
}

# One change at a time, in the order of expected gain, in one table: loop and scan, recomputation,
# larger micro-batches, XLA's flags, what determinism costs.
run_trials() {
  try "$PYTHON" experiments/gpu_trials.py --output "$RESULTS/trials"
}

# Which form of the attention is the fastest here.
run_attention() {
  local form
  for form in cudnn einsum; do
    benchmark --models 100M --sequences-per-device 32 --compute.attention "$form"
  done
}

# MFU, memory and compile time by batch and recomputation; the targets: 45 % in training, and
# 64 sequences in 40 GB without recomputation, 256 with it.
run_100M() {
  benchmark --models 100M --sequences-per-device 16 32 64 128 --cache
  benchmark --models 100M --tasks train --sequences-per-device 64 128 --compute.remat none
  benchmark --models 100M --tasks train --sequences-per-device 64 256 --compute.remat block
  benchmark --models 100M --tasks train --sequences-per-device 64 --compute.stack loop
}

# The target: 55 % MFU in training.
run_500M() {
  benchmark --models 500M --sequences-per-device 8 16 32 --cache
  benchmark --models 500M --tasks train --sequences-per-device 32 --compute.remat none
  benchmark --models 500M --tasks train --sequences-per-device 64 128 --compute.remat block
  benchmark --models 500M --tasks train --sequences-per-device 16 --compute.stack loop
}

# Sequences of many lengths; the target: twice the padded loop.
run_embed() {
  try "$PYTHON" experiments/benchmark_embed.py --dtype bfloat16 \
    --output "$RESULTS/embed_gpu_$(date -u +%Y-%m-%dT%H-%M-%S).json"
}

# 1, 2, 4, ... all GPUs, where there are several.
run_scaling() {
  try "$PYTHON" -m nucleotide_transformer.cli benchmark --output "$RESULTS" --no-peer \
    --compute.compute-dtype bfloat16 --models 100M --tasks train --sequences-per-device 64 \
    --scaling weak strong
}

# Where the time goes, by operation, whose names the trace has only without command buffers.
run_profile() {
  XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_command_buffer=" \
    benchmark --models 100M 500M --sequences-per-device 32 --profile --profile-rows 30
}

# ESM on torch with CUDA, to which JAX leaves half of the memory. The plain model, in float32 as
# JAX rounds it by default, keeps 12 GiB for two sequences: a batch of its own.
run_peers() {
  XLA_PYTHON_CLIENT_PREALLOCATE=false XLA_PYTHON_CLIENT_MEM_FRACTION=.5 \
    try "$PYTHON" experiments/benchmark_peers.py --peers torch \
    --dtype bfloat16 --sequences 16 --round-steps 5 --output "$RESULTS"
  try "$PYTHON" experiments/benchmark_peers.py --peers plain \
    --dtype bfloat16 --sequences 4 --round-steps 5 --output "$RESULTS"
}

if [[ $# -eq 0 ]]; then
  set -- check trials attention 100M 500M embed scaling profile peers
fi
for step in "$@"; do
  declare -F "run_$step" > /dev/null || { echo "gpu.sh: no step $step" >&2; exit 2; }
done
check_installation || exit 2
for step in "$@"; do
  {
    echo "== $step, $(date -u +%Y-%m-%dT%H:%M:%SZ)"
    "run_$step"
  } > >(tee -a "$RESULTS/gpu_$step.txt") 2>&1
  wait $!
done
if [[ ${#failed[@]} -gt 0 ]]; then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
