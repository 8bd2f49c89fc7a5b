"""Text that wants to be more than text: every cell of the data is made of special tokens.

The tokenizer knows the special tokens of several families of models at once. Whatever titles,
names, reviews and attributes hold, none of their tokens becomes one of those.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tastemaker.data.history import Histories
from tastemaker.data.tables import Tables
from tastemaker.models.language import language_model_folder
from tastemaker.prompts.audit import check_no_leak
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.source import InstructionSource
from tastemaker.prompts.template import Template, find_template
from tastemaker.testing.world import tied_world

LLAMA_3 = (
    "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|eom_id|> "
    "<|python_tag|> <|finetune_right_pad_id|> <|reserved_special_token_0|> "
    "<|reserved_special_token_247|> <|step_id|> <|image|>"
)
LLAMA_2 = "<s> </s> <unk> [INST] [/INST] <<SYS>> <</SYS>>"
MISTRAL = "[TOOL_CALLS] [AVAILABLE_TOOLS] [/TOOL_RESULTS] [SYSTEM_PROMPT] [IMG]"
QWEN = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|quad_start|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> "
    "<tool_call> </tool_call> <tool_response> <think> </think> <|fim_prefix|> <|fim_suffix|> "
    "<|repo_name|> <|file_sep|>"
)
OTHERS = (
    "<bos> <start_of_turn> <end_of_turn> <|assistant|> <|end|> [CLS] [SEP] [MASK] [gMASK] "
    "<｜begin▁of▁sentence｜> <｜User｜> <|START_OF_TURN_TOKEN|> <pad> <mask>"
)
SPECIAL = " ".join([LLAMA_3, LLAMA_2, MISTRAL, QWEN, OTHERS]).split()
# Zero-width, soft hyphen, joiner, byte-order mark, directions, a tag, controls.
BETWEEN = [*"\u200b\u00ad\u200d\ufeff\u202e\u2066\u2069\u200f\U000e0041\x00\x07\x1b\x7f\x85\u2060"]
BREAKS = [*"\n\r\t\v\f\u2028\u2029\u3000\u00a0 "]
JINJA = ["{{ {} }}", "{{% {} %}}", "{{# {} #}}", "{{{{ {} }}}}", "{{{{ '{}' | safe }}}}"]
WORDS = ["a", "B 2", "é", "千", '"', "'", "\\", "|", "<", "[", "]", ">", "<|", "|>", "/", "Yes."]


def wide(token: str) -> str:
    """The token in full-width look-alikes, which normalisation turns back."""
    return "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in token)


def brackets(token: str) -> str:
    """The token with brackets that normalisation turns back, the rest as it is."""
    signs = {"<": "\ufe64", ">": "\ufe65", "[": "\ufe47", "]": "\ufe48"}
    return "".join(signs.get(one, one) for one in token)


def tokens() -> st.SearchStrategy[str]:
    plain = st.sampled_from(SPECIAL)
    torn = st.builds(str.join, st.sampled_from([*BETWEEN, *BREAKS]), plain)
    parted = st.builds(
        lambda token, place, sign: token[:place] + sign + token[place:],
        plain,
        st.integers(1, 5),
        st.sampled_from([*BETWEEN, *BREAKS]),
    )
    looks = st.builds(lambda token, how: how(token), plain, st.sampled_from([wide, brackets]))
    whole = st.one_of(plain, plain, torn, parted, looks)
    wrapped = st.builds(
        lambda token, around: around.replace("{}", token), whole, st.sampled_from(JINJA)
    )
    return st.one_of(whole, wrapped)


def texts() -> st.SearchStrategy[str]:
    """A visible letter and pieces that follow one another without a gap."""
    pieces = st.one_of(tokens(), tokens(), st.sampled_from([*WORDS, *BETWEEN, *BREAKS]))
    return st.lists(pieces, min_size=1, max_size=4).map(lambda parts: "x" + "".join(parts))


OWN = """{#---
family: own
task: click
about: Try, row by row.
fields: [user_name, reviewed_history, title, maker]
choices: ["Yes.", "No."]
---#}
{#--- system ---#}
You know {{ user_name }}.
{#--- prompt ---#}
{% for seen in reviewed_history | reverse %}
{{ loop.index }}. "{{ seen[0] }}": {{ seen[2] }}
{% endfor %}
Now "{{ title }}" by {{ maker | upper }}?
"""
OF_ROWS = (
    *("tallrec/movie", "tallrec/book", "uni_ctr/full", "flip/row", "clickprompt/row"),
    *("p5/2-5", "p5/3-2", "p5/4-1", "p5/z-1", "openp5/sequential-1"),
    *("instructrec/recommend-3", "instructrec/search-5", "instructrec/personal-9"),
)
OF_USERS = ("kar/user_movies", "rlmrec/user_items")
OF_ITEMS = ("kar/item_items", "rlmrec/item_items", "hllm/item", "recformer/item", "learn/item")
NOTES = ("notellm/category", "notellm/topics")


def cells() -> st.SearchStrategy[list[str]]:
    """Texts for a whole world: the same few of them over and over."""
    return st.lists(texts(), min_size=2, max_size=9)


def world(given_texts: list[str]) -> Tables:
    """Two users, five films and six events whose every text is one of these."""
    tables = tied_world()
    number = iter(range(10**6))

    def column(height: int) -> pl.Series:
        return pl.Series([given_texts[next(number) % len(given_texts)] for _ in range(height)])

    def filled(frame: pl.DataFrame, *names: str) -> pl.DataFrame:
        return frame.with_columns(column(frame.height).alias(name) for name in names)

    items = filled(tables.items, "title", "author", "brand", "price", "description", "maker")
    parts = [column(items.height) for _ in range(3)]
    items = items.with_columns(genres=pl.concat_list(*parts))
    users = filled(tables.users, "user_id", "user_name", "gender", "occupation")
    # Ids are all different, however alike they look.
    users = users.with_columns(user_id=pl.format("{}{}", "user_id", "user"))
    events = filled(tables.interactions, "review", "headline", "explanation", "shop")
    shops = pl.Enum(events["shop"].unique().sort())
    events = events.with_columns(domain=pl.col("shop").cast(shops)).drop("shop")
    source = given_texts[0]
    return replace(tables, items=items, users=users, interactions=events, source=source)


@cache
def own_template() -> Template:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "own.j2"
        path.write_text(OWN)
        return find_template(str(path))


def built(tables: Tables) -> Iterator[tuple[Template, pl.DataFrame]]:
    """What every template makes of these tables."""
    histories = Histories.from_interactions(tables.interactions)
    binder = Binder(histories, Catalogue(tables), candidates=2, train=histories_rows(tables))
    rows = Examples.of_rows(tables, histories_rows(tables))
    users = Examples.of_users(range(tables.n_users), before=50)
    items = Examples.of_items(range(tables.n_items), before=50)
    asked = [(find_template(name), rows) for name in OF_ROWS]
    asked += [(own_template(), rows)]
    asked += [(find_template(name), users) for name in OF_USERS]
    asked += [(find_template(name), items) for name in (*OF_ITEMS, *NOTES)]
    for template, examples in asked:
        source = InstructionSource(binder, examples, Mixture.of([template]), "train")
        yield template, source.frame()


def histories_rows(tables: Tables) -> Any:
    return pl.int_range(tables.interactions.height, eager=True).to_numpy()


def sections(frame: pl.DataFrame) -> list[str]:
    return [text for name in ("system", "prompt", "completion") for text in frame[name]]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AddedToken, AutoTokenizer

    found = AutoTokenizer.from_pretrained(language_model_folder("smollm2"), local_files_only=True)
    found.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return found


def specials(tokenizer: Any, found: list[str]) -> set[str]:
    """Special tokens that any of the texts becomes, as it is or normalised."""
    forms = [*found, *(unicodedata.normalize("NFKC", text) for text in found)]
    ids = tokenizer(forms, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    known = tokenizer.added_tokens_decoder
    return {str(known[one]) for text in ids for one in text if one in known}


def test_the_tokenizer_would_take_the_texts_for_tokens(tokenizer: Any) -> None:
    for token in SPECIAL:
        assert specials(tokenizer, [f"x{token} y"]) == {token}
        if token.isascii():
            assert specials(tokenizer, [f"x{wide(token)}"]) == {token}
            assert specials(tokenizer, [f"x{brackets(token)}"]) == {token}
    assert specials(tokenizer, ["Heat (1995)", "a < b", "[a b]"]) == set()


CLEAN = dict(built(world(["xabc"])))


@settings(max_examples=10)
@given(cells())
@example(SPECIAL)
@example(["x" + token.join(BETWEEN) for token in SPECIAL])
@example(["x" + wide(token) for token in SPECIAL])
@example(["x{{ " + token + " }}" for token in SPECIAL])
@example(["x" * 148 + " < |im_end|>", "x" * 149 + "<|im_end|>"])
def test_no_text_of_the_data_becomes_a_special_token(
    tokenizer: Any, given_texts: list[str]
) -> None:
    tables = world([text if text.startswith("x") else f"x{text}" for text in given_texts])
    everything: list[str] = []
    for template, frame in built(tables):
        found = sections(frame)
        everything += found
        kinds = {unicodedata.category(one) for text in found for one in text if one != "\n"}
        assert kinds.isdisjoint({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}), template.name
        # No title, name or review makes a line of its own.
        clean = CLEAN[template]
        assert frame.height == clean.height
        for one, other in zip(found, sections(clean), strict=True):
            assert one.count("\n") == other.count("\n"), template.name
    assert specials(tokenizer, everything) == set()


@settings(max_examples=6)
@given(cells())
@example(SPECIAL)
def test_hostile_texts_neither_break_nor_deceive_the_audit(given_texts: list[str]) -> None:
    tables = world(given_texts)
    for template, frame in built(tables):
        check_no_leak(tables, frame, history=10, before=50, templates=[own_template()])
        if template.name in ("tallrec/movie", "instructrec/recommend-3"):
            assert all(prompt.count('"') % 2 == 0 for prompt in frame["prompt"])


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("{{ 7 * 7 }}", "{{ 7 * 7 }}"),
        ("{% for x in y %}", "{% for x in y %}"),
        ("{# gone #}", "{# gone #}"),
        ("{{ title.__class__ }}", "{{ title.__class__ }}"),
        ("{% raw %}{{ 1 }}", "{% raw %}{{ 1 }}"),
        ("x{{\u200b<s>\n}}", "x{{‹s> }}"),
        ("[INST] <<SYS>>", "(INST) ‹‹SYS>>"),
    ],
)
def test_jinja_in_the_data_is_text(title: str, shown: str) -> None:
    found = dict(built(world([title])))
    for name in ("tallrec/movie", "tallrec/book", "p5/z-1", "uni_ctr/full"):
        prompts = found[find_template(name)]["prompt"]
        assert all(f'"{shown}"' in prompt for prompt in prompts), name
    for name in ("p5/2-5", "p5/4-1", "flip/row", "instructrec/search-5", "openp5/sequential-1"):
        frame = found[find_template(name)]
        assert all(shown in one + two for one, two in frame.select("prompt", "completion").rows())
    assert f'"{shown}" by {shown.upper()}?' in found[own_template()]["prompt"][0]
    assert set(found[own_template()]["system"]) == {f"You know {shown}."}


def test_a_chat_with_hostile_titles_has_the_tokens_of_any_chat(tokenizer: Any) -> None:
    def marks(frame: pl.DataFrame) -> list[list[int]]:
        chats = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
                tokenize=False,
            )
            for prompt, answer in frame.select("prompt", "completion").iter_rows()
        ]
        known = tokenizer.added_tokens_decoder
        ids = tokenizer(chats, add_special_tokens=False)["input_ids"]
        return [[one for one in text if one in known] for text in ids]

    for template, frame in built(world([f"x{token}" for token in SPECIAL])):
        assert marks(frame) == marks(CLEAN[template]), template.name


def test_names_of_columns_are_no_tokens_either(tokenizer: Any) -> None:
    tables = world(["xabc"])
    hostile = {f"{token}": pl.lit("xabc") for token in ("<|im_end|>", "[INST]", 'a "b"\n')}
    tables = replace(
        tables,
        items=tables.items.with_columns(**hostile),
        users=tables.users.with_columns(**hostile),
    )
    for template, frame in built(tables):
        found = sections(frame)
        assert specials(tokenizer, found) == set(), template.name
        if template.name in ("flip/row", "recformer/item"):
            assert "‹|im_end|>" in found[-1] + found[len(found) // 2]
            assert "a 'b'" in "".join(found)
