"""Fields of a row, checked: what is not as it should be is said in words."""

import json
import math

STEP_SEPARATOR = "\n"  # between the steps of one completion
LARGEST = 3.4e38  # losses, labels and margins are float32, 1e39 is inf there
MOST = 2**31 - 1  # ranks and indices are int32
ROLES = {"human": "user", "gpt": "assistant", "prompter": "user"}


class BadRow(Exception):
  """Reason why a row, or one record of it, cannot be used."""


def is_number(value) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def need_number(value, name: str) -> float:
  if not is_number(value):
    raise BadRow(f"{name} must be a number, got {shown(value)}")
  if isinstance(value, float) and not math.isfinite(value):
    raise BadRow(f"{name} must be finite, got {value}")
  if abs(value) > LARGEST:
    raise BadRow(f"{name} must fit a float32, got {shown(value)}")
  return float(value)


def shown(value) -> str:
  """Returns the beginning of a value, for a message."""
  if isinstance(value, float):
    return str(value)  # JSON's NaN and Infinity are nobody's nan and inf
  try:
    return json.dumps(value)[:40]
  except ValueError:  # an integer of thousands of digits
    return type(value).__name__


def need_label(value, name: str) -> float:
  """Returns a boolean as 0.0 or 1.0, a soft label as it is: never int()."""
  label = float(value) if isinstance(value, bool) else need_number(value, name)
  if not 0 <= label <= 1:
    raise BadRow(f"{name} must be a boolean or in [0, 1], got {shown(value)}")
  return label


def need_rating(value, name: str) -> float:
  """Returns a number, NaN for null: nobody rated this."""
  return math.nan if value is None else need_number(value, name)


def need_strength(value, name: str) -> float | None:
  """Returns how much better the chosen one is: 0 unsure ... 3 significantly."""
  if value is None:
    return None
  strength = need_number(value, name)
  if not 0 <= strength <= 3:
    raise BadRow(f"{name} must be in [0, 3], got {shown(value)}")
  return strength


def need_integer(value, name: str) -> int:
  # 2.0 as well: a list of an Arrow table has one type, often float.
  if not is_number(value) or value != value or value % 1:
    raise BadRow(f"{name} must be an integer, got {shown(value)}")
  if abs(value) > MOST:
    raise BadRow(f"{name} must be an integer of 32 bits, got {shown(value)}")
  return int(value)


def need_index(value, name: str, count: int) -> int:
  """Returns an index from 0, as the row has it, that is below `count`."""
  index = need_integer(value, name)
  if not 0 <= index < count:
    raise BadRow(f"{name} must be in 0 ... {count - 1}, got {index}")
  return index


def need_object(value, name: str) -> dict:
  if not isinstance(value, dict):
    raise BadRow(f"{name} must be an object, got {type(value).__name__}")
  return value


def need_list(value, name: str) -> list:
  if not isinstance(value, list):
    raise BadRow(f"{name} must be a list, got {type(value).__name__}")
  if not value:
    raise BadRow(f"{name} is empty")
  return value


def need_text(value, name: str) -> str:
  if not isinstance(value, str):
    raise BadRow(f"{name} must be a string, got {type(value).__name__}")
  if any("\ud800" <= c <= "\udfff" for c in value):  # JSON allows "\ud800"
    raise BadRow(f"{name} holds half a surrogate pair, which is not text")
  return value


def need_messages(value, name: str) -> tuple:
  """Returns messages of {role, content}; ShareGPT's {from, value} as well."""
  messages = []
  for i, message in enumerate(need_list(value, name)):
    if not isinstance(message, dict):
      raise BadRow(
        f"{name}[{i}] must be a message, got {type(message).__name__}"
      )
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    role = need_text(role, f"{name}[{i}].role")
    content = need_text(content, f"{name}[{i}].content")
    messages.append({"role": ROLES.get(role, role), "content": content})
  return tuple(messages)


def need_prompt(value):
  if isinstance(value, str):
    return need_text(value, "field 'prompt'")
  return need_messages(value, "field 'prompt'")


