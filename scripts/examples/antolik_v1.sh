#!/usr/bin/env bash
# Which of 50 images was shown, from single responses of 103 neurons of mouse V1 (Antolik et al. 2016).
#   scripts/examples/antolik_v1.sh DATA_DIR
# DATA_DIR holds antolik-v1/. Prints one JSON object: accuracy, chance, low, high, shuffled, p_value, ..., and rsa, how
# well the RDM of the pixels agrees with that of the neurons.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
data=$(recording_folder antolik-v1 "${1:?usage: $0 DATA_DIR}")
cd "$repository" && "$python" -m scripts.examples.antolik_v1 "$data"
