"""Words of a first recipe: what each key means, and the sections of the methods."""

from __future__ import annotations

__all__ = ["CATALOGUE", "METHODS", "NO_CATALOGUE", "WHAT"]

WHAT = {
    "columns.user": "who",
    "columns.item": "what",
    "columns.time": "when",
    "columns.time_unit": "s, ms, us, ns, iso, or step (no clock)",
    "columns.rating": "the number given; null: none",
    "columns.rating_range": "lowest and highest; others are a problem",
    "columns.label": "what counts as a like",
    "columns.domain": "shop or market of an interaction",
    "columns.title": "what an item is called",
    "columns.text": "words",
    "columns.lists": "several values in a cell, and what parts them",
    "columns.categorical": "only equality matters",
    "columns.numeric": "numbers",
    "policies.duplicates": "drop, keep or error",
    "policies.unknown_items": "drop, keep (with empty features) or error",
    "policies.unknown_users": "drop, keep (with empty features) or error",
    "filters.users": "a seeded sample",
    "negatives.per_positive": "drawn for each like",
    "requests.min_history": "earlier events of every row that is judged",
    "requests.per_user": "rows of a user at most, seeded; remove it to judge all",
    "split.global_time": "one moment parts everyone's past and future",
    "split.leave_one_out": "the last event of each user is test, the one before it validation",
}

# Sizes and rates are those of the packaged recipe, which ends within minutes on two CPU cores.
METHODS = """\
build:
  templates: {question:<21}# the question to the language model
  history: {history:<23}# events shown; training rows have at least as many
  train_examples: 2000            # a seeded sample
  valid_examples: 200

tune:
  model: smollm2                  # packaged; or a folder, or a hub id already on disk
  shots: 64                       # training examples; more is slower and better
  valid_shots: 24
  epochs: 2
  learning_rate: 4.0e-3           # for so few epochs; TALLRec's 1e-4 is for 200
  batch_size: 4

reason:
  model: local:smollm2            # provider:model, such as openai:gpt-4o-mini
  user_template: kar/user_{things:<9}# what the model is asked about a user
  item_template: kar/item_{things:<9}# and about an item
  history_cap: 10                 # oldest events shown
  max_users: 200
  max_items: 200
  max_tokens: 48
  batch_size: 128

encode:
  encoder: minilm                 # text to vectors

train:
  backbone: din                   # the recommender, with and without knowledge
  learning_rate: 1.0e-4
  history: {history}

evaluate:
  against: DIN                    # whom the others are compared with
  bootstrap: 1000                 # resamples of users

{catalogue}"""
CATALOGUE = "catalogue: {}                     # what tastemaker chat and serve search"
NO_CATALOGUE = '# catalogue: {}   # for tastemaker chat; first: pip install "tastemaker[serve]"'
