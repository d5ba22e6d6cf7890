"""The plans beside the full-size configs are those of their commands."""

import json
import shlex

import pytest

from bench.tpu_plans import OUT, PAGE, PLANS, command, page
from rm_jax.plan.slices import find_slice
from tests.test_configs import ROOT, load

NAMES = sorted(path.stem for path in OUT.glob("*.json"))


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_names_a_config_and_chips_that_hold_its_mesh(name):
  config, where, _ = PLANS[name]
  file, _, argument = config.partition(":")
  c = load(ROOT / "configs" / file).get_config(*[argument] * bool(argument))
  mesh = c.mesh.data * c.mesh.fsdp * c.mesh.tensor
  assert mesh == find_slice(where).chips


def test_plans_are_kept():
  assert "llama3_8b_bt.v5e-16" in NAMES and set(NAMES) <= set(PLANS)


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_of_a_plan_say_the_same(name):
  said = json.loads((OUT / f"{name}.json").read_text())
  text = (OUT / f"{name}.txt").read_text()
  assert text.startswith(f"$ rm-jax {shlex.join(command(name))}\n")
  assert said["slice"] == PLANS[name][1] and said["fits"]
  assert (
    f"{said['hbm_peak_gib']:.2f} GiB of {said['hbm_limit_gib']:.2f}" in text
  )
  assert f"{said['collective_gib']:.2f} GiB: " in text


def test_the_page_is_what_the_plans_say():
  text = PAGE.read_text()
  assert page(text) == text, "python -m bench.tpu_plans --page"
  assert "| `llama3_8b_bt.v5e-16` | 16 | 11.60 |" in text
