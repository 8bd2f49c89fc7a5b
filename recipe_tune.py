"""The section `tune` of a recipe: what is trained on the instructions, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tastemaker.recipe_data import Config

__all__ = ["InstructionTuningConfig", "LoraConfig", "NewModelConfig", "TuneConfig"]


class LoraConfig(Config):
    """Low-rank adapter; defaults of TALLRec's code: rank 8, α 16, dropout .05, q and v."""

    rank: int = Field(8, gt=0)
    alpha: int = Field(16, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: tuple[str, ...] = Field(
        ("q_proj", "v_proj"), description="of a T5 or BERT its own q and v where these are left"
    )
    layers: int | None = Field(None, gt=0, description="top layers that get one; empty: all")


class InstructionTuningConfig(Config):
    """A first stage on general instructions, with the same weights (TALLRec: Alpaca)."""

    data: str = Field(description="JSON or JSON lines: instruction, input, output")
    examples: int | None = Field(None, gt=0, description="seeded sample; all when empty")
    valid_examples: int = Field(64, gt=0, description="of these kept to pick the epoch")
    epochs: float = Field(3.0, gt=0, description="alpaca-lora: 3")
    learning_rate: float = Field(3e-4, gt=0, description="alpaca-lora: 3e-4")
    batch_size: int = Field(128, gt=0, description="alpaca-lora: 128")


class NewModelConfig(Config):
    """Shape of the T5 that `tune.model: new-t5` makes; P5-small: 6 layers, 512, 8 heads, 2048."""

    layers: int = Field(2, gt=0, description="of the encoder, and again of the decoder")
    width: int = Field(128, gt=0)
    heads: int = Field(4, gt=0)
    feed_forward: int = Field(512, gt=0)
    vocabulary: int = Field(4000, gt=0, description="pieces of the tokenizer, digits apart")
    dropout: float = Field(0.1, ge=0, lt=1)


class TuneConfig(Config):
    """Tuning of a language model, causal or encoder-decoder."""

    model: str = Field(
        "smollm2",
        description="packaged name, folder, or hub id already on disk, such as a T5; new-t5: one "
        "that starts from nothing (see new_model)",
    )
    kind: Literal["lora", "qlora", "full", "frozen"] = Field(
        "lora",
        description="qlora: 4-bit base, needs CUDA and bitsandbytes; frozen: only networks on the "
        "model are trained (uni_ctr)",
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
    warmup_share: float = Field(
        0.0, ge=0, lt=1, description="of all steps, where warmup_steps is 0; P5, OpenP5: .05"
    )
    weight_decay: float = Field(0.0, ge=0, description="of AdamW; P5, OpenP5: .01")
    batch_size: int = Field(8, gt=0, description="examples a step; TALLRec: 128")
    micro_batch: int | None = Field(None, gt=0, description="rows a forward pass; empty: by memory")
    max_length: int = Field(512, gt=0, description="tokens; TALLRec: 512")
    max_target_length: int = Field(
        64, gt=0, description="tokens of an answer, for an encoder-decoder model; P5: 64"
    )
    whole_words: int = Field(
        0, ge=0, description="rows of whole-word embeddings of a T5 encoder; P5: 512"
    )
    new_model: NewModelConfig = NewModelConfig()
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