def need_completion(value, name: str, prompt=""):
  """Returns a completion: messages, or a string for one assistant turn.

  Messages that begin with the prompt again lose it. Empty is a BadRow.
  """
  if isinstance(value, dict):  # ShareGPT: one message
    value = [value]
  if isinstance(value, list):
    messages = need_messages(value, name)
    head = prompt
    if isinstance(prompt, str):
      head = ({"role": "user", "content": prompt},)
    if len(messages) > len(head) and messages[: len(head)] == tuple(head):
      messages = messages[len(head) :]
    text = messages[-1]["content"]
    if len(messages) == 1 and messages[0]["role"] == "assistant":
      value = text
    else:
      value = messages
  else:
    value = text = need_text(value, name)
  if not text.strip():
    raise BadRow(f"{name} is empty")
  return value


def need_group(row) -> tuple:
  """Returns (prompt, completions) of a row that has both."""
  prompt = need_prompt(row["prompt"])
  completions = need_list(row["completions"], "field 'completions'")
  return prompt, tuple(
    need_completion(completion, f"completion {k}", prompt)
    for k, completion in enumerate(completions)
  )


def need_each(row, field: str, count: int) -> list:
  """Returns the list of a field: one value for each of `count` completions."""
  values = need_list(row[field], f"field '{field}'")
  if len(values) != count:
    raise BadRow(
      f"field '{field}' has {len(values)} values for {count} completions"
    )
  return values


def need_attributes(objects, names) -> tuple:
  """Returns (attributes, attribute_ratings) of K objects {attribute: number}.

  Attributes stand in the order of the first object; where the objects do not
  name the same ones, all of them in sorted order. Null or absent is NaN: not
  rated.

  Args:
    objects: K of them, {attribute: number or null}.
    names: K texts for messages.

  Raises:
    BadRow: no object, not a number, nothing rated.
  """
  objects = [
    need_object(o, name) for o, name in zip(objects, names, strict=True)
  ]
  attributes = tuple(objects[0])
  if any(o.keys() != objects[0].keys() for o in objects):
    attributes = tuple(sorted(set().union(*objects)))
  ratings = tuple(
    tuple(need_rating(o.get(a), f"{a!r} of {name}") for a in attributes)
    for o, name in zip(objects, names, strict=True)
  )
  if all(math.isnan(rating) for row in ratings for rating in row):
    raise BadRow(f"no attribute is rated in {' and '.join(names)}")
  return attributes, ratings


# One scale for all: a step label is the probability that the step is right.
# Three-class labels -1, 0, 1 become 0, 1/2, 1, so that 0 always means wrong,
# whoever wrote it; `supervise` turns them back for a three-class loss.


def join_steps(steps, name="completion") -> tuple:
  """Returns (text, ends): the steps joined, and the character after each."""
  text, ends = "", []
  for i, step in enumerate(steps):
    if not need_text(step, f"step {i + 1} of {name}").strip():
      raise BadRow(f"step {i + 1} of {name} is empty")
    text += (STEP_SEPARATOR if i else "") + step
    ends.append(len(text.rstrip()))  # white space may be cut by a template
  return text, tuple(ends)


def three_class(rating) -> float:
  """Returns the label of a rating -1 (wrong), 0 (neutral) or 1 (right)."""
  if isinstance(rating, bool) or rating not in (-1, 0, 1):
    raise BadRow(f"a step rating must be -1, 0 or 1, got {shown(rating)}")
  return (rating + 1) / 2


def step_labels(labels, name: str) -> tuple:
  """Returns step labels in [0, 1].

  Booleans and numbers in [0, 1] as they are; a list that holds a -1 is read as
  three-class. Integers 0 and 1 alone mean wrong and right.
  """
  if any(is_number(label) and label == -1 for label in labels):
    return tuple(map(three_class, labels))
  return tuple(
    need_label(label, f"step label {i + 1} of {name}")
    for i, label in enumerate(labels)
  )
