#!/usr/bin/env bash
# The README's results: three datasets, three methods, three seeds.
#
#   bash launch/results.sh runs/results
#
# A run that is already complete is not run again; one that fails is named at
# the end.
set -u
cd "$(dirname "$0")/.."
folder=${1:-runs/results}
failed=()
for dataset in mnist cifar10 femnist; do
  for algorithm in hidenseek fedavg local; do
    for seed in 0 1 2; do
      run=$folder/$dataset-$algorithm-s$seed
      python -m hns.main --config=configs/$dataset.py --workdir="$run" \
        --config.algorithm=$algorithm --config.seed=$seed || failed+=("$run")
    done
  done
done
python -m hns.report "$folder"/* --picture="$folder/results.png" |
  tee "$folder/results.md"
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
