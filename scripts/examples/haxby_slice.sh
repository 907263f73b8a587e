#!/usr/bin/env bash
# Which of eight categories was shown, from block means of one slice (Haxby et al. 2001), each run left out in turn.
#   scripts/examples/haxby_slice.sh DATA_DIR
# DATA_DIR holds haxby-slice/. Prints one JSON object: accuracy, chance, low, high, shuffled, p_value, ...
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
data=$(recording_folder haxby-slice "${1:?usage: $0 DATA_DIR}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
penfield import nifti "$data" --unit block --detrend --scale --out "$work/blocks.zarr" --json >"$work/import.json"
penfield decode evaluate --recording "$work/blocks.zarr" --label category --group run --shuffles 100 --json
