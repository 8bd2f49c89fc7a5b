"""Re-rankers, one network a file, found by name; and the lists that they learn and are judged on.

`lists` makes lists; `recommender` glues features, texts, training and saving around any network.

A re-ranker sees all items of a list at once. It is an `nn.Module` with this shape:

* `__init__(width, *, step, length, ..., dropout)`: `width` is the size of an item, its knowledge
  and the user's included, `step` that of a step of the history, `length` the longest list.
* `forward(items, mask, history, past)`: float [B, K, width], bool [B, K] (true at real items),
  float [B, L, step] and bool [B, L] (true at real steps, oldest first) to logits, float [B, K].
* `reads_steps`: whether it reads the history; one that does not is given L = 0.
* `loss`: a name of `models.layers.list_losses.LIST_LOSSES`.

What lies where a mask is false is never read, as long as it is finite; the logits there mean
nothing. No batch statistics are used, so a list's logits do not depend on other lists.
"""
