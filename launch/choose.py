"""The best trial of every case, from a sweep's table to a config's values.

  python launch/choose.py runs/benchmark-tuning/table.csv configs/tuned.json

The best is that of the highest accuracy as held, on whatever examples the
sweep evaluated; of equal ones the first.
"""

import csv
import json
import pathlib
import sys


def main() -> None:
  table, target = map(pathlib.Path, sys.argv[1:])
  chosen = json.loads(target.read_text()) if target.exists() else {}
  with table.open() as file:
    rows = [row for row in csv.DictReader(file) if row['status'] == 'done']
  cases = {}
  for row in rows:
    cases.setdefault(row['config'], []).append(row)
  for case, trials in cases.items():
    best = max(trials, key=held)
    chosen[case] = values(best)
    print(f'{case}: {chosen[case]} {held(best):.3f}')
  target.write_text(json.dumps(chosen, indent=2, sort_keys=True) + '\n')


def held(row: dict[str, str]) -> float:
  """What a trial is judged by."""
  return float(row['held_accuracy'])


def values(row: dict[str, str]) -> dict[str, float | str]:
  """What the trial sets in the method's table: fields named METHOD.FIELD."""
  found = {}
  for field, value in row.items():
    _, dot, name = field.partition('.')
    if dot and value:
      try:
        found[name] = float(value)
      except ValueError:
        found[name] = value
  return found


if __name__ == '__main__':
  main()
