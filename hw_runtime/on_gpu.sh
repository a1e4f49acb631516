#!/bin/sh
# Prove and measure on the GPUs that are there: see hw_runtime/README.md.
#   PYTHON=.venv/bin/python PROCESSES=8 sh hw_runtime/on_gpu.sh [FOLDER]
# Writes FOLDER/GPU-check-virtual.json, GPU-check-ipc.json and GPU-bench.json; default folder
# hw_runtime/measurements. Goes on after a step that fails, and then exits non-zero.
set -u
python=${PYTHON:-python3}
folder=${1:-hw_runtime/measurements}
failed=0

# No GPU: the command itself says what is missing, before anything is written.
"$python" -m hw_runtime bench --tiny --runs 1 --only planner >/dev/null || exit 1
gpu=$("$python" -c 'import re, torch
print(re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))') || exit 1
mkdir -p "$folder" || exit 1

step() { # name of the document, then a command that prints it
  name=$1
  shift
  echo "$name" >&2
  "$@" >"$folder/.$gpu-$name.part" || { failed=1; echo "$name: FAILED" >&2; }
  if [ -s "$folder/.$gpu-$name.part" ]; then
    mv "$folder/.$gpu-$name.part" "$folder/$gpu-$name.json"
  else
    rm -f "$folder/.$gpu-$name.part"
  fi
}

step check-virtual "$python" -m hw_runtime check --fabric virtual --json
step check-ipc "$python" -m torch.distributed.run --nproc-per-node "${PROCESSES:-8}" \
  -m hw_runtime check --fabric ipc --json
step bench "$python" -m hw_runtime bench --json

# Tests exist only in a clone; a machine that only has the package is done here.
if [ -d tests/hw_runtime ] && "$python" -c 'import pytest' 2>/dev/null; then
  "$python" -m pytest -n 0 -q -m gpu tests/hw_runtime >&2 || failed=1
fi
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" -m hw_runtime check \
      --fabric virtual --suite weights --suite gradients >&2 || failed=1
  done
else
  echo "no compute-sanitizer here: races are hunted by random delays only" >&2
fi
exit $failed
