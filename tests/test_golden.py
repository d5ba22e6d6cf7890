"""Three train steps of a tiny model give the committed numbers.

Catches: a change that was meant to change nothing. When it is right to
regenerate them: see tests/golden/make_train_steps.py.
"""

import json

import numpy as np

from tests.golden import make_train_steps


def test_three_train_steps():
  want = json.loads(make_train_steps.OUT.read_text())
  got = make_train_steps.make()
  assert got.keys() == want.keys()
  for name, values in want.items():
    # float32 sums in another order on another CPU.
    np.testing.assert_allclose(got[name], values, rtol=1e-4, err_msg=name)
  assert want["loss"][-1] < want["loss"][0]
