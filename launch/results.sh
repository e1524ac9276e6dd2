#!/usr/bin/env bash
# The README's results: three datasets, methods and their variants, three seeds.
#
#   bash launch/results.sh runs/results
#
# A run that is already complete is not run again; one that fails is named at
# the end. SEEDS="0 1" takes fewer; JOBS=2 DEVICES=1 runs two at a time, with the same numbers.
set -u
cd "$(dirname "$0")/.."
folder=${1:-runs/results}
mkdir -p "$folder"

variants() {
  local all=--config.algorithm
  echo "fedavg $all=fedavg"
  echo "local $all=local"
  echo "signsgd $all=signsgd"
  echo "paper --config.upload=signs"
  echo "change --config.upload=change"
  echo "change1 --config.upload=change --config.download_bits=1"
  echo "ternary --config.upload=ternary"
  if [ "$1" = mnist ]; then
    local whole="--config.density=1.0 --config.hidenseek.learning_rate=0.03"
    echo "change-whole --config.upload=change $whole"
    echo "change1-whole --config.upload=change --config.download_bits=1 $whole"
    echo "signsgd-pruned $all=signsgd --config.signsgd.pruned=True"
  fi
}

for seed in ${SEEDS:-0 1 2}; do
  for dataset in mnist cifar10 femnist; do
    variants $dataset | while read -r name flags; do
      run=$folder/$dataset-$name-s$seed
      echo "--config=configs/$dataset.py --workdir=$run --config.seed=$seed" \
        "--config.eval_every=10 --config.devices=${DEVICES:-0} $flags"
    done
  done
done | xargs -P "${JOBS:-1}" -L 1 sh -c \
  'python -m hns.main "$@" || echo "$@" >> "$0/failed"' "$folder"

python -m hns.report "$folder"/*/ --picture="$folder/results.png" |
  tee "$folder/results.md"
[ ! -e "$folder/failed" ] || { echo "failed:" >&2; cat "$folder/failed" >&2; exit 1; }
