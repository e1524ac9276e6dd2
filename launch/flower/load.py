"""How many clients a second one server process serves, and in what memory.

The page launch/flower/README.md has a command. No client trains: all send the
same upload, encoded once a round. A round is all that the server does: it
encodes a download for each client, decodes and merges the uploads, and notes
what each client has now.
"""

import resource
import sys
import time

from absl import flags

from hns import wire
from hns.engine.halves import TOLD
from hns.remote import server
from hns.remote.client import envelope
from hns.remote.messages import Reply
from hns.runs import commandline, devices, experiment
from hns.runs.progress import fetch_metrics
from hns.values import ConfigDict


def serve(config: ConfigDict, rounds: int) -> None:
  """Plays rounds and prints clients a second and memory, ten times."""
  built = experiment.build(config)
  run = server.programs(built)
  codec = built.round_config.method.wire.upload_codec

  def exchange(orders):
    number = next(iter(orders.values())).number
    header = envelope(built, number, 'upload')
    payload = wire.encode(codec, run.upload, header)
    told = dict.fromkeys(TOLD, 0.0)
    return {index: Reply(payload, told) for index in orders}

  players = server.players(exchange)
  progress = players.begin(built)
  print('round  clients/s  MB at most')
  each, start = max(1, rounds // 10), time.perf_counter()
  for number in range(1, 10 * each + 1):
    progress = fetch_metrics(players.step(built, run, progress))
    if number % each:
      continue
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    speed = each * built.round_config.cohort / seconds
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f'{number:5d}  {speed:9.0f}  {memory:10.0f}', flush=True)


def main(words: list[str]) -> None:
  """Reads --rounds and the flags of `hns.main`."""
  values = flags.FlagValues()
  flags.DEFINE_integer('rounds', 500, 'to serve', flag_values=values)
  config = commandline.parse(words, values, __doc__).config
  devices.start()
  with devices.standard_settings():
    serve(config, values.rounds)


if __name__ == '__main__':
  main(sys.argv)
