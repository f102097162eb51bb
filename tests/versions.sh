#!/usr/bin/env bash
# The oldest and the newest releases that pyproject.toml allows: installs each and runs the tests with it.
#   tests/versions.sh [lowest-direct|highest ...] [-- pytest options]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
resolutions=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do resolutions+=("$1"); shift; done
[ "${1:-}" = "--" ] && shift
[ ${#resolutions[@]} -gt 0 ] || resolutions=(lowest-direct highest)

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/uv"
"$work/uv/bin/python" -m pip install --quiet --disable-pip-version-check uv
for resolution in "${resolutions[@]}"; do
  "$work/uv/bin/uv" venv --quiet --python "$python" "$work/$resolution"
  "$work/uv/bin/uv" pip install --quiet --system-certs --python "$work/$resolution/bin/python" \
    --resolution "$resolution" --editable ".[dev]"
  echo "== $resolution"
  "$work/uv/bin/uv" pip list --quiet --python "$work/$resolution/bin/python" \
    | grep -iE "^(h5py|jinja2|matplotlib|nibabel|numpy|pandas|pooch|pydantic|scipy|seaborn|snakemake|torch) "
  OMP_NUM_THREADS=1 "$work/$resolution/bin/python" -m pytest "$@"
done
