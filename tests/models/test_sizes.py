"""The named shapes against parameter counts that others published."""

import math

import pytest

from rm_jax.models.names import shapes
from rm_jax.models.sizes import SIZES

# Parameters, the embedding table once where it is tied. Llama 2, Yi, Mistral,
# Llama 3, Qwen2.5, Gemma 2, SmolLM2: of the safetensors header that each model
# page on huggingface.co shows. Pythia: Biderman et al. 2023, arXiv:2304.01373,
# table 1 and the README of EleutherAI/pythia.
COUNTS = {
  "smollm2_135m": 134_515_008,
  "smollm2_360m": 361_821_120,
  "smollm2_1.7b": 1_711_376_384,
  "llama2_7b": 6_738_415_616,
  "llama2_13b": 13_015_864_320,
  "llama2_70b": 68_976_648_192,
  "yi_34b": 34_388_917_248,
  "llama3.1_8b": 8_030_261_248,
  "llama3.1_70b": 70_553_706_496,
  "llama3.2_1b": 1_235_814_400,
  "llama3.2_3b": 3_212_749_824,
  "mistral_7b": 7_241_732_096,
  "mistral_7b_v0.3": 7_248_023_552,
  "qwen2.5_0.5b": 494_032_768,
  "qwen2.5_1.5b": 1_543_714_304,
  "qwen2.5_3b": 3_085_938_688,
  "qwen2.5_7b": 7_615_616_512,
  "qwen2.5_14b": 14_770_033_664,
  "qwen2.5_32b": 32_763_876_352,
  "qwen2.5_72b": 72_706_203_648,
  "qwen3_4b": 4_022_468_096,
  "qwen3_8b": 8_190_735_360,
  "qwen3_14b": 14_768_307_200,
  "qwen3_32b": 32_762_123_264,
  "gemma2_2b": 2_614_341_888,
  "gemma2_9b": 9_241_705_984,
  "gemma2_27b": 27_227_128_320,
  "gemma3_1b": 999_885_952,
  "pythia_70m": 70_426_624,
  "pythia_160m": 162_322_944,
  "pythia_410m": 405_334_016,
  "pythia_1b": 1_011_781_632,
  "pythia_1.4b": 1_414_647_808,
  "pythia_2.8b": 2_775_208_960,
  "pythia_6.9b": 6_857_302_016,
  "pythia_12b": 11_846_072_320,
}

# Published to fewer digits: (embedding, other) millions of Gemma 3's text half
# (Gemma Team 2025, arXiv:2503.19786, table 1); (all, without embeddings) in
# units of 1e7 of Qwen3's two smallest (their model pages: 0.6B, 0.44B, ...).
GEMMA3 = {
  "gemma3_1b": (302, 698),
  "gemma3_4b": (675, 3_209),
  "gemma3_12b": (1_012, 10_759),
  "gemma3_27b": (1_416, 25_600),
}
QWEN3 = {"qwen3_0.6b": (60, 44), "qwen3_1.7b": (172, 141)}


def count(name):
  """(embedding, other) parameters."""
  config = SIZES[name]
  sizes = {
    path: math.prod(shape) * (config.layers if path[0] == "layers_0" else 1)
    for path, shape in shapes(config).items()
  }
  embedding = sizes.pop(("embed", "embedding"))
  return embedding, sum(sizes.values())


@pytest.mark.parametrize("name", list(COUNTS))
def test_parameters_are_as_many_as_published(name):
  # Catches a wrong width, a missing bias, norm or unembedding.
  assert sum(count(name)) == COUNTS[name]


@pytest.mark.parametrize("name", list(GEMMA3))
def test_gemma3_text(name):
  embedding, other = count(name)
  # The three that also see: the report has 3 to 7 million more beside the
  # embeddings than a table of 262,208 rows; with the projection of images
  # (1152 x width) it is within its rounding.
  if name != "gemma3_1b":
    embedding += 1152 * SIZES[name].width
  want = GEMMA3[name]
  assert abs(embedding / 1e6 - want[0]) < 1 and round(other / 1e6) == want[1]


@pytest.mark.parametrize("name", list(QWEN3))
def test_small_qwen3(name):
  embedding, other = count(name)
  got = round((embedding + other) / 1e7), round(other / 1e7)
  assert got == QWEN3[name]


def test_every_shape_is_counted():
  ours = {name for name in SIZES if name.startswith(("tiny", "mini"))}
  assert {*COUNTS, *GEMMA3, *QWEN3} == set(SIZES) - ours
