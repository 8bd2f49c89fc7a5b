"""Networks for several domains, one a file, found by name; and the recommenders around them.

`recommender` glues features, texts, training and saving around any network; `separate` has a model
of its own for every domain instead.

A network is an `nn.Module` with this shape; `network.MultiDomainNetwork` brings most of it:

* `__init__(shape, domains, *, ...)`: `shape` is a `models.ctr.inputs.Shape`, `domains` the number
  of heads; everything else is an option with a default.
* `forward(inputs, heads)`: `models.ctr.inputs.Inputs` of B rows and int64 [B], the head of each
  row, to log-odds float [B]; without `heads` those of every head, float [B, domains].
* `own`: an `nn.ModuleList` with the part of each domain. With `heads`, a row passes through the
  shared part and the part of its own domain only, so it has no gradient in any other.
* `add_domain()`: appends a part with fresh weights; nothing that was there changes.

No batch statistics are used, so a row's logits do not depend on other rows.
"""
