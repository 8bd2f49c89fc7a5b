"""The section `tune` of a recipe: what is trained on the instructions, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tastemaker.recipe_data import Config

__all__ = ["InstructionTuningConfig", "LoraConfig", "TuneConfig"]


class LoraConfig(Config):
    """Low-rank adapter; defaults of TALLRec's code: rank 8, α 16, dropout .05, q and v."""

    rank: int = Field(8, gt=0)
    alpha: int = Field(16, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")


class InstructionTuningConfig(Config):
    """A first stage on general instructions, with the same weights (TALLRec: Alpaca)."""

    data: str = Field(description="JSON or JSON lines: instruction, input, output")
    examples: int | None = Field(None, gt=0, description="seeded sample; all when empty")
    valid_examples: int = Field(64, gt=0, description="of these kept to pick the epoch")
    epochs: float = Field(3.0, gt=0, description="alpaca-lora: 3")
    learning_rate: float = Field(3e-4, gt=0, description="alpaca-lora: 3e-4")
    batch_size: int = Field(128, gt=0, description="alpaca-lora: 128")


class TuneConfig(Config):
    """Tuning of a causal language model."""

    model: str = Field("smollm2", description="packaged name, folder, or hub id already on disk")
    kind: Literal["lora", "qlora", "full"] = Field(
        "lora", description="qlora: 4-bit base, needs CUDA and bitsandbytes"
    )
    wrapper: Literal["chat", "alpaca", "alpaca-released"] = Field(
        "chat", description="chat: the model's template; TALLRec: alpaca"
    )
    adapter: str = Field("", description="folder of an adapter to go on from")
    instruction_tuning: InstructionTuningConfig | None = None
    shots: int | None = Field(64, gt=0, description="K training examples; TALLRec: 16, 64, 256")
    valid_shots: int | None = Field(
        None, gt=0, description="validation examples that pick the best state"
    )
    epochs: float = Field(3.0, gt=0, description="TALLRec: 200")
    learning_rate: float = Field(1e-4, gt=0, description="TALLRec: 1e-4")
    warmup_steps: int = Field(0, ge=0, description="TALLRec: 20")
    batch_size: int = Field(8, gt=0, description="examples a step; TALLRec: 128")
    micro_batch: int | None = Field(None, gt=0, description="rows a forward pass; empty: by memory")
    max_length: int = Field(512, gt=0, description="tokens; TALLRec: 512")
    loss_on: Literal["answer", "everything"] = Field(
        "answer", description="TALLRec's formula: answer, its code: everything"
    )
    rows: Literal["single", "packed", "streamed"] = Field(
        "single",
        description="single: one example a row; packed: several; streamed: many targets of one "
        "user (see build.anchor)",
    )
    row_tokens: int = Field(2048, gt=0, description="tokens of a packed or streamed row at most")
    group_by_length: bool = Field(True, description="batch examples of similar length")
    gradient_checkpointing: bool | None = Field(None, description="empty: only when needed")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    evaluate_every: int | None = Field(
        None, gt=0, description="steps; empty: each epoch; TALLRec: 10 to 128 shots"
    )
    patience: int | None = Field(
        None, gt=0, description="checks without a better one that stop tuning; TALLRec: 10"
    )
    metric: Literal["auto", "auc", "loss"] = Field(
        "auto", description="of validation, picks the best state; auto: auc where there is one"
    )
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    lora: LoraConfig = LoraConfig()
