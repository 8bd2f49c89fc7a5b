"""A card tells all that matters and nothing of the machine it was written on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from tastemaker.tuning.card import CardFacts, model_card

FACTS = CardFacts(
    base="HuggingFaceTB/SmolLM2-135M-Instruct",
    kind="lora",
    examples=1024,
    templates=["tallrec/movie", "/home/someone/mine/own.j2"],
    settings={
        "learning_rate": 1e-4,
        "target_modules": ["q_proj", "v_proj"],
        "shots": None,
        "group_by_length": True,
        "start": "/home/someone/runs/first/adapter",
        "pattern": r".*\.(up|down)_proj",
        "quantisation": {"bits": 4},
    },
    results={"steps": 96, "best validation AUC": 0.71239, "reload difference": 0.0},
    versions={"tastemaker": "0.1.0", "peft": "0.21.2"},
    seed=7,
)


def head(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_head_is_what_the_hub_reads() -> None:
    found = head(model_card(FACTS))
    assert found["base_model"] == FACTS.base
    assert found["library_name"] == "peft"
    assert found["tags"] == ["recommendation", "tastemaker", "lora"]
    assert "license" not in found
    assert head(model_card(replace(FACTS, kind="full")))["library_name"] == "transformers"


def test_the_body_tells_data_training_and_result() -> None:
    card = model_card(FACTS)
    for part in (
        "1,024 training instructions, rendered with `tallrec/movie`, `own.j2`.",
        "| learning_rate | 0.0001 |",
        "| target_modules | q_proj, v_proj |",
        "| shots | none |",
        "| group_by_length | yes |",
        "| start | adapter |",
        "| pattern | .*\\.(up\\|down)_proj |",
        "| quantisation | bits 4 |",
        "| seed | 7 |",
        "| best validation AUC | 0.7124 |",
        "| peft | 0.21.2 |",
        "PeftModel.from_pretrained",
        "model = tuned(base, ",
        "## Limits",
    ):
        assert part in card, part
    assert card.endswith("|\n")


@pytest.mark.parametrize(
    ("base", "shown"),
    [
        ("/home/someone/models/llama-7b", "llama-7b"),
        ("~/llama-7b", "llama-7b"),
        ("../models/llama-7b/", "llama-7b"),
        ("C:\\Users\\someone\\llama-7b", "llama-7b"),
        ("smollm2", "smollm2"),
        ("owner/model", "owner/model"),
    ],
)
@pytest.mark.parametrize("kind", ["lora", "qlora", "full"])
def test_no_place_is_told(base: str, shown: str, kind: str) -> None:
    card = model_card(replace(FACTS, base=base, kind=kind))
    assert head(card)["base_model"] == shown
    assert "someone" not in card
    assert ".." not in card.replace("…", "")


@pytest.mark.parametrize("kind", ["lora", "qlora", "full"])
def test_the_code_is_python(kind: str) -> None:
    card = model_card(replace(FACTS, kind=kind))
    blocks = [part.split("```")[0] for part in card.split("```python\n")[1:]]
    assert len(blocks) == 2
    for block in blocks:
        compile(block, "card", "exec")
        assert len(block.splitlines()) <= 5


def test_a_bare_card_and_hostile_names() -> None:
    bare = CardFacts("smollm2", "full", 1, [], {}, {}, {}, 0)
    assert "1 training instruction, in wordings that are not recorded." in model_card(bare)
    assert model_card(bare).count("Nothing recorded.") == 2
    card = model_card(replace(FACTS, templates=["a`b\n# c"], settings={"a|b\n---": "x\ny|"}))
    assert "`a'b # c`" in card
    assert "| a\\|b --- | x y\\| |" in card
    many = model_card(replace(FACTS, templates=[f"t{index}" for index in range(70)]))
    assert "`t59` and 10 more." in many
