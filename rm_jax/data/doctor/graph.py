"""Cycles among comparisons: verdicts that no scores can agree with."""

import itertools

KEY = 8  # bytes of a hash


def cyclic_prompts(judged: dict) -> list:
  """Returns one place per prompt whose verdicts no ranking agrees with.

  A verdict a > b is an edge a -> b, a tie an edge both ways; a ranking with
  ties that agrees with all of them exists iff no strict edge lies within a
  strongly connected component. Of repeated verdicts on a pair the majority
  counts; as many both ways are no edge (they are a contradiction, not a cycle).

  Args:
    judged: {prompt + a + b: [a better, b better, ties, place]}, a < b, each of
      the three a hash of KEY bytes.
  """
  out = []
  for _, keys in itertools.groupby(sorted(judged), key=lambda k: k[:KEY]):
    keys = list(keys)
    if len(keys) < 3:
      continue
    graph, strict = {}, []
    for key in keys:
      a, b = key[KEY : 2 * KEY], key[2 * KEY :]
      first, second, ties, where = judged[key]
      if second > first:
        a, b = b, a
      if first != second:
        strict.append((a, b, where))
      elif not ties or first:
        continue
      graph.setdefault(a, []).append(b)
      graph.setdefault(b, [])
      if first == second:
        graph[b].append(a)
    part = components(graph)
    inside = [where for a, b, where in strict if part[a] == part[b]]
    if inside:
      out.append(inside[0])
  return out


def components(graph: dict) -> dict:
  """Returns {node: component} of the strongly connected components.

  Two depth-first passes, the second against the edges in the order in which
  the first one left the nodes; without recursion, as chains may be long.
  """
  left, seen = [], set()
  for root in graph:
    stack = [(root, iter(graph[root]))] if root not in seen else []
    seen.add(root)
    while stack:
      node, rest = stack[-1]
      for other in rest:
        if other not in seen:
          seen.add(other)
          stack.append((other, iter(graph[other])))
          break
      else:
        left.append(node)
        stack.pop()
  back = {node: [] for node in graph}
  for node, others in graph.items():
    for other in others:
      back[other].append(node)
  part = {}
  for root in reversed(left):
    stack = [root] if root not in part else []
    while stack:
      node = stack.pop()
      part[node] = root
      stack += [other for other in back[node] if other not in part]
  return part
