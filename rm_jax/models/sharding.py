"""The device mesh, and which mesh axis each logical axis is cut over."""

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rm_jax.types import UserError

MESH_AXES = ("data", "fsdp", "tensor")

# logical axis -> mesh axis. Parameters are cut over fsdp and tensor; batches
# over data and fsdp; the residual stream of a row over tensor, by token;
# nothing that a norm or the head reduces over is cut.
RULES = (
  ("batch", ("data", "fsdp")),
  ("lookup", "data"),  # rows whose tokens are looked up in cut tables
  ("embed", "fsdp"),
  ("vocab", "tensor"),
  ("heads", "tensor"),
  ("mlp", "tensor"),
  ("layers", None),
  ("positions", None),
  ("length", "tensor"),
  ("stream", None),
  ("norm", None),
  ("head", None),
)


def make_mesh(*, data: int, fsdp: int, tensor: int, devices=None) -> Mesh:
  """A mesh over all devices; `data` = -1 takes what the others leave.

  Args:
    devices: only these, in this order.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  fixed = fsdp * tensor
  if fsdp < 1 or tensor < 1 or data < -1 or data == 0:
    raise UserError(
      f"config.mesh={{data: {data}, fsdp: {fsdp}, tensor: {tensor}}}: sizes "
      "are positive; data may be -1, which means all devices that are left."
    )
  data = len(devices) // fixed if data == -1 else data
  if data * fixed != len(devices):
    raise UserError(
      f"config.mesh={{data: {data}, fsdp: {fsdp}, tensor: {tensor}}} covers "
      f"{data * fixed} devices, there are {len(devices)}. Set "
      "config.mesh.data=-1 and let fsdp * tensor divide the device count."
    )
  return Mesh(
    _arrange(devices, (data, fsdp, tensor)),
    MESH_AXES,
    axis_types=(AxisType.Auto,) * 3,  # logical axes need Auto, not Explicit
  )


def _arrange(devices, shape) -> np.ndarray:
  """Devices in the shape of a mesh; on a TPU neighbours are neighbours.

  Of several slices each holds a part of the data axis, so that only the sum of
  the gradients goes through the slower network between them.
  """
  if devices[0].platform != "tpu":
    return np.asarray(devices).reshape(shape)
  slices = len({getattr(x, "slice_index", 0) for x in devices})
  if shape[0] % slices:
    raise UserError(
      f"config.mesh.data={shape[0]} does not split over {slices} slices "
      f"(remainder {shape[0] % slices}): parameters are not cut over slices. "
      f"Set it to a multiple of {slices}."
    )
  if slices == 1:
    return mesh_utils.create_device_mesh(
      shape, list(devices), allow_split_physical_axes=True
    )
  inside = (shape[0] // slices, *shape[1:])
  return mesh_utils.create_hybrid_device_mesh(
    inside, (slices, 1, 1), list(devices), allow_split_physical_axes=True
  )


def shard_tree(boxed, mesh: Mesh):
  """NamedShardings of a tree whose leaves may carry logical axis names."""
  specs = nn.get_partition_spec(boxed)
  return nn.logical_to_mesh_sharding(specs, mesh, RULES)


def check_divides(boxed, shards, mesh: Mesh) -> None:
  """Raises UserError unless every axis that a mesh axis cuts splits evenly."""

  def check(path, leaf, shard):
    for size, axis in _uneven(leaf.shape, shard):
      raise UserError(
        f"config.mesh.{axis}={mesh.shape[axis]} does not divide an axis of "
        f"{size} of parameter {jax.tree_util.keystr(path)} (remainder "
        f"{size % mesh.shape[axis]}). Choose a divisor of {size}."
      )

  jax.tree_util.tree_map_with_path(check, nn.unbox(boxed), shards)


def _uneven(shape: tuple, shard: NamedSharding):
  """Yields (size, mesh axis) of the axes that a mesh axis does not divide."""
  for size, axes in zip(shape, shard.spec, strict=False):
    for axis in axes if isinstance(axes, tuple) else (axes,):
      if axis is not None and size % shard.mesh.shape[axis]:
        yield size, axis


def local_mesh() -> Mesh | None:
  """The devices of this process, parameters cut over all; None: it has one."""
  devices = jax.local_devices()
  if len(devices) == 1:
    return None
  return make_mesh(data=1, fsdp=len(devices), tensor=1, devices=devices)


def put_evenly(params, boxed, mesh: Mesh):
  """Parameters over a mesh by RULES, where they split evenly.

  What does not, or has no logical axes, is copied to every device.

  Args:
    boxed: shapes of the parameters with their logical axes.
  """
  leaves = jax.tree_util.tree_flatten_with_path(shard_tree(boxed, mesh))[0]
  known = {jax.tree_util.keystr(path): shard for path, shard in leaves}
  whole = NamedSharding(mesh, PartitionSpec())

  def put(path, x):
    shard = known.get(jax.tree_util.keystr(path), whole)
    return jax.device_put(x, whole if any(_uneven(x.shape, shard)) else shard)

  return jax.tree_util.tree_map_with_path(put, params)


def block_sharding(mesh: Mesh) -> NamedSharding:
  """How a batch is cut: its blocks over data and fsdp."""
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def own_blocks(mesh: Mesh, blocks: int) -> list[int]:
  """The blocks of a batch that devices of this process hold, in order.

  All of them where there is one process. Read off the mesh: blocks need not
  follow the numbers of the processes, and where a tensor axis spans two
  processes both hold the same ones.
  """
  held = set()
  for index in (
    block_sharding(mesh).addressable_devices_indices_map((blocks,)).values()
  ):
    held.update(range(blocks)[index[0]])
  return sorted(held)


def put_blocks(batch, mesh: Mesh):
  """A batch over the devices, from the blocks that each process holds.

  Args:
    batch: numpy arrays [n, ...] of the n blocks of `own_blocks`.
  """
  sharding = block_sharding(mesh)
  if not mesh.is_multi_process:
    return jax.device_put(batch, sharding)
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  held = own_blocks(mesh, parts)

  def put(x):
    each = len(x) // len(held)  # blocks of a device

    def read(index):
      first = held.index((index[0].start or 0) // each) * each
      return x[first : first + each]

    shape = (each * parts, *x.shape[1:])
    return jax.make_array_from_callback(shape, sharding, read)

  return jax.tree.map(put, batch)


def put_tree(tree, shards):
  """A tree over the devices; every process has the same values of it.

  Leaves that lie on the devices of all processes already stay or move there.
  """

  def put(x, shard):
    placed = isinstance(x, jax.Array) and not x.is_fully_addressable
    if placed or shard.is_fully_addressable:
      return jax.device_put(x, shard)
    # device_put would compare the whole value over all processes.
    whole = np.asarray(x)
    return jax.make_array_from_callback(whole.shape, shard, lambda i: whole[i])

  return jax.tree.map(put, tree, shards)
