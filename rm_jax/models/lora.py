"""Low-rank adapters: what trains beside backbone weights that do not.

    y = x W + alpha / rank (x A) B,  A [in, rank], B [rank, out]

A is Gaussian, B zero, so a run begins as its base model. The tree of adapters
has the paths of the kernels, {"layers_0": {"attn": {"q": {"a", "b"}}}}, stacked
over the layers as they are. It is a tree beside the backbone, not in it: what
names, digests or converts the backbone never meets an adapter.

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; the standard deviation of
A, 1 / sqrt(in), is not in the paper: x A is then of the size of x.
"""

import dataclasses
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp

from rm_jax.types import UserError

EVERY = "all"  # as a target: every linear map of the layers


@dataclasses.dataclass(frozen=True)
class LoraSpec:
  """Everything static about the adapters; hashable."""

  rank: int
  alpha: float
  targets: tuple  # names of linear maps: q, k, v, o, gate, up, down

  @property
  def scale(self) -> float:
    """What the product of A and B is multiplied by."""
    return self.alpha / self.rank


def init_lora(spec: LoraSpec, backbone: dict, key: jax.Array) -> dict:
  """Adapters for a backbone, boxed with their logical axes.

  Args:
    backbone: its boxed parameters, or their shapes (`abstract_params`).

  Raises:
    UserError: a target that names no linear map of this backbone.
  """
  found = {
    (*path, name): kernel
    for path, name, kernel in _linears(backbone)
    if EVERY in spec.targets or name in spec.targets
  }
  known = sorted({name for _, name, _ in _linears(backbone)})
  unknown = sorted({*spec.targets} - {*known, EVERY})
  if unknown or not spec.targets:
    raise UserError(
      f"config.lora.targets={spec.targets!r}: "
      f"{unknown or 'nothing'} names no linear map of this backbone. Known: "
      f"{known}, or {EVERY!r}."
    )
  tree: dict = {}
  for path, kernel in found.items():
    layers, rows, columns = kernel.value.shape
    stack, into, out = kernel.names

    def box(value, *axes):
      return nn.LogicallyPartitioned(value, axes)

    # By name, so that other targets draw the same numbers for this one.
    own = jax.random.fold_in(key, zlib.crc32("/".join(path).encode()))
    a = jax.random.normal(own, (layers, rows, spec.rank), jnp.float32)
    a = a * rows**-0.5
    b = jnp.zeros((layers, spec.rank, columns), jnp.float32)
    # The rank is small and never cut: both products stay on one device.
    _put(
      tree,
      path,
      {"a": box(a, stack, into, None), "b": box(b, stack, None, out)},
    )
  return tree


def with_adapters(spec: LoraSpec | None, params: dict) -> dict:
  """The variables that the decoder is applied to."""
  variables = {"params": params["backbone"]}
  if spec is not None:
    variables["lora"] = _scaled(spec, params["lora"])
  return variables


def merge_lora(spec: LoraSpec | None, params: dict) -> dict:
  """{"backbone", "head"} of the same model without adapters: W + scale A B."""
  if spec is None:
    return params
  backbone = params["backbone"]
  scaled = _scaled(spec, params["lora"])

  def add(tree, adapters):
    if "a" in adapters and "b" in adapters:
      product = jnp.einsum(
        "lir,lro->lio", adapters["a"], adapters["b"], precision="highest"
      )
      return tree | {"kernel": tree["kernel"] + product}
    return tree | {k: add(tree[k], own) for k, own in adapters.items()}

  rest = {k: v for k, v in params.items() if k != "lora"}
  return rest | {"backbone": add(backbone, scaled)}


def _scaled(spec: LoraSpec, adapters: dict) -> dict:
  """The adapters with the scale in B, where it is one small product."""

  def scale(path, x):
    return x * spec.scale if path[-1].key == "b" else x

  return jax.tree_util.tree_map_with_path(scale, adapters)


def _linears(backbone: dict, path: tuple = ()):
  """Yields (path, name, kernel) of every linear map in a stack of layers."""
  for name, below in backbone.items():
    if not path and not name.startswith("layers_"):
      continue
    if isinstance(below, dict) and "kernel" in below:
      yield path, name, below["kernel"]
    elif isinstance(below, dict):
      yield from _linears(below, (*path, name))


def _put(tree: dict, path: tuple, value) -> None:
  for key in path[:-1]:
    tree = tree.setdefault(key, {})
  tree[path[-1]] = value
