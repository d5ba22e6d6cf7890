"""Arguments of a metric, checked: shapes, numbers, ranges.

`caller` is the name of the metric, for the message.
"""

import numpy as np


def same_shape(caller, **arguments):
  """Returns the arguments as float64 arrays of one shape, without NaN."""
  check_shapes(caller, **arguments)
  return numbers(caller, **arguments)


def check_shapes(caller, **arguments):
  """Raises ValueError where two of the arguments differ in shape."""
  first = next(iter(arguments))
  for name, value in arguments.items():
    if np.shape(value) != np.shape(arguments[first]):
      raise ValueError(
        f"{caller}: expected equal shapes, got {first} "
        f"{np.shape(arguments[first])} and {name} {np.shape(value)}. Pass one "
        "value of each per item."
      )


def numbers(caller, **arguments):
  """Returns the arguments as float64 arrays without NaN."""
  arrays = [np.asarray(value, np.float64) for value in arguments.values()]
  for name, array in zip(arguments, arrays, strict=True):
    if np.isnan(array).any():
      at = tuple(int(i) for i in np.argwhere(np.isnan(array))[0])
      raise ValueError(
        f"{caller}: expected numbers, got NaN in {name} at index {at}. Find "
        "out why it has no value; leave the item out and count it."
      )
  return arrays


def in_range(caller, name, array, low, high):
  """Raises ValueError where a value is below `low` or above `high`."""
  outside = (array < low) | (array > high)
  if outside.any():
    raise ValueError(
      f"{caller}: expected {name} from {low:g} to {high:g}, got "
      f"{array[outside][0]:g}. Convert it first, or leave the item out."
    )
