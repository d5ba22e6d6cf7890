"""The gold reward of the text world: a weighted sum of features of the text.

    gold = sum_f weight_f * (feature_f - mean_f) / sd_f / SCALE

A feature is a share or a presence, never a count: nothing in it grows because
a text is longer. Means, deviations and SCALE were measured once on the training
prompts, so there gold has mean 0 and variance 1. Weights were chosen on the
training prompts, so that neither length nor any one feature decides.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")  # letters of any script
RUN = re.compile(r"[.!?:;…\n\"“”]+")  # between words that begin something
NEAR = 10  # words; over a whole text fewer are new the longer it is
MOST = 0.15  # of a share of rare words: one in a short text is not everything

PLAIN = frozenset(
  "a about after all an and any are as at be because been but by can do for"
  " from had has have he her his how i if in into is it its just like me more"
  " my no not of on one or our out she so some than that the their them then"
  " there these they this to up was we were what when which who will with you"
  " your".split()
)
YOU = frozenset("you your yours yourself you're you'll you've you'd".split())
POLITE = frozenset(
  "please thank thanks sorry kindly welcome appreciate grateful glad could"
  " would might may perhaps maybe".split()
)
WARM = frozenset(
  "good great happy love lovely nice beautiful wonderful best fun enjoy safe"
  " warm bright fresh easy friendly friend friends help helpful perfect smile"
  " joy special better hope sweet delicious amazing healthy gentle".split()
)


def words_of(text: str) -> list[str]:
  """The words in lower case: runs of letters, with apostrophes inside."""
  return [word.replace("’", "'") for word in WORD.findall(text.lower())]


def share(words: list[str], among: frozenset) -> float:
  """Share of the words that are among those; 0 of no words."""
  return sum(word in among for word in words) / max(len(words), 1)


def variety(text: str, prompt: str) -> float:
  """Share of words that are not among the NEAR words before them."""
  words = words_of(text)
  again = sum(
    word in words[max(i - NEAR, 0) : i] for i, word in enumerate(words)
  )
  return 1 - again / max(len(words), 1)


def capitals(text: str, prompt: str) -> float:
  """Share of words with a capital first letter that no sentence begins with."""
  runs = RUN.split(text)
  words = [word for run in runs for word in WORD.findall(run)[1:]]
  return sum(word[0].isupper() for word in words) / max(len(words), 1)


def uptake(text: str, prompt: str) -> float:
  """Share of the content words of the prompt that the text takes up.

  Content words have four letters or more and are not plain; a word is taken up
  where one of the text begins with the same four letters.
  """
  content = {w[:4] for w in words_of(prompt) if len(w) > 3 and w not in PLAIN}
  taken = {word[:4] for word in words_of(text)}
  return len(content & taken) / max(len(content), 1)


def plain(text: str, prompt: str) -> float:
  """Share of plain words: those that English sentences are held together by."""
  return share(words_of(text), PLAIN)


def address(text: str, prompt: str) -> float:
  """Share of words that speak to the reader, MOST at most."""
  return min(share(words_of(text), YOU), MOST)


def polite(text: str, prompt: str) -> float:
  """Share of words of courtesy and caution, MOST at most."""
  return min(share(words_of(text), POLITE), MOST)


def warm(text: str, prompt: str) -> float:
  """Share of words that speak well of something, MOST at most."""
  return min(share(words_of(text), WARM), MOST)


def word_length(text: str, prompt: str) -> float:
  """Mean number of letters of a word."""
  words = words_of(text)
  return sum(map(len, words)) / max(len(words), 1)


def marks(text: str, prompt: str) -> float:
  """Share of characters but letters, spaces and , . ' ? !, MOST at most."""
  odd = sum(not (c.isalpha() or c.isspace() or c in ",.'’?!") for c in text)
  return min(odd / max(len(text), 1), MOST)


class Feature(NamedTuple):
  """What is measured, what it is worth, and its scale on the training side."""

  measure: Callable  # (text, prompt) -> float
  weight: float
  mean: float
  sd: float


FEATURES = {
  "uptake": Feature(uptake, 0.8, 0.31835, 0.27822),
  "plain": Feature(plain, 0.5, 0.39181, 0.10559),
  "address": Feature(address, 0.7, 0.02181, 0.03311),
  "polite": Feature(polite, 1.0, 0.0074, 0.0178),
  "warm": Feature(warm, 1.0, 0.01208, 0.02208),
  "variety": Feature(variety, 1.0, 0.91693, 0.06229),
  "word_length": Feature(word_length, -0.6, 4.74698, 0.68928),
  "capitals": Feature(capitals, -0.5, 0.07887, 0.13955),
  "marks": Feature(marks, -0.5, 0.01557, 0.02459),
}
SCALE = 2.6715


def features(completions: list[str], prompt: str) -> Float[np.ndarray, "K F"]:
  """The features of the completions of a prompt, in the order of FEATURES."""
  return np.array(
    [
      [feature.measure(text, prompt) for feature in FEATURES.values()]
      for text in completions
    ],
    np.float64,
  ).reshape(-1, len(FEATURES))


def gold_rewards(
  completions: list[str], prompt: str
) -> Float[np.ndarray, " K"]:
  """The gold reward of each completion of a prompt, to four digits.

  gold = sum_f weight_f * (feature_f - mean_f) / sd_f / SCALE
  """
  table = FEATURES.values()
  weight, mean, sd = np.array([feature[1:] for feature in table]).T
  scaled = (features(completions, prompt) - mean) / sd
  return np.round(scaled @ weight / SCALE, 4)
