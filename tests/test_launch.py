"""What an operator types: the script's commands, and the manifest of GKE."""

import os
import pathlib
import shlex
import subprocess

import pytest
import yaml

from rm_jax.train.loop import PREEMPTED

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
SCRIPT = LAUNCH / "tpu_pod.sh"


def launch(*arguments, **env):
  env = {"PATH": os.environ["PATH"], "DRY_RUN": "1", "ZONE": "zone"} | env
  done = subprocess.run(
    [SCRIPT, *arguments], env=env, capture_output=True, text=True
  )
  return done.returncode, done.stdout, done.stderr


def remote(line: str) -> str:
  """What a printed gcloud command runs on the hosts."""
  (command,) = (x for x in shlex.split(line) if x.startswith("--command="))
  return command.removeprefix("--command=")


def check_shell(text: str) -> None:
  done = subprocess.run(
    ["bash", "-n"], input=text, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


def test_the_script_is_shell_and_says_its_verbs():
  check_shell(SCRIPT.read_text())
  code, out, _ = launch("--help", ZONE="")
  assert code == 0
  for verb in (
    "request",
    "state",
    "install",
    "train",
    "log",
    "stop",
    "release",
  ):
    assert f"tpu_pod.sh {verb} NAME" in out
    assert f"\n  {verb})\n" in SCRIPT.read_text()
  assert "set -euo" not in out


def test_a_slice_is_asked_for_by_its_own_name():
  code, out, _ = launch("request", "pod", "v5e-16", "--spot", PROJECT="mine")
  assert code == 0
  words = shlex.split(out)
  assert words[:5] == [
    "gcloud",
    "compute",
    "tpus",
    "queued-resources",
    "create",
  ]
  for word in (
    "pod",
    "--zone=zone",
    "--project=mine",
    "--node-id=pod",
    "--accelerator-type=v5litepod-16",
    "--runtime-version=v2-alpha-tpuv5-lite",
    "--spot",
  ):
    assert word in words


def test_what_runs_on_the_hosts_is_shell_with_the_flags_as_they_were_given():
  note = "--config.note=it's a test; rm -rf /"
  code, out, err = launch("train", "pod", "c.py", "gs://bucket/run", note)
  assert code == 0, err
  assert "--worker=all" in shlex.split(out)
  command = remote(out)
  check_shell(command)
  words = shlex.split(command.split("nohup ")[1].split(" > ")[0])
  assert words == [
    ".venv/bin/rm-jax",
    "train",
    "--distributed=auto",
    "--config=c.py",
    "--workdir=gs://bucket/run",
    note,
  ]
  for verb in ("install", "log", "stop"):
    code, out, err = launch(verb, "pod")
    assert code == 0, err
    check_shell(remote(out.strip().splitlines()[-1]))
  assert "kill -TERM" in remote(launch("stop", "pod")[1])


@pytest.mark.parametrize(
  "arguments, env, said",
  [
    (("state",), {}, "expected VERB NAME"),
    (("state", "pod"), {"ZONE": ""}, "ZONE is not set"),
    (("request", "pod", "v9-1"), {}, "slice v9-1 is not known. Known: v4-N"),
    (("train", "pod", "c.py", "runs/x"), {}, "WORKDIR=runs/x must be gs://"),
    (("fly", "pod"), {}, "unknown verb fly"),
  ],
)
def test_a_mistake_is_one_line_and_nothing_runs(arguments, env, said):
  code, out, err = launch(*arguments, **env)
  assert code == 2 and out == ""
  assert said in err and len(err.splitlines()) == 1


def test_the_manifest_restarts_what_may_go_on_and_nothing_else():
  (spec,) = [
    x["spec"] for x in yaml.safe_load_all((LAUNCH / "gke.yaml").read_text())
  ]
  job = spec["replicatedJobs"][0]["template"]["spec"]
  assert job["parallelism"] == job["completions"]
  assert job["backoffLimit"] == 0  # one host is never restarted by itself
  (rule,) = job["podFailurePolicy"]["rules"]
  assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2]
  assert PREEMPTED not in rule["onExitCodes"]["values"]
  (container,) = job["template"]["spec"]["containers"]
  assert container["args"][:2] == ["train", "--distributed=auto"]
  assert any(x.startswith("--workdir=gs://") for x in container["args"])


def test_the_commands_of_the_page_are_those_of_the_script():
  text = (LAUNCH.parent / "docs" / "pods.md").read_text().replace("\\\n", " ")
  lines = [x for x in text.splitlines() if x.startswith("launch/tpu_pod.sh")]
  assert len(lines) == 7
  for line in lines:
    code, out, err = launch(*shlex.split(line, comments=True)[1:])
    assert code == 0 and out.startswith(("gcloud", "git")), err
