"""The process that compiles one plan: a job on stdin, its answer on stdout."""

import json
import sys

from rm_jax.plan.compile import run_job
from rm_jax.types import UserError


def main() -> None:
  """Reads a job of `compile_step`; the answer is the last line printed."""
  job = json.load(sys.stdin)
  try:
    answer = run_job(job)._asdict()
  except UserError as error:
    answer = {"error": str(error)}
  print(json.dumps(answer))


if __name__ == "__main__":
  main()
