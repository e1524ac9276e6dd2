"""The error for wrong input of a user."""


class InputError(ValueError):
  """Input of the user cannot be used; the message is one line."""


def invalid(field: str, value: object, remedy: str) -> InputError:
  """An `InputError` with a field, its value, and what would be right."""
  return InputError(' '.join(f'{field}={value!r}: {remedy}'.splitlines()))


def shown(path: object) -> str:
  """A path as one line of text, quoted if it is not printable."""
  text = str(path)
  return text if text.isprintable() else repr(text)
