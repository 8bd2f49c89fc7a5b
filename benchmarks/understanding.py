"""What messages leave open: decided by defaults, by SmolLM2 as it comes, and by SmolLM2 tuned.

    python benchmarks/understanding.py [--quick] [--json] [--cases] [--keep FOLDER]

The templates `wishes/open-*` make instructions of MovieLens ratings; a LoRA adapter is trained on
some of the training part with the engine of `tastemaker tune`. Then three deciders answer the same
questions: those of messages written by hand (none follows a template),
and those of other instructions of the same templates, from users' later ratings. A number is the
share of right answers, with a 95 % interval over resampled messages. `ours` is the tuned model,
`theirs` the defaults; a ratio above 1 means that ours is right more often. `--quick` ends within a
minute on two cores, with an adapter that has seen little.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from datasets import Dataset

from tastemaker.agents.dialogue.lexicon import Lexicon
from tastemaker.agents.dialogue.reading import Reading, read
from tastemaker.agents.dialogue.understanding import LocalDecision
from tastemaker.agents.dialogue.wish import State
from tastemaker.agents.dialogue.wish_json import parts_of
from tastemaker.data.builtin.base import load_builtin
from tastemaker.data.splits import Split
from tastemaker.data.splitters import split_tables
from tastemaker.models.adapters import with_adapter
from tastemaker.models.catalogue.facets import attributes_of, facets_of
from tastemaker.models.catalogue.titles import TitleIndex
from tastemaker.models.language import load_language_model
from tastemaker.prompts.binding import Binder
from tastemaker.prompts.catalogue import Catalogue
from tastemaker.prompts.examples import Examples
from tastemaker.prompts.formats import find_format
from tastemaker.prompts.mixture import Mixture
from tastemaker.prompts.render import display_titles
from tastemaker.prompts.source import InstructionSource
from tastemaker.prompts.template import find_templates
from tastemaker.tuning.settings import AdapterShape, TuneSettings
from tastemaker.tuning.tune import tune

SAID = "The visitor says: "
MIN_HISTORY = 10
RESAMPLES = 2000
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Written for this benchmark, none after a template: (kind of question, right answer) → messages.
CASES: dict[tuple[str, str], tuple[str, ...]] = {
    ("title", "similar"): (
        "Fargo, only set in Norway",
        "Our benchmark is Gladiator, who can match that?",
        "Amadeus but louder",
        "Give us the next Gladiator",
        "We need a worthy successor to Jurassic Park",
        "A rainy Sunday calls for Blade Runner vibes",
        "Think Goodfellas in space",
        "Whatever has the atmosphere of Vertigo",
    ),
    ("title", "like"): (
        "I cried twice over Amadeus",
        "I have the poster of Pulp Fiction over my bed",
        "Toy Story never gets old",
        "Jaws still gives me goosebumps after all these years",
        "Nothing beats Braveheart",
        "My all-time number one remains Vertigo",
        "Every Christmas our family laughs at Home Alone",
        "Such joy, that little pig in Babe",
    ),
    ("title", "about"): (
        "Is Memento hard to follow?",
        "Gattaca, who played the lead?",
        "Does Jumanji work for a six year old?",
        "Could you remind me of the ending of Fargo",
        "Was Titanic expensive to make",
        "Which year did Gladiator come to cinemas",
        "I would like to hear more on Vertigo",
        "Anything you can say on Amadeus",
    ),
    ("title", "seen"): (
        "Caught Speed on a plane last month",
        "We know Titanic already, leave it aside",
        "We finished Memento yesterday, what now",
        "Already been through Jumanji with the kids",
        "Had Twister on DVD for years",
        "The whole class was shown Gandhi at school",
        "Saw Waterworld in the cinema back then",
        "Done with Braveheart, next one please",
    ),
    ("topic", "search"): (
        "a drama with chess players",
        "pirates and buried treasure, but as a comedy",
        "a thriller aboard a submarine",
        "some documentary on penguins",
        "horror in an abandoned hospital",
        "an animation where toys come alive",
        "a western with a female gunslinger",
        "time travel, please, no romance",
        "a crime story around a jewel heist",
        "boxing, from the 80s",
    ),
    ("topic", "ignore"): (
        "My boss was horrible today, so a comedy please",
        "We just ordered pizza, find us a thriller",
        "It's pouring outside, any drama from the 90s?",
        "Grandma arrives at eight and she asked for a western",
        "I have a headache, something animated",
        "The kids are finally asleep, horror please",
        "Our flight got cancelled, so an adventure instead",
        "Happy Friday! Some action, please",
        "I'm Peter and I fancy a musical",
        "You are a robot, right? A documentary then",
    ),
    ("act", "recommend"): (
        "vampires",
        "a haunted lighthouse",
        "heartbreak in Paris",
        "dinosaurs running loose",
        "samurai with a code of honour",
        "a detective on her last case",
        "mountaineering and frostbite",
        "spies behind the iron curtain",
        "robots that learn to feel",
        "a con artist and a nun",
    ),
    ("act", "small_talk"): (
        "my train was late again",
        "the coffee here is terrible",
        "lovely sunshine outside",
        "I was born in Ohio",
        "our meeting dragged on forever",
        "you sound like my uncle",
        "that made me laugh",
        "my cat has just knocked over the plant",
        "I got promoted this morning",
        "is anybody home",
    ),
}


@dataclass(frozen=True)
class Asked:
    """One question of one message, and its right answer."""

    message: str
    reading: Reading
    place: int
    answer: str

    @property
    def kind(self) -> str:
        """Kind of question."""
        return self.reading.open[self.place].kind


@dataclass(frozen=True, eq=False)
class World:
    """What messages about the films are read with."""

    split: Split
    lexicon: Lexicon
    index: TitleIndex
    titles: Sequence[str]
    columns: dict[str, list[Any]]
    fame: Any

    def read(self, message: str) -> Reading:
        """A message at the beginning of a conversation."""
        return read(
            message,
            lexicon=self.lexicon,
            catalogue_mentions=self.index.mentions,
            state=State(),
            values_of=lambda items: [
                {name: values[item] for name, values in self.columns.items()} for item in items
            ],
            weight=lambda item: float(self.fame[item]),
        )


Decider = Callable[[Reading], Sequence[str]]


def main() -> None:
    """Tune, ask and print a line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cases", action="store_true", help="also print every wrong answer")
    parser.add_argument("--keep", type=Path, help="keep the adapter here, or use the one kept")
    parser.add_argument("--examples", type=int, default=384)
    parser.add_argument("--epochs", type=float, default=3)
    options = parser.parse_args()
    count, epochs = (24, 1.0) if options.quick else (options.examples, options.epochs)
    world = films()
    with tempfile.TemporaryDirectory() as folder:
        out = options.keep or Path(folder) / "adapter"
        if not (out / "tuning.json").is_file():
            train(world, out, Path(folder) / "scratch", count=count, epochs=epochs)
        record = json.loads((out / "tuning.json").read_text(encoding="utf-8"))
        tuned = with_adapter(load_language_model("smollm2"), out)
    plain = load_language_model("smollm2")
    sides: dict[str, Decider] = {
        "defaults": lambda reading: [one.default for one in reading.open],
        "untuned": LocalDecision(plain, world.titles).answers,
        "untuned, not calibrated": LocalDecision(plain, world.titles, calibrated=False).answers,
        "tuned": LocalDecision(tuned, world.titles).answers,
        "tuned, not calibrated": LocalDecision(tuned, world.titles, calibrated=False).answers,
    }
    step = 8 if options.quick else 1
    sets = {
        "by hand": list(handwritten(world))[::step],
        "rendered": list(rendered(world, count=6 if options.quick else 64)),
    }
    note = f"{record['tokens'][0]} tokens in {record['seconds']:.0f} s of tuning"
    for name, asked in sets.items():
        answers = {side: answered(asked, decide) for side, decide in sides.items()}
        for line in lines(name, asked, answers, note=note):
            print(json.dumps(line) if options.json else told(line), flush=True)
        if options.cases:
            print(*wrong(asked, answers), sep="\n", flush=True)


