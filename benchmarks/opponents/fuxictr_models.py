"""The nine models of `fuxictr_ctr.py`, on FuxiCTR's layers and its trainer."""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import (
    BilinearInteractionV2,
    CompressedInteractionNet,
    CrossNet,
    CrossNetV2,
    DIN_Attention,
    FeatureEmbedding,
    InnerProductInteraction,
    LogisticRegression,
    MaskedAveragePooling,
    MLP_Block,
    ScaledDotProductAttention,
    SqueezeExcitation,
)
from fuxictr.pytorch.models import BaseModel
from torch import Tensor, nn

INITIALIZERS = {"normal": "partial(nn.init.normal_, std=1e-4)", "xavier": "nn.init.xavier_normal_"}
ATTENTION = [32, 16]  # KAR: activation unit of DIN
CROSSES = 3  # KAR
CIN = [50, 50]  # KAR
ATTENTION_LAYERS, ATTENTION_SIZE = 3, 64  # KAR: AutoInt, one head
REDUCTION = 2  # KAR: half of the fields pass FiBiNet's bottleneck
GRAPH_STEPS = 2  # KAR: FiGNN, one layer used twice
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Table:
    """What `features.json` says, with the sequences' columns told apart.

    Attributes:
        fields: Name, kind, source and vocabulary of each field.
        steps: Columns of the history: name, `shares` or `vocabulary`.
        length: Steps of a history.
    """

    fields: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    length: int

    @classmethod
    def read(cls, folder: Path) -> Table:
        """Read the file; there is one sequence."""
        about = json.loads((folder / "features.json").read_text(encoding="utf-8"))
        (sequence,) = about["sequences"]
        return cls(about["fields"], sequence["steps"], sequence["length"])

    @property
    def targets(self) -> list[str]:
        """Fields of the candidate that steps of the history have too."""
        return [step["shares"] for step in self.steps if "shares" in step]

    def specs(self, pooled: set[str]) -> list[dict[str, Any]]:
        """FuxiCTR's description of every column; the sequences named are averaged."""
        sizes = {one["name"]: one.get("vocabulary") for one in self.fields}
        found = []
        for one in self.fields:
            spec = {"type": one["kind"], "source": one.get("source", "")}
            if one["kind"] == "categorical":
                spec |= {"padding_idx": 0, "vocab_size": one["vocabulary"]}
            found.append({one["name"]: spec})
        for step in self.steps:
            shared = step.get("shares")
            spec = {
                "type": "sequence",
                "source": "history",
                "max_len": self.length,
                "padding_idx": 0,
                "vocab_size": sizes[shared] if shared else step["vocabulary"],
            }
            if shared:
                spec["share_embedding"] = shared
            if step["name"] in pooled:
                spec["feature_encoder"] = "layers.MaskedAveragePooling()"
            found.append({step["name"]: spec})
        return found


class FirstOrder(LogisticRegression):
    """FuxiCTR's linear term, made healthy.

    As it comes, the weights of a history are added up, and those of columns that share their
    embedding keep PyTorch's N(0, 1), since FuxiCTR initialises shared tables with their owner only
    and nothing is shared here. Numbers start at N(0, 1), too.

    Args:
        feature_map: Columns that are read.
        average: Average the weights of a history instead of adding them up.
    """

    def __init__(self, feature_map: FeatureMap, *, average: bool) -> None:
        super().__init__(feature_map, use_bias=True)
        encoders = self.embedding_layer.embedding_layer.feature_encoders
        for name in encoders if average else ():
            encoders[name] = MaskedAveragePooling()

    def init_weights(self) -> None:
        """Small weights everywhere, 0 for padding; FuxiCTR calls this."""
        for layer in self.embedding_layer.embedding_layer.embedding_layers.values():
            nn.init.normal_(layer.weight, std=1e-4)
            if isinstance(layer, nn.Embedding):
                layer.weight.data[0] = 0


class NoTerm(nn.Module):
    """Stands where the linear term would."""

    def forward(self, columns: Batch) -> float:
        """Nothing is added."""
        return 0.0


