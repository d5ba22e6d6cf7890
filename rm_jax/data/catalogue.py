"""The formats that rows come in: a table one can read.

General ones of our own, those of published data sets, and results that are no
data. Whatever its format, a row may also carry

    weight      a number above 0: importance of its records
    annotator   text or integer: who gave the annotation
    source      text: the data set it says it comes from (Record.origin)

each null where unknown; `recognise.provenance` reads them.
"""

from collections.abc import Callable
from typing import NamedTuple

from rm_jax.data import judged, rated, reasoning, trees
from rm_jax.data.formats import (
  OUTCOME,
  UNLABELLED,
  read_comparisons,
  read_outcome,
  read_ranking,
  read_ratings,
  read_unlabelled,
)
from rm_jax.data.pairs import read_pair
from rm_jax.data.steps import read_first_error, read_steps, read_values


class Format(NamedTuple):
  """How a row is recognised and read."""

  fields: tuple  # present in every such row
  test: Callable  # row -> bool: what the field names alone do not tell
  read: Callable  # row -> Record, or list of Record and BadRow
  shape: str  # for people


def always(row) -> bool:
  return True


# The first match counts: foreign formats before the general ones.
FORMATS = {
  "prm800k": Format(
    ("question", "label"),
    lambda row: isinstance(row["label"], dict) and "steps" in row["label"],
    trees.read_prm800k,
    "{question: {problem}, label: {steps}} (PRM800K)",
  ),
  "math_aps": Format(
    ("question", "reasoning_steps"),
    lambda row: isinstance(row["reasoning_steps"], list),
    trees.read_math_aps,
    "{question, reasoning_steps: [{solution_prefix, mc_value}]} (MATH-APS)",
  ),
  "math_aps_tree": Format(
    ("question", "reasoning_steps"),
    lambda row: isinstance(row["reasoning_steps"], dict),
    trees.read_math_aps_tree,
    "{question, reasoning_steps: {text, mc_value, children}} (MATH-APS)",
  ),
  "prmbench": Format(
    ("modified_question", "modified_process", "error_steps"),
    always,
    reasoning.read_prmbench,
    "{modified_question, modified_process, error_steps} (PRMBench)",
  ),
  "processbench": Format(
    ("problem", "steps", "label"),
    always,
    reasoning.read_processbench,
    "{problem, steps, label} (ProcessBench)",
  ),
  "big_bench_mistake": Format(
    ("input", "steps", "mistake_index"),
    always,
    reasoning.read_big_bench_mistake,
    "{input, steps, mistake_index} (BIG-Bench Mistake)",
  ),
  "mr_gsm8k": Format(
    (
      "question",
      "model_output_steps",
      "model_output_solution_correctness",
      "model_output_solution_first_error_step",
    ),
    always,
    reasoning.read_mr_gsm8k,
    "{question, model_output_steps, model_output_solution_correctness, "
    "model_output_solution_first_error_step} (MR-GSM8K)",
  ),
  "mr_ben": Format(
    (),
    reasoning.is_mr_ben,
    reasoning.read_mr_ben,
    "{<question id>: [{Question, Model_Solution_Steps, "
    "Model_Solution_First_Error_Step}]} (MR-Ben)",
  ),
  "math_shepherd": Format(
    ("input", "label"),
    lambda row: (
      isinstance(row["label"], str)
      and reasoning.MATH_SHEPHERD_MARKER in str(row["input"])
    ),
    reasoning.read_math_shepherd,
    "{input: steps with markers, label: + and - for them} (Math-Shepherd)",
  ),
  "gsm8k": Format(
    ("question",),
    lambda row: bool(reasoning.solutions(row)),
    reasoning.read_gsm8k,
    "{question, <model>: {solution, is_correct}} (GSM8K solutions)",
  ),
  "rewardmath": Format(
    ("problem", "eval_solution", "solution_type"),
    always,
    reasoning.read_rewardmath_direct,
    "{problem, eval_solution, solution_type} (RewardMATH)",
  ),
  "rewardmath_pair": Format(
    ("problem", "eval_solution_A", "eval_solution_B", "chosen_position"),
    always,
    reasoning.read_rewardmath_pair,
    "{problem, eval_solution_A, eval_solution_B, chosen_position} (RewardMATH)",
  ),
  "oasst": Format(
    ("message_tree_id", "prompt"),
    lambda row: isinstance(row["prompt"], dict),
    judged.read_oasst,
    "{message_tree_id, prompt: {text, role, replies}} (OpenAssistant)",
  ),
  "fine_grained_rlhf": Format(
    ("question", "prediction 1", "preference"),
    always,
    judged.read_fine_grained,
    "{question, prediction 1 ... prediction 4, preference} (Fine-grained RLHF)",
  ),
  "alpaca_eval": Format(
    ("instruction", "output_1", "output_2", "preference"),
    always,
    judged.read_alpaca_eval,
    "{instruction, output_1, output_2, preference} (AlpacaEval)",
  ),
  "pandalm": Format(
    ("instruction", "response1", "response2", "annotator1"),
    always,
    judged.read_pandalm,
    "{instruction, input, response1, response2, annotator1 ... annotator3} "
    "(PandaLM)",
  ),
  "llmbar": Format(
    ("input", "output_1", "output_2", "label"),
    lambda row: "results" not in row,  # the same pairs, judged: see UNUSABLE
    judged.read_llmbar,
    "{input, output_1, output_2, label} (LLMBar)",
  ),
  "ifbench": Format(
    ("text_chosen", "text_rejected"),
    always,
    judged.read_ifbench,
    "{text_chosen, text_rejected} (IFBench)",
  ),
  "rm_bench": Format(
    ("prompt", "chosen", "rejected"),
    lambda row: all(
      isinstance(row[side], list)
      and all(isinstance(text, str) for text in row[side])
      for side in ("chosen", "rejected")
    ),
    judged.read_rm_bench,
    "{prompt, chosen: answers, rejected: answers} (RM-Bench)",
  ),
  "llmzoo": Format(
    ("metadata", "order"),
    always,
    judged.read_llmzoo,
    "{metadata: {question, answers}, order} (LLMZoo reviews)",
  ),
  "just_eval": Format(
    ("input", "output_cand", "parsed_result"),
    always,
    rated.read_just_eval,
    "{input, output_cand, parsed_result} (just-eval)",
  ),
  "prometheus": Format(
    ("instruction", "gpt4_score"),
    always,
    rated.read_prometheus,
    "{instruction: the judge's prompt, gpt4_score} (Prometheus)",
  ),
  "shepherd": Format(
    ("latestLabel", "metadata"),
    always,
    rated.read_shepherd,
    "{metadata: {context, output_candidate}, latestLabel} (Shepherd)",
  ),
  "themis": Format(
    ("question", "pos_answer", "neg_answer"),
    always,
    rated.read_themis,
    "{question, pos_answer: {answer, score}, neg_answer} (Themis)",
  ),
  "answer_label": Format(
    ("question", "answer", "label"),
    always,
    rated.read_answer_label,
    "{question, answer, label} (Themis's TruthfulQA)",
  ),
  "pair": Format(
    ("chosen", "rejected"),
    always,
    read_pair,
    "{[prompt,] chosen, rejected [, strength: 0-3, margin, chosen_rating, "
    "rejected_rating, chosen_ratings: {attribute: number}, rejected_ratings] "
    "[, preference: share for chosen | votes: [a, b] | tie: true]}",
  ),
  "ranking": Format(
    ("prompt", "completions", "ranks"),
    always,
    read_ranking,
    "{prompt, completions, ranks [, ratings]}",
  ),
  "comparisons": Format(
    ("prompt", "completions", "comparisons"),
    always,
    read_comparisons,
    "{prompt, completions, comparisons: [[i, j, outcome 1 | 0 | 0.5 "
    "[, strength]]] [, ratings]}",
  ),
  "ratings": Format(
    ("prompt", "completions", "ratings"),
    always,
    read_ratings,
    "{prompt, completions, ratings: numbers or {attribute: number or null}}",
  ),
  "first_error": Format(
    ("prompt", "completions", "first_error"),
    always,
    read_first_error,
    "{prompt, completions: steps, first_error: index or -1}",
  ),
  "values": Format(
    ("prompt", "completions", "values"),
    always,
    read_values,
    "{prompt, completions: steps, values}",
  ),
  "steps": Format(
    ("prompt", "completions", "labels"),
    always,
    read_steps,
    "{prompt, completions: steps, labels} (TRL stepwise)",
  ),
  "outcome": Format(
    (),
    lambda row: (
      {"prompt", "completion", "label"} <= row.keys()
      or {"messages", "label"} <= row.keys()
    ),
    read_outcome,
    OUTCOME,
  ),
  "unlabelled": Format(
    ("prompt",),
    lambda row: "completions" in row or "completion" in row,
    read_unlabelled,
    UNLABELLED,
  ),
}