def films() -> World:
    """The packaged ratings."""
    tables = load_builtin("movielens-small")
    titles = tables.items["title"].to_list()
    return World(
        split_tables(tables, "global_time", valid_from=0.8, test_from=0.9),
        Lexicon.of(facets_of(tables)),
        TitleIndex(titles),
        display_titles(tables),
        {one.name: one.values.to_list() for one in attributes_of(tables)},
        np.bincount(tables.happened["item"].to_numpy(), minlength=len(titles)),
    )


def instructions(world: World, rows: Any, *, count: int, seed: int) -> pl.DataFrame:
    """Instructions of some rows with full histories, drawn once each."""
    split = world.split
    full = rows[split.histories.counts(rows) >= MIN_HISTORY]
    drawn = np.random.default_rng(seed).choice(full, size=2 * count, replace=False)
    binder = Binder(split.histories, Catalogue(split.tables), train=split.train)
    mixture = Mixture.of(find_templates(["wishes/open-*"]))
    examples = Examples.of_rows(split.tables, np.sort(drawn))
    fitting = examples.take(mixture.fits(binder, examples).all(axis=1))
    frame = InstructionSource(binder, fitting, mixture, "train").frame()
    return frame.sample(min(count, frame.height), seed=seed, shuffle=True)


def train(world: World, out: Path, scratch: Path, *, count: int, epochs: float) -> None:
    """A LoRA adapter, by the engine of `tastemaker tune`.

    All prompts begin with the same system text, which streamed rows compute once for many.
    """
    sizes = [(world.split.train, count), (world.split.valid, min(16, count // 6))]
    parts = [
        Dataset.from_polars(
            find_format("trl")
            .arrange(instructions(world, rows, count=size, seed=seed))
            .select("prompt", "completion")
        )
        for seed, (rows, size) in enumerate(sizes)
    ]
    settings = TuneSettings(
        kind="lora",
        lora=AdapterShape(8, 16, 0.05, LAYERS),
        learning_rate=1e-3,
        warmup_steps=5,
        epochs=epochs,
        batch_size=12,
        micro_batch=None,
        max_length=1024,
        loss_on="answer",
        rows="streamed",
        row_tokens=1024,
        group_by_length=False,
        gradient_checkpointing=None,
        evaluate_every=None,
        patience=None,
        metric="loss",
        tracker="none",
    )
    done = tune(
        partial(load_language_model, "smollm2"),
        parts[0],
        valid=parts[1],
        settings=settings,
        out=out,
        scratch=scratch,
        seed=7,
        on_step=lambda _: print(".", end="", flush=True, file=sys.stderr),
    )
    print(f" validation loss {done.best_valid_loss:.4f}, tokens {done.tokens}", file=sys.stderr)


def handwritten(world: World) -> Iterator[Asked]:
    """Questions of the messages written by hand."""
    for (kind, answer), messages in CASES.items():
        for message in messages:
            reading = world.read(message)
            kinds = [question.kind for question in reading.open]
            if kind not in kinds:
                raise SystemExit(f"nothing of the kind {kind} is open in {message!r}: {kinds}")
            yield Asked(message, reading, kinds.index(kind), answer)


def rendered(world: World, *, count: int) -> Iterator[Asked]:
    """Questions of instructions from the test part; the answer is what the instruction says."""
    frame = instructions(world, world.split.test, count=count, seed=2)
    for prompt, completion in frame.select("prompt", "completion").iter_rows():
        reading = world.read(prompt.removeprefix(SAID))
        for place, answer in enumerate(answers_in(reading, completion, world.titles)):
            yield Asked(reading.message, reading, place, answer)


def answers_in(reading: Reading, completion: str, titles: Sequence[str]) -> list[str]:
    """The answers that make a reading's object equal to the instruction's; none if none do."""
    questions = sorted(
        range(len(reading.open)),
        key=lambda at: ("act", "title", "topic").index(reading.open[at].kind),
    )
    parts = parts_of(reading, titles=titles)
    options = [part for part in parts if not isinstance(part, str)]
    for picks in product(*(range(len(one)) for one in options)):
        taken = iter(picks)
        text = "".join(part if isinstance(part, str) else part[next(taken)] for part in parts)
        if text == completion:
            found = dict(zip(questions, picks, strict=True))
            return [one.options[found[at]] for at, one in enumerate(reading.open)]
    return []


def answered(asked: Sequence[Asked], decide: Decider) -> list[str]:
    """What is answered to each question; each message is decided once."""
    kept: dict[str, Sequence[str]] = {}
    for one in asked:
        if one.message not in kept:
            kept[one.message] = decide(one.reading)
    return [kept[one.message][one.place] for one in asked]


def lines(
    name: str, asked: Sequence[Asked], answers: dict[str, list[str]], *, note: str
) -> Iterator[dict[str, Any]]:
    """One line per kind of question, and one for all."""
    kinds = np.array([one.kind for one in asked])
    truth = np.array([one.answer for one in asked])
    right = {side: np.array(found) == truth for side, found in answers.items()}
    messages = np.unique([one.message for one in asked], return_inverse=True)[1]
    for kind in ("title", "topic", "act", "all"):
        mine = np.ones(len(kinds), bool) if kind == "all" else kinds == kind
        if not mine.any():
            continue
        shares = {side: float(found[mine].mean()) for side, found in right.items()}
        intervals = {side: interval(found[mine], messages[mine]) for side, found in right.items()}
        apart = interval(
            right["tuned"][mine].astype(float) - right["defaults"][mine], messages[mine]
        )
        texts = [
            f"{side} {share:.2f} [{intervals[side][0]:.2f}, {intervals[side][1]:.2f}]"
            for side, share in shares.items()
        ]
        yield {
            "name": f"{name}: {kind}",
            "ours": round(shares["tuned"], 3),
            "theirs": round(shares["defaults"], 3),
            "ratio": round(shares["tuned"] / shares["defaults"], 2) if shares["defaults"] else None,
            "unit": "share right",
            "note": f"{int(mine.sum())} questions; {'; '.join(texts)}; tuned less defaults "
            f"[{apart[0]:+.2f}, {apart[1]:+.2f}]; {note}",
        }


def interval(values: Any, messages: Any) -> tuple[float, float]:
    """95 % of the mean when messages are drawn again."""
    _, groups = np.unique(messages, return_inverse=True)
    sums = np.bincount(groups, weights=values)
    sizes = np.bincount(groups)
    drawn = np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def wrong(asked: Sequence[Asked], answers: dict[str, list[str]]) -> Iterator[str]:
    """The questions that some side got wrong, with all answers."""
    for place, one in enumerate(asked):
        found = {side: said[place] for side, said in answers.items()}
        if set(found.values()) != {one.answer}:
            yield f"  {one.message!r}: {one.kind} is {one.answer}; {found}"


def told(line: dict[str, Any]) -> str:
    """A line for people."""
    return f"{line['name']}: {line['ours']} against {line['theirs']}  {line['note']}"


if __name__ == "__main__":
    main()
