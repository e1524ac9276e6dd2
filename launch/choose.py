"""Writes the best trial of every case of a sweep to a file of config values.

  python launch/choose.py launch/results/tuning.csv configs/tuned.json

The best trial has the highest accuracy as held, on the examples that the sweep
evaluated; of equal ones it is the first. Prints all trials.
"""

import csv
import json
import pathlib
import sys

from absl import flags

from hns import command, streams
from hns.report import versus

Trial = dict[str, str]  # a line of the table
# What trials set beside fields of a method's table.
OF_RUN = ('density', 'rate_decay')


def main(words: list[str]) -> None:
  with command.one_line(OSError):
    files = command.parse(words, flags.FlagValues(), __doc__, count=2)
    choose(*map(pathlib.Path, files))


def choose(table: pathlib.Path, target: pathlib.Path) -> None:
  """Adds the values of the best trials of a table to `target`."""
  cases = read(table)
  chosen = json.loads(target.read_text()) if target.exists() else {}
  chosen |= {case: values(best(trials)) for case, trials in cases.items()}
  target.write_text(json.dumps(chosen, indent=2, sort_keys=True) + '\n')
  streams.show(tried(cases))


def read(table: pathlib.Path) -> dict[str, list[Trial]]:
  """The finished trials by case."""
  cases = {}
  with table.open() as file:
    for row in csv.DictReader(file):
      if row['status'] == 'done':
        cases.setdefault(row['config'], []).append(row)
  return cases


def best(trials: list[Trial]) -> Trial:
  return max(trials, key=accuracy)


def accuracy(trial: Trial) -> float:
  """The accuracy by which trials are compared."""
  return float(trial['held_accuracy'])


def values(trial: Trial) -> dict[str, float | str]:
  """What a trial sets: METHOD.FIELD of its method, and fields of the run.

  The table has the fields of every run; its name, those that differ.
  """
  fields = {}
  for field, value in trial.items():
    _, dot, name = field.partition('.')
    is_set = field in OF_RUN and f',{field}=' in trial['run']
    if value and (dot or is_set):
      fields[name or field] = _number(value)
  return fields


def _number(text: str) -> float | str:
  """A number, whole if it is written so; or the text."""
  for kind in (int, float):
    try:
      return kind(text)
    except ValueError:
      pass
  return text


def tried(cases: dict[str, list[Trial]]) -> str:
  """A Markdown table of the trials and their accuracy, the best in bold."""
  lines = []
  for case, trials in cases.items():
    names = dict.fromkeys(name for trial in trials for name in values(trial))
    cells = []
    for trial in trials:
      given = values(trial)
      words = ' '.join(str(given[name]) for name in names if name in given)
      mark = '**' * (trial is best(trials))
      cells.append(f'{mark}{words}: {accuracy(trial):.3f}{mark}')
    lines.append([case, ', '.join(names), '; '.join(cells)])
  return versus.markdown(['case', 'of', 'accuracy as held'], lines)


if __name__ == '__main__':
  main(sys.argv)
