#!/usr/bin/env bash
# Voxel time courses of one slice (Haxby et al. 2001) from the conditions, each run predicted from the others.
#   scripts/examples/haxby_encoding.sh DATA_DIR
# DATA_DIR holds haxby-slice/. Prints one JSON object: r_percentile_95, r_median, permuted_percentile_95, p_value, ...
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
data=$(recording_folder haxby-slice "${1:?usage: $0 DATA_DIR}")
cd "$repository" && "$python" -m scripts.examples.haxby_encoding "$data"
