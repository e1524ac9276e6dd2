#!/usr/bin/env bash
# What launch/results/results.md holds: three sweeps, then all side by side.
#
#   bash launch/results.sh runs/results
#
# Other flags are those of launch/sweep.py: --filter='seed=[01]' --jobs=2.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-runs/results}
mkdir -p "$folder"
failed=0
for dataset in mnist cifar10 femnist; do
  python launch/sweep.py --config="configs/$dataset.py" \
    --config.eval_every=10 --workdir="$folder/$dataset" "${@:2}" ||
    { failed=$?; [ "$failed" -lt 128 ] || exit "$failed"; }
done
python -m hns.report "$folder"/*/*/ --out="$folder" \
  --pack="$folder/results.jsonl.gz"
exit "$failed"