# Fields of a row that is no format -> what it lacks. Results about data, not
# data; asked after FORMATS.
UNUSABLE = {
  ("question", "answer"): (
    "a problem with its solution (GSM8K), but no label: nothing to compare or "
    "to tell apart; give {question, answer, label}"
  ),
  ("session_id", "parsed_result", "model_output"): (
    "WildBench scores without prompts: join them to the data set by session_id"
  ),
  ("problem", "solution_reference", "score"): (
    "scores by name of the solution (RewardMATH), but no texts of solutions"
  ),
  ("idx", "pandalm_result"): (
    "verdicts of a judge (PandaLM), but no texts: instruction and responses "
    "are in the test set, by idx"
  ),
  ("idx", "gpt_result"): (
    "verdicts of a judge (PandaLM), but no texts: instruction and responses "
    "are in the test set, by idx"
  ),
  ("input", "output_1", "output_2", "results"): (
    "verdicts of a judge on the pairs of LLMBar: read its dataset.json, which "
    "has each pair once"
  ),
  ("correct_average", "equal"): (
    "statistics of a judge (LLMBar), but no texts: read its dataset.json"
  ),
}


def format_table() -> str:
  """Markdown with one row per format: its name for kind=, and its fields."""
  lines = ["| kind | fields |", "|---|---|"]
  for name, known in FORMATS.items():
    shape = known.shape.replace("|", "\\|")
    lines.append(f"| `{name}` | {shape} |")
  return "\n".join(lines)


if __name__ == "__main__":
  print(format_table())