class Backbone(BaseModel):
    """What all models share: embedding tables, the output, and clocks around FuxiCTR's trainer.

    Attributes:
        best_epoch: Epoch with the best AUC, from 1 on; 0 before the first evaluation.
        seconds: Of training each epoch, loader included, evaluation excluded.
        marks: When each step ended, and its rows.
    """

    def __init__(self, table: Table, options: argparse.Namespace, *, root: str) -> None:
        feature_map = feature_map_of(table, self.pooled(table, options), options, root=root)
        super().__init__(
            feature_map,
            model_id=options.model,
            gpu=-1,
            monitor="AUC",
            early_stop_patience=options.patience,
            reduce_lr_on_plateau=False,
            verbose=0,
            model_root=root,
            metrics=["AUC", "logloss"],
        )
        os.makedirs(self.model_dir, exist_ok=True)
        self.table, self.options = table, options
        self.fields = feature_map.get_num_fields()
        self.width = feature_map.sum_emb_out_dim()
        self.embedding_layer = FeatureEmbedding(
            feature_map, options.dim, embedding_initializer=INITIALIZERS[options.initializer]
        )
        self.build(options)
        self.reset_parameters()
        self.compile("adam", "binary_crossentropy", options.learning_rate)
        self.model_to_device()
        self.best_epoch = 0
        self.seconds: list[float] = []
        self.marks: list[tuple[float, int]] = []

    @staticmethod
    def pooled(table: Table, options: argparse.Namespace) -> set[str]:
        """Columns of the history that are averaged into one field."""
        return {step["name"] for step in table.steps}

    def build(self, options: argparse.Namespace) -> None:
        """Make the layers."""
        raise NotImplementedError

    def logit(self, columns: Batch) -> Tensor:
        """Log-odds of a like, float [B, 1]."""
        raise NotImplementedError

    def deep(self, width: int) -> MLP_Block:
        """The MLP that ends in one number."""
        return MLP_Block(width, hidden_units=self.options.hidden, output_dim=1)

    def linear(self) -> nn.Module:
        """The first-order term that was asked for."""
        kind = self.options.first_order
        if kind == "none":
            return NoTerm()
        if kind == "sum":
            return LogisticRegression(self.feature_map)
        return FirstOrder(self.feature_map, average=kind == "mean")

    def forward(self, inputs: Batch) -> Batch:
        """Probability of a like, float [B, 1], under the name that FuxiCTR reads."""
        return {"y_pred": self.output_activation(self.logit(self.get_inputs(inputs)))}

    def train_step(self, batch_data: Batch) -> Tensor:
        """FuxiCTR's step, its end noted."""
        loss: Tensor = super().train_step(batch_data)
        self.marks.append((time.perf_counter(), len(batch_data["label"])))
        return loss

    def train_epoch(self, data_generator: Any) -> None:
        """FuxiCTR's epoch, timed."""
        self._evaluating = 0.0
        started = time.perf_counter()
        super().train_epoch(data_generator)
        self.seconds.append(time.perf_counter() - started - self._evaluating)

    def eval_step(self) -> None:
        """FuxiCTR's evaluation, its time told apart; nothing where there is nothing to evaluate."""
        started = time.perf_counter()
        if self.valid_gen is None:
            self.save_weights(self.checkpoint)
        else:
            super().eval_step()
            if self._stopping_steps == 0:
                self.best_epoch = self._epoch_index + 1
        self._evaluating += time.perf_counter() - started


class DCN(Backbone):
    """Crosses and an MLP side by side (arXiv 1708.05123); KAR ends with another MLP."""

    crosses: type[nn.Module] = CrossNet

    def build(self, options: argparse.Namespace) -> None:
        self.cross = self.crosses(self.width, CROSSES)
        self.parallel = MLP_Block(self.width, hidden_units=options.hidden)
        read = self.width + options.hidden[-1]
        self.head = self.deep(read) if options.head == "mlp" else nn.Linear(read, 1)

    def logit(self, columns: Batch) -> Tensor:
        flat = self.embedding_layer(columns, flatten_emb=True)
        return self.head(torch.cat([self.cross(flat), self.parallel(flat)], dim=-1))


class DCNv2(DCN):
    """The same with full matrices (arXiv 2008.13535)."""

    crosses = CrossNetV2


class DeepFM(Backbone):
    """Factorisation machine and MLP (arXiv 1703.04247)."""

    def build(self, options: argparse.Namespace) -> None:
        self.first = self.linear()
        self.second = InnerProductInteraction(self.fields, output="product_sum")
        self.network = self.deep(self.width)

    def logit(self, columns: Batch) -> Tensor:
        fields = self.embedding_layer(columns)
        return self.network(fields.flatten(1)) + self.second(fields) + self.first(columns)


