#!/usr/bin/env bash
# One run over all hosts of a Cloud TPU pod, on which `hns` is installed in
# ~/hns and the results folder is shared:
#
#   POD=my-pod ZONE=us-central2-b bash launch/tpu.sh --config=configs/cifar10.py
#
# JAX finds the hosts of the pod by itself; clients spread over all TPU cores.
set -euo pipefail
: "${POD:?the name of the TPU pod}" "${ZONE:?its zone}"
flags=
[ $# = 0 ] || printf -v flags ' %q' "$@"
gcloud compute tpus tpu-vm ssh "$POD" --zone="$ZONE" --worker=all \
  --command="cd ~/hns && python -m hns.main --distributed=auto$flags"
