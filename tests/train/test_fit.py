"""Runs in memory: the numbers of the train step, whatever the layout."""

import math

import jax
import numpy as np
import pytest

from rm_jax.ablation import token_runs as runs
from rm_jax.data.loader import lay_step
from rm_jax.data.worlds.utility import draw_texts, draw_world
from rm_jax.models.sharding import make_mesh
from rm_jax.reward_model import init_params
from rm_jax.train import fit as module
from rm_jax.train.fit import compiled_steps
from rm_jax.train.optim import make_optimizer, make_schedule
from rm_jax.train.sets import train_plan
from rm_jax.train.step import make_steps
from rm_jax.train.tasks import objective, read_tasks


def data(c, seed=0, prompts=12):
  rng = np.random.default_rng(seed)
  texts = draw_texts(rng, draw_world(rng), prompts=prompts, completions=3)
  ranks = np.argsort(np.argsort(-texts.gold, axis=1), axis=1)
  return runs.groups_of(c, texts, runs.whole(texts), ranks=ranks)


def config(**changes):
  c = runs.token_config(seed=3, steps=4, groups=4, loss="all_pairs", rate=1e-2)
  c.evals.rows = 32
  c.update_from_flattened_dict(changes)
  return c


@pytest.mark.slow
def test_layouts_give_one_run():
  # Catches a plan, a slot or a weight that depends on how rows are laid.
  padded = config()
  shared = config(**{"data.layout": "shared", "data.row_len": 60})
  a = runs.run(padded, data(padded), data(padded, 1))
  b = runs.run(shared, data(shared), data(shared, 1))
  assert a.losses[0] == pytest.approx(math.log(2), rel=1e-6)
  np.testing.assert_allclose(a.losses, b.losses, rtol=1e-4)
  np.testing.assert_allclose(
    runs.scores_of(a.scored), runs.scores_of(b.scored), atol=1e-4
  )
  assert a.completions == b.completions == 4 * 4 * 3
  assert a.tokens > b.tokens  # the prompt once, not three times


def test_seeds_share_a_compilation_and_the_same_seed_its_numbers():
  c = config()
  curve = data(c, 1, 4)
  first = runs.run(
    c, data(c), data(c, 1), curve=curve, every=3, more={"again": data(c, 1)}
  )
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, _, **__: (
      compiled.append(name) if "backend_compile" in name else None
    )
  )
  again = runs.run(c, data(c), data(c, 1))
  c.seed = 4
  other = runs.run(c, data(c, 5), data(c, 1))
  c.optim.lr = 3e-3
  runs.run(c, data(c, 5), data(c, 1))
  assert not compiled
  assert first.losses == again.losses != other.losses
  assert [step for step, _ in first.curve] == [3, 4]
  np.testing.assert_array_equal(
    runs.scores_of(first.more["again"]), runs.scores_of(first.scored)
  )


def test_a_rate_is_data_and_gives_the_run_of_the_usual_optimizer():
  # Wrong: a rate that is left at 1, or that the state forgets after a step.
  c = config(**{"optim.weight_decay": 0.1, "optim.head_lr_multiplier": 2.0})
  groups, spec = data(c), module.spec_of(c, 64)
  fitted = runs.run(c, groups, None)
  other = c.copy_and_resolve_references()
  other.optim.lr = 3e-3
  loss = objective(read_tasks(c))
  assert compiled_steps(c, spec, loss) is compiled_steps(other, spec, loss)
  assert runs.run(other, groups, None).losses[2] != fitted.losses[2]
  schedule = make_schedule(c.optim, 4)  # the rate in it
  steps = make_steps(
    spec,
    loss,
    make_optimizer(c.optim, schedule),
    schedule,
    trainable="all",
    accumulate=1,
    parallel="pjit",
    mesh=make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1]),
  )
  state = steps.first_state(init_params(spec, jax.random.key(c.seed)))
  plan = train_plan(c, groups.demands, None)
  for step in range(4):
    batch, _, _ = lay_step(groups, plan, step)
    state, out = steps.train(state, {}, steps.put_batch(batch))
    # A product of three factors in another order: the last bit.
    assert float(out["loss"]) == pytest.approx(fitted.losses[step], rel=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    jax.device_get(state.params),
    fitted.params,
  )


def test_a_run_starts_where_another_ended_and_leaves_it_as_it_was():
  # Wrong: parameters that the train step, which takes them over, overwrites.
  c = config()
  first = runs.run(c, data(c), data(c, 1))
  c.optim.lr = 0.0
  for _ in range(2):
    still = runs.run(c, data(c), data(c, 1), start=first.params)
    np.testing.assert_array_equal(
      runs.scores_of(still.scored), runs.scores_of(first.scored)
    )
  c.optim.lr = 1e-2
  on = runs.run(c, data(c), data(c, 1), start=first.params)
  assert on.losses[0] == still.losses[0] < first.losses[0]
  again = runs.run(c, data(c), data(c, 1), start=first.params)
  assert on.losses == again.losses
