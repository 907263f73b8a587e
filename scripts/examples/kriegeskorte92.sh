#!/usr/bin/env bash
# Layers of a CIFAR-10 ResNet-56 against human inferior-temporal RDMs (Kriegeskorte et al. 2008).
#   scripts/examples/kriegeskorte92.sh DATA_DIR
# DATA_DIR holds kriegeskorte92/ and cifar-resnet56/. Prints one JSON object: layers.<name>.score, .low, .high,
# ceiling.lower, ceiling.upper, and the same with people, not their sessions, as the unit.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
data=$(recording_folder kriegeskorte92 "${1:?usage: $0 DATA_DIR}")
export PENFIELD_DATA="${PENFIELD_DATA:-$(dirname "$data")}"
penfield score --rdms "$data" --model python:scripts.examples.cifar_resnet56:build --metric rsa --json
