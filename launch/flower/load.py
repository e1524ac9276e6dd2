"""How many clients a second one server process serves, and in what memory.

  python launch/flower/load.py --rounds=500 --config=digits --config.cohort=200

No client trains: all send the same upload, encoded once a round. A round is all
that the server does: it encodes a download for each client, decodes and merges
the uploads, and notes what each client has now.
"""

import resource
import sys
import time

from hns import wire
from hns.remote import server
from hns.remote.client import TOLD, envelope
from hns.remote.messages import Reply
from hns.runs import commandline, devices, experiment
from hns.runs.loop import fetch_metrics
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
    told = dict.fromkeys((*TOLD, 'loss', 'score_global'), 0.0)
    return {index: Reply(payload, told) for index in orders}

  players = server.players(exchange)
  progress = players.begin(built)
  print('round  clients/s  MB at most')
  for _ in range(10):
    start, done = time.perf_counter(), 0
    for _ in range(max(1, rounds // 10)):
      progress = fetch_metrics(players.step(built, run, progress))
      done += built.round_config.cohort
    speed = done / (time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    number = int(progress.state.round)
    print(f'{number:5d}  {speed:9.0f}  {memory:10.0f}', flush=True)


def main(words: list[str]) -> None:
  """Reads --rounds and the flags of `hns.main`."""
  from absl import flags

  values = flags.FlagValues()
  flags.DEFINE_integer('rounds', 500, 'to serve', flag_values=values)
  config = commandline.parse(words, values, __doc__).config
  devices.start()
  with devices.standard_settings():
    serve(config, values.rounds)


if __name__ == '__main__':
  main(sys.argv)
