"""python -m rm_jax VERB, the same as rm-jax VERB."""

from rm_jax.main import main

if __name__ == "__main__":
  main()
