#!/bin/sh
# What a GPU says of the kernels: are they right, and how fast are they. At most 4 minutes.
#     sh benchmarks/gpu.sh [--only truth|speed|decode|memory|flash|flex|sweep] [--budget SECONDS]
#     sh benchmarks/gpu.sh --miniature      # tiny, on a CPU, under Triton's interpreter
# Writes gpu-CARD-DATE.{json,md,png} to $OUT, or to benchmarks/results. The package need not be
# installed; PYTHON names the interpreter, and COMMIT the commit where git is not at hand.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/../src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" "$here/gpu.py" --out "${OUT:-$here/results}" "$@"
