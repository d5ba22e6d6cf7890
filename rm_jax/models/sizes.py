"""Named decoder shapes, each with its source."""

from rm_jax.models.transformer import DecoderConfig

SIZES = {
  # Ours: odd enough (grouped heads, head_dim not width / heads) to catch
  # mix-ups, small enough to compile in a second.
  "tiny": DecoderConfig(
    vocab_size=96,
    width=32,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=16,
    mlp_width=48,
    rope_theta=1e4,
    norm_eps=1e-5,
    tied=True,
  ),
  # HuggingFaceTB/SmolLM2-135M-Instruct, config.json.
  "smollm2_135m": DecoderConfig(
    vocab_size=49152,
    width=576,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    mlp_width=1536,
    rope_theta=1e5,
    norm_eps=1e-5,
    tied=True,
  ),
}
