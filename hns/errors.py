"""The one error a user's input can raise."""


class InputError(ValueError):
  """Something the user gave cannot be used; the message is one sentence."""


def invalid(field: str, value: object, remedy: str) -> InputError:
  """An `InputError` that names the field, its value and what would be right."""
  return InputError(' '.join(f'{field}={value!r}: {remedy}'.splitlines()))


def shown(path: object) -> str:
  """A path as one line of text, quoted if it would not be one."""
  text = str(path)
  return text if text.isprintable() else repr(text)
