"""Shapes of a step from a config alone, for every kind of loss and training."""

import jax
import pytest
import tiny_run

from rm_jax.data.pack import empty_batch
from rm_jax.losses import KIND, LOSSES
from rm_jax.models.sizes import PUBLISHED, SIZES
from rm_jax.objectives import SUMS
from rm_jax.plan.memory import state_parts
from rm_jax.plan.shapes import find_decoder, step_shapes, usual_geometry
from rm_jax.train.tasks import read_tasks
from rm_jax.types import UserError

STEPS = dict(model__pooling="step_ends")
TOKENS = dict(model__pooling="every_token")
# What no default gives: a loss's parameters and the head that it reads.
ASKS = {
  "bradley_terry_tempered": dict(loss__temperature=2.0),
  "bradley_terry_smoothed": dict(loss__smoothing=0.1),
  "christiano_mixture": dict(loss__noise=0.1),
  "hinge": dict(loss__gap=1.0),
  "square": dict(loss__gap=1.0),
  "listnet": dict(loss__temperature=1.0),
  "focal": dict(loss__gamma=2.0),
  "focal_penalty": dict(loss__gamma=2.0),
  "tempered_logarithm": dict(loss__temperature=0.5),
  "plackett_luce_top": dict(loss__top=1),
  "two_hot": dict(loss__low=0.0, loss__high=1.0, loss__bins=5),
  "hl_gauss": dict(
    loss__low=0.0, loss__high=1.0, loss__bins=5, loss__sigma=0.1
  ),
}
HEADS = {"two_hot": "bins", "hl_gauss": "bins", "step_cross_entropy": "steps"}
# One of each way to train: the rest of the step is the same for all losses.
RUNS = {
  "pairs": {},
  "pairs with what is added": dict(
    loss__language_coefficient=0.1,
    loss__centering=0.1,
    loss__hidden_square=0.1,
    train__accumulate=2,
    data__blocks=16,
    data__rows_per_batch=32,
  ),
  "lists": dict(loss__name="plackett_luce", mesh__tensor=2),
  "values": dict(
    **TOKENS,
    loss__name="outcome_cross_entropy",
    loss__discount=1.0,
    loss__trace=0.9,
    optim__name="adafactor",
  ),
  "steps": dict(**STEPS, loss__name="step_cross_entropy", model__head="steps"),
  "ratings": dict(
    loss__name="squared_error",
    model__head="attributes",
    model__attributes=("a", "b"),
  ),
  "adapters": dict(train__trainable="lora", lora__rank=2),
  "last layer, states known": dict(
    train__trainable="last:1", train__cache_hidden="hidden"
  ),
}


def config(**changes):
  keys = dict(init__tokenizer="", data__batch="rows", data__blocks=8)
  keys |= dict(data__rows_per_batch=16, mesh__fsdp=2)
  return tiny_run.config("none", "", **keys | changes)


def shapes_of(c, rows=2):
  return step_shapes(c, jax.devices(), None, rows)


@pytest.mark.parametrize("run", RUNS)
def test_every_way_to_train_has_a_step(run):
  shapes = shapes_of(config(**RUNS[run]))
  traced = shapes.steps.trace(shapes.state, shapes.frozen, shapes.batch)
  state, metrics = traced.out_info
  assert jax.tree.structure(state) == jax.tree.structure(shapes.state)
  assert metrics["loss"].shape == ()
  if run == "last layer, states known":
    # Of 3 layers one trains, and of the others no weight is there.
    assert "layers_0" not in shapes.frozen["backbone"]
    assert shapes.batch.hidden.shape == (8, 2, 64, 32)


@pytest.mark.parametrize("name", [n for n in LOSSES if KIND[n] in SUMS])
def test_every_loss_has_shapes(name):
  # Wrong: a loss of a head or a record kind that nobody made slots for.
  c = config(
    loss__name=name,
    model__head=HEADS.get(name, "scalar"),
    **STEPS if KIND[name] == "process" else {},
    **ASKS.get(name, {}),
  )
  tasks = read_tasks(c)
  g = usual_geometry(c, tasks, rows=2)
  batch = empty_batch(g._replace(blocks=1), 2)
  assert g.row_len == 64 and batch.tokens.shape == (1, 2, 64)
  assert g.group_size == {"pairwise": 2, "listwise": 9}.get(KIND[name], 1)
  assert min(g) >= 1


def test_capacities_grow_with_the_row():
  c = config(data__row_len=4_096)
  g = usual_geometry(c, read_tasks(c), rows=2)
  # 4096 / 256 = 16 completions a row: 16 pairs of a block's 32.
  assert (g.slots, g.completions, g.comparisons) == (16, 32, 16)
  joint = config(data__row_len=4_096, loss__language_coefficient=0.1)
  assert usual_geometry(joint, read_tasks(joint), rows=2).slots == 4_096


def test_parts_of_memory_are_those_of_one_device():
  shapes = shapes_of(config())
  parts = state_parts(shapes)
  size = sum(x.size for x in jax.tree.leaves(shapes.state.params))
  whole = sum(  # norms and the head are on every device
    x.size
    for path, x in jax.tree_util.tree_flatten_with_path(shapes.state.params)[0]
    if "norm" in jax.tree_util.keystr(path) or path[0].key == "head"
  )
  cut = 4 * ((size - whole) // 2 + whole)
  assert parts["parameters"] == cut
  assert parts["optimizer state"] == 2 * cut + 2 * 4  # two moments, two counts
  tokens = 16 * 64 // 8
  assert parts["batch"] >= 6 * 4 * tokens
  assert "residual streams kept for the way back" not in parts
  kept = state_parts(shapes_of(config(compute__remat=True)))
  name = "residual streams kept for the way back"
  assert kept[name] == 3 * tokens * 32 * 4
  two = state_parts(shapes_of(config(compute__remat=True, mesh__tensor=2)))
  assert two[name] == kept[name]  # twice the tokens, each cut in two


def test_published_names_are_shapes_that_exist():
  assert set(PUBLISHED.values()) <= set(SIZES)
  name = "meta-llama/Llama-3.1-8B-Instruct"
  assert find_decoder(name) is SIZES["llama3.1_8b"]
  assert find_decoder("random:tiny") is SIZES["tiny"]
  with pytest.raises(UserError, match=r"'random:huge' is not known. Known"):
    find_decoder("random:huge")


@pytest.mark.parametrize(
  "changes, said",
  [
    (dict(mesh__fsdp=3), r"fsdp: 3, tensor: 1.* covers 6 devices"),
    (dict(data__blocks=12, data__rows_per_batch=24), r"Nearest above: 16"),
    (dict(mesh__tensor=8, mesh__fsdp=1), r"tensor=8 .* the 4 attention heads"),
    (
      dict(mesh__tensor=8, mesh__fsdp=1, data__row_len=60),
      r"tensor=8 does not divide config.data.row_len=60 \(remainder 4\)",
    ),
    (dict(parallel="pmap"), r"parallel='pmap' is not planned"),
  ],
)
def test_what_no_run_could_do_is_refused(changes, said):
  with pytest.raises(UserError, match=said) as error:
    shapes_of(config(**changes))
  assert "\n" not in str(error.value)