class XDeepFM(Backbone):
    """Compressed interactions, MLP and linear term (arXiv 1803.05170)."""

    def build(self, options: argparse.Namespace) -> None:
        self.first = self.linear()
        self.cin = CompressedInteractionNet(self.fields, CIN, output_dim=1)
        self.network = self.deep(self.width)

    def logit(self, columns: Batch) -> Tensor:
        fields = self.embedding_layer(columns)
        return self.network(fields.flatten(1)) + self.cin(fields) + self.first(columns)


class FieldAttention(nn.Module):
    """One layer of AutoInt with one head, by equations 5 to 8 of arXiv 1810.11921.

    Args:
        width: Of the fields that come in.
        size: Of those that go out.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.residual = (
            nn.Linear(width, size, bias=False) for _ in range(4)
        )
        self.attention, self.scale = ScaledDotProductAttention(), size**0.5

    def forward(self, fields: Tensor) -> Tensor:
        """Float [B, fields, width] → [B, fields, size]."""
        mixed, _ = self.attention(
            self.query(fields), self.key(fields), self.value(fields), scale=self.scale
        )
        return torch.relu(mixed + self.residual(fields))


class AutoInt(Backbone):
    """Self-attention of the fields, and an MLP beside it (arXiv 1810.11921, AutoInt+)."""

    def build(self, options: argparse.Namespace) -> None:
        widths = [options.dim] + [ATTENTION_SIZE] * ATTENTION_LAYERS
        self.attention = nn.Sequential(*(FieldAttention(one, two) for one, two in pairwise(widths)))
        self.output = nn.Linear(self.fields * ATTENTION_SIZE, 1)
        self.network = self.deep(self.width)

    def logit(self, columns: Batch) -> Tensor:
        fields = self.embedding_layer(columns)
        return self.output(self.attention(fields).flatten(1)) + self.network(fields.flatten(1))


class FiBiNet(Backbone):
    """Bilinear interactions of fields and of re-weighted fields (arXiv 1905.09433)."""

    def build(self, options: argparse.Namespace) -> None:
        self.first = self.linear()
        self.reweigh = SqueezeExcitation(self.fields, reduction_ratio=REDUCTION)
        self.raw, self.weighed = (
            BilinearInteractionV2(self.fields, options.dim, bilinear_type="field_all")
            for _ in range(2)
        )
        self.network = self.deep(self.fields * (self.fields - 1) * options.dim)

    def logit(self, columns: Batch) -> Tensor:
        fields = self.embedding_layer(columns)
        pairs = [self.raw(fields), self.weighed(self.reweigh(fields))]
        return self.network(torch.cat(pairs, dim=1).flatten(1)) + self.first(columns)


class FiGNN(Backbone):
    """Messages between all fields (arXiv 1910.05552); RecBole's graph layer, used twice."""

    def build(self, options: argparse.Namespace) -> None:
        from recbole.model.context_aware_recommender.fignn import GraphLayer

        self.edge = nn.Linear(2 * options.dim, 1, bias=False)
        self.messages = GraphLayer(self.fields, options.dim)
        self.update = nn.GRUCell(options.dim, options.dim)
        self.score = nn.Linear(options.dim, 1, bias=False)
        self.weight = nn.Linear(self.width, self.fields, bias=False)

    def edges(self, fields: Tensor) -> Tensor:
        """How much each field listens to each other one (equation 7): float [B, F, F]."""
        shape = (-1, -1, self.fields, -1)
        listening = fields.unsqueeze(2).expand(*shape)
        pairs = torch.cat([listening, listening.transpose(1, 2)], dim=-1)
        scores = nn.functional.leaky_relu(self.edge(pairs).squeeze(-1))
        itself = torch.eye(self.fields, dtype=torch.bool, device=fields.device)
        return scores.masked_fill(itself, float("-inf")).softmax(dim=-1)

    def logit(self, columns: Batch) -> Tensor:
        fields = self.embedding_layer(columns)
        graph, state = self.edges(fields), fields
        for _ in range(GRAPH_STEPS):
            heard = self.messages(graph, state)
            state = self.update(heard.flatten(0, 1), state.flatten(0, 1)).view_as(fields) + fields
        weights = torch.sigmoid(self.weight(state.flatten(1)))
        return (weights * self.score(state).squeeze(-1)).sum(dim=1, keepdim=True)


