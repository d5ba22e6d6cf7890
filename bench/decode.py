"""What sampling costs: new tokens a second of SmolLM2-135M-Instruct.

  python bench/decode.py
  python bench/decode.py --shapes=4x8,16x8,32x8 --dtypes=bfloat16 --top_p=0.95

Prints one JSON object: for every dtype and shape (prompts x samples, all side
by side) new tokens a second with the cache, each repeat and the best, and how
many times the path without a cache it is. That path, a full forward over 32
rows for every token, is timed on a few tokens at the final length: its cost
grows with rows, not with what the rows hold. The load of the machine stands
beside the numbers: other work on it makes them smaller.
"""

import argparse
import json
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from rm_jax.config import has_bfloat16
from rm_jax.data.tokenizers import load_tokenizer
from rm_jax.models import decode
from rm_jax.models.convert import load_pretrained
from rm_jax.models.dots import dot
from rm_jax.models.sight import Forest
from rm_jax.models.transformer import Decoder, unembedding

TEXTS = (
  "What is the capital of France?",
  "Write a short poem about rain on a tin roof in summer.",
  "How do I boil an egg so that the yolk stays soft? Give me short steps.",
  "Explain gravity to a child who likes apples and dislikes long words.",
)
ROWS = 32  # of the path without a cache
STEPS = 2  # tokens it is timed on
REPEATS = 3


def chat_prompts(count: int) -> list[list[int]]:
  """Token ids of `count` chat prompts, of four lengths in turn."""
  tokenizer = load_tokenizer("smollm2")
  ids = [
    tokenizer.apply_chat_template(
      [{"role": "user", "content": text}],
      add_generation_prompt=True,
      return_dict=False,
    )
    for text in TEXTS
  ]
  return [ids[i % len(ids)] for i in range(count)]


def repeated(run, new: int) -> dict:
  """Tokens a second of each repeat and the best, after one run to warm up."""
  start = time.perf_counter()
  run()
  first = time.perf_counter() - start
  rates = []
  for _ in range(REPEATS):
    start = time.perf_counter()
    run()
    rates.append(round(new / (time.perf_counter() - start), 1))
  return {"first_s": round(first, 1), "tokens_per_s": rates, "best": max(rates)}


def with_cache(config, params, asked, *, prompts, samples, dtype) -> dict:
  """What `sample` takes for prompts x samples in one batch; nothing ends."""
  decode.SIDE_BY_SIDE = prompts * samples
  ids = chat_prompts(prompts)

  def run():
    decode.sample(
      config,
      params,
      ids,
      samples=samples,
      max_tokens=asked.max_tokens,
      temperature=1.0,
      top_p=asked.top_p,
      stop=(),
      seed=0,
      dtype=dtype,
    )

  return repeated(run, prompts * samples * asked.max_tokens)


def without_cache(config, params, asked, *, dtype) -> dict:
  """A full forward of ROWS rows for each token, at the final length."""
  longest = max(map(len, chat_prompts(len(TEXTS))))
  shape = (ROWS, longest + asked.max_tokens)
  line = jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32)[None], shape)
  forest = Forest(0 * line + 1, 0 * line, line, 0 * line)
  decoder = Decoder(config, (config.layers,), dtype, remat=False)

  @jax.jit
  def next_tokens(params, tokens):
    hidden = decoder.apply({"params": params}, tokens, forest)[:, -1:]
    table = unembedding(params, config)
    logits = dot("bld,vd->blv", hidden, table, dtype=dtype)
    return jnp.argmax(logits[:, 0], axis=-1)

  def run():
    tokens = np.ones(shape, np.int32)
    for _ in range(STEPS):
      tokens[:, -1] = next_tokens(params, tokens)

  return repeated(run, ROWS * STEPS)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--shapes", default="4x8,16x8")
  parser.add_argument("--dtypes", default="float32,bfloat16")
  parser.add_argument("--max_tokens", type=int, default=64)
  parser.add_argument("--top_p", type=float, default=1.0)
  asked = parser.parse_args()
  config, params, _ = load_pretrained("smollm2")
  params = jax.tree.map(jnp.asarray, params)
  rows = []
  for dtype in asked.dtypes.split(","):
    slow = without_cache(config, params, asked, dtype=dtype)
    rows.append({"dtype": dtype, "cache": False, "rows": ROWS} | slow)
    for shape in asked.shapes.split(","):
      prompts, samples = map(int, shape.split("x"))
      size = {"prompts": prompts, "samples": samples, "dtype": dtype}
      fast = with_cache(config, params, asked, **size)
      ratio = round(fast["best"] / slow["best"], 1)
      rows.append(size | {"cache": True} | fast | {"times_uncached": ratio})
  print(
    json.dumps(
      {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "bfloat16_hardware": has_bfloat16(),
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "max_tokens": asked.max_tokens,
        "top_p": asked.top_p,
        "runs": rows,
      },
      indent=1,
    )
  )


if __name__ == "__main__":
  main()
