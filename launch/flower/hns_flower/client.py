"""The client: answers orders from what it keeps in a folder of its own.

Its node config says who it is: `client=3 folder="/var/lib/hns/3"`.
"""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hns_flower import masked, records, worker

app = ClientApp()


def _who(context: Context) -> worker.Who:
  own, flags = context.node_config, str(context.run_config['flags'])
  return worker.Who(flags, int(own['client']), str(own['folder']))


@app.query()
def query(message: Message, context: Context) -> Message:
  """Who this client is."""
  about = worker.ask(_who(context), None)
  return Message(records.from_about(about), reply_to=message)


@app.train(mods=[masked.only_masked])
@app.evaluate()
def respond(message: Message, context: Context) -> Message:
  """Answers an order."""
  if masked.is_masked(message.content):
    order, middle = masked.to_order(message.content)
    reply = worker.ask(_who(context), order)
    return Message(masked.from_reply(reply, middle), reply_to=message)
  reply = worker.ask(_who(context), records.to_order(message.content))
  return Message(records.from_reply(reply), reply_to=message)