class Stepwise(Backbone):
    """A model that reads the history step by step, beside all other fields.

    With `--steps project` a step is everything that it carries, projected to the width of the
    candidate, as in KAR. With `pooled` it is what it shares with the candidate, as in FuxiCTR's
    models, and the rest is averaged into a field.
    """

    @staticmethod
    def pooled(table: Table, options: argparse.Namespace) -> set[str]:
        if options.steps == "project":
            return set()
        return {step["name"] for step in table.steps if "shares" not in step}

    def build(self, options: argparse.Namespace) -> None:
        pooled = self.pooled(self.table, options)
        self.read = [step["name"] for step in self.table.steps if step["name"] not in pooled]
        self.flat = [name for name in self.feature_map.features if name not in self.read]
        self.target = len(self.table.targets) * options.dim
        width = len(self.read) * options.dim
        self.project = nn.Linear(width, self.target) if not pooled else nn.Identity()
        self.network = self.deep(self.target + len(self.flat) * options.dim)

    def interest(self, candidate: Tensor, steps: Tensor, mask: Tensor) -> Tensor:
        """What the history means for the candidate, float [B, target]."""
        raise NotImplementedError

    def logit(self, columns: Batch) -> Tensor:
        vectors = self.embedding_layer.embedding_layer(columns)
        candidate = torch.cat([vectors[name] for name in self.table.targets], dim=-1)
        steps = self.project(torch.cat([vectors[name] for name in self.read], dim=-1))
        interest = self.interest(candidate, steps, columns[self.read[0]] != 0)
        flat = [vectors[name] for name in self.flat]
        return self.network(torch.cat([interest, *flat], dim=-1))


class DIN(Stepwise):
    """Attention of the candidate over the steps (arXiv 1706.06978), not softmaxed."""

    def build(self, options: argparse.Namespace) -> None:
        super().build(options)
        self.attention = DIN_Attention(self.target, ATTENTION, hidden_activations="Dice")

    def interest(self, candidate: Tensor, steps: Tensor, mask: Tensor) -> Tensor:
        return self.attention(candidate, steps, mask)


class DIEN(Stepwise):
    """A GRU extracts interests, one with attention evolves them (arXiv 1809.03672); no extra loss.

    RecBole's layer for the second one; its cells start at N(0, 1), which is put right here.
    """

    def build(self, options: argparse.Namespace) -> None:
        super().build(options)
        self.extractor = nn.GRU(self.target, self.target, batch_first=True)

    def reset_parameters(self) -> None:
        """FuxiCTR's start of all but RecBole's layer, whose `init_weights` wants an argument."""
        from recbole.model.sequential_recommender.dien import InterestEvolvingLayer

        super().reset_parameters()
        self.evolution = InterestEvolvingLayer(
            torch.arange(self.table.length).view(1, -1),
            self.target,
            self.target,
            att_hidden_size=[4 * self.target, *ATTENTION],
            activation="dice",
            gru=self.options.gru,
        )
        for weight in self.evolution.dynamic_rnn.parameters():
            if weight.dim() == 2:
                nn.init.xavier_normal_(weight)

    def interest(self, candidate: Tensor, steps: Tensor, mask: Tensor) -> Tensor:
        length, counts = mask.shape[1], mask.sum(dim=1)
        places = (torch.arange(length) + length - counts.unsqueeze(1)) % length  # padding goes last
        steps = steps.gather(1, places.unsqueeze(-1).expand_as(steps))
        interests, _ = self.extractor(steps)
        evolved = self.evolution(candidate, interests, counts.clamp(min=1))
        return evolved * (counts > 0).unsqueeze(-1)


MODELS: dict[str, type[Backbone]] = {
    model.__name__.lower(): model
    for model in (DIN, DIEN, DCN, DCNv2, DeepFM, XDeepFM, AutoInt, FiBiNet, FiGNN)
}


def feature_map_of(
    table: Table, pooled: set[str], options: argparse.Namespace, *, root: str
) -> FeatureMap:
    """FuxiCTR's description of the columns, through the file that it reads."""
    file = Path(root) / "feature_map.json"
    about = {"dataset_id": "rows", "labels": ["label"], "features": table.specs(pooled)}
    file.write_text(json.dumps(about), encoding="utf-8")
    found = FeatureMap("rows", root)
    found.load(str(file), {"embedding_dim": options.dim})
    return found
