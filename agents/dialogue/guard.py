"""Free text of a language model, shown sentence by sentence where it names nothing else.

A sentence goes where it may name an item that the answer does not hold: by a title of the
catalogue, by words in quotes or in bold, by a year in brackets, or by capitals that nobody has used
before. Links, markup, tokens of chat templates and echoes of the instructions go, too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

from tastemaker.agents.dialogue.names import TitleNames, TitleUse, names_of, year_of
from tastemaker.agents.dialogue.words import Word, forms_of, words_of
from tastemaker.prompts.render import plain

__all__ = ["MARK", "Guard", "cleaned", "sentences"]


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


MARK = re.compile(r"\[\s*(\d{1,2}(?:\s*,\s*\d{1,2})*)\s*\]")
_LONGEST_TITLE = 150
_LONGEST_SENTENCE = 1000  # characters; what goes on for longer is judged in parts
_LEAK = 8  # words in a row that stand in the instructions, too
_LINK = re.compile(
    r"\w+://|\bwww\.|\]\(|\b[\w-]+\.(?:com|org|net|io|ru|info|biz|app|dev|co)\b|\S@\S",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"<(?![\s\d=])|&#?\w+;|\|>|\[/?[A-Z_]{3,}\]|```|^\s{0,3}#{1,6}\s", re.MULTILINE
)
_SPANS = re.compile(
    r"\*{1,3}([^*\n]+)\*{1,3}|(?<!\w)_{1,3}([^_\n]+)_{1,3}(?!\w)|`([^`\n]+)`|\"([^\"\n]*)\""
    r"|[“„]([^”“\n]*)[”“]|«([^»\n]*)»|‘([^’\n]+)’(?!\w)|(?<!\w)'([^'\n]+)'(?!\w)"
)
_DATED = re.compile(r"\((\d{4})\)")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]*_]*\s+|\s*\n\s*")
_ABBREVIATIONS = _listed("mr mrs ms dr st jr sr vs vol prof lt sgt capt col gen rev")
_NO_END = re.compile(
    rf"(?:\b(?:{'|'.join(sorted(_ABBREVIATIONS))}|e\.g|i\.e)|\b(?!I\b)[A-Za-z]|(?:^|\n)\s*\d{{1,2}})\.\s+$",
    re.IGNORECASE,
)
_ABOUT_NAMES = _listed(
    "is was has had stars follows tells features offers shows would might may will should could "
    "remains makes takes brings and or by starring directed"
)
_STARTERS = _listed(
    "the a an if for you your both here this these those that it its and but with in on at as "
    "my since because while all another also try enjoy like from of or so we our i they he she "
    "his her their them what when where who why how there each every any some one two three "
    "four five most many no not nothing everything something perhaps maybe then though although "
    "to by have has do does did would could should let give take start finally first second "
    "third last next expect think consider set after before about be is are was were can may "
    "might up out more such both just only even still yet now well sure yes please hello hi "
    "thanks thank great good fans based looking whether instead however overall together either "
    "neither"
)
_SMALL = _listed("of the and in a an to for on at de la le von van der du & vs")
_HARMLESS = _listed(
    "i i'm i'd i'll i've monday tuesday wednesday thursday friday saturday sunday january "
    "february march april may june july august september october november december christmas "
    "easter halloween tv dvd ok hollywood oscar oscars english american british french german "
    "italian spanish japanese chinese korean indian russian european asian african"
)
_TEMPLATE_SIGNS = str.maketrans({"*": "∗", "`": "'", "_": "ˍ", "<": "‹", "[": "(", "]": ")"})


class Guard:
    """Judges the text of one answer.

    Args:
        names: Of the whole catalogue.
        allowed: Dense numbers of the items that may be named: those of the answer, and those that
            the conversation is about.
        said: Texts whose words may be repeated with capitals: the visitor's message, values of the
            catalogue, names in the knowledge that the model was shown.
        secret: Instructions of the model.
        agrees: Whether what a sentence says about items is true, as far as that can be told.

    Attributes:
        faults: Why each sentence was dropped so far.
    """

    def __init__(
        self,
        names: TitleNames,
        *,
        allowed: Iterable[int],
        said: Iterable[str] = (),
        secret: str = "",
        agrees: Callable[[str], bool] | None = None,
    ) -> None:
        self._names = names
        self._allowed = frozenset(allowed)
        whole = [names.titles[item] for item in sorted(self._allowed)]
        self._shown = [cleaned(title) for title in whole]
        titles = [*whole, *self._shown]
        self._own = {form: year_of(title) for title in titles for form in names_of(title)}
        self._dated = {(*form, year_of(title)) for title in titles for form in names_of(title)}
        texts = [forms_of(text) for text in said]
        self._words = frozenset(form for text in texts for form in text)
        self._said = _phrases(texts)
        self._titles = _phrases([*self._own, *map(forms_of, titles)])
        self._agrees = agrees
        self._secret = frozenset(_grams(forms_of(secret)))
        self.faults: list[str] = []

    def screen(self, pieces: Iterable[str], *, fallback: str = "") -> Iterator[str]:
        """The text, a sentence at a time, without those that may not be shown.

        Args:
            pieces: As they come from the model.
            fallback: Stands in place of the first sentence that is dropped.
        """
        before, dropped = "", False
        for sentence in sentences(pieces):
            fault = self.fault(sentence, before=before) if sentence.strip() else None
            if fault is None:
                before = sentence
                yield sentence
                continue
            self.faults.append(fault)
            if fallback and not dropped:
                yield fallback + sentence[len(sentence.rstrip()) :]
            dropped = True

    def fault(self, sentence: str, *, before: str = "") -> str | None:
        """What is wrong with a sentence; None where it may be shown.

        Args:
            sentence: Of a model. References such as [2] are no names.
            before: What stands right before it and has been judged already.
        """
        bare = MARK.sub(" , ", sentence)
        checks: tuple[tuple[str, Callable[[str], bool]], ...] = (
            ("hidden", _is_hidden),
            ("markup", self._is_marked_up),
            ("leak", self._leaks),
            ("quoted", self._sets_apart),
            ("dated", self._dates),
            ("title", lambda text: self._names_other(before + text, start=len(before))),
            ("capitals", self._has_new_capitals),
        )
        for reason, check in checks:
            if check(bare):
                return reason
        return "untrue" if self._agrees and not self._agrees(sentence) else None

    def _is_marked_up(self, text: str) -> bool:
        for title in self._shown:
            text = text.replace(title, " ")
        return bool(_MARKUP.search(text) or _LINK.search(text))

    def _leaks(self, text: str) -> bool:
        return any(gram in self._secret for gram in _grams(forms_of(text)))

    def _sets_apart(self, text: str) -> bool:
        """Whether something in quotes, bold or italics is neither allowed nor said before."""
        for span in _SPANS.finditer(text):
            inside = next(part for part in span.groups() if part is not None)
            form = forms_of(_DATED.sub("", inside))
            if form and form not in self._own and not self._is_said(form):
                return True
        return False

    def _is_said(self, form: tuple[str, ...]) -> bool:
        others = self._names.called(form) - self._allowed
        return _phrase(form) in self._said and not (others and len(form) > 1)

    def _dates(self, text: str) -> bool:
        """Whether a year in brackets stands behind anything but an allowed title of that year."""
        for date in _DATED.finditer(text):
            forms = forms_of(text[: date.start()])[-24:]
            ends = (((*forms[place:], date[1])) for place in range(len(forms)))
            if not any(end in self._dated for end in ends):
                return True
        return False

    def _names_other(self, text: str, *, start: int) -> bool:
        """Whether a title that is not allowed ends behind `start`."""
        words = _read(text)
        spoken = [word for word in words if not word.is_sign]
        firsts = _sentence_starts(words)
        for use in self._names.uses(spoken):
            if use.words[-1].end > start and not use.items & self._allowed:
                following = spoken[use.place + len(use.words) :][:1]
                if self._is_name(use, initial=use.words[0].start in firsts, following=following):
                    return True
        return False

    def _is_name(self, use: TitleUse, *, initial: bool, following: Sequence[Word]) -> bool:
        """Whether words that make a title are meant as one, by their capitals."""
        form = tuple(word.form for word in use.words)
        if len(form) == 1:
            if form[0] in self._words or form[0] in _HARMLESS or not _is_capital(use.words[0]):
                return False
            about = bool(following) and following[0].form in _ABOUT_NAMES
            return not initial or (about and form[0] not in _STARTERS)
        if _phrase(form) in self._titles:
            return False
        counting = use.words[1:] if initial and form[0] in _STARTERS else use.words
        large = [word for word in counting if word.form not in _SMALL]
        return bool(large) and all(_is_capital(word) or word.text[0].isdigit() for word in large)

    def _has_new_capitals(self, text: str) -> bool:
        """Whether a word, or words in a row, have capitals that neither titles nor visitor used."""
        words = _read(text)
        firsts = _sentence_starts(words)
        for run in _runs([word for word in words if not word.is_sign], words):
            if run[0].form in _STARTERS or (run[0].start in firsts and len(run) == 1):
                run = run[1:]
            while run and run[0].form in _SMALL:
                run = run[1:]
            while run and run[-1].form in _SMALL:
                run = run[:-1]
            if run and not self._is_known(tuple(word.form for word in run)):
                return True
        return False

    def _is_known(self, form: tuple[str, ...]) -> bool:
        known = self._words | _HARMLESS
        if all(word in known or word in _SMALL for word in form):
            return True
        return _phrase(form) in self._titles or _phrase(form) in self._said


def cleaned(title: str) -> str:
    """A title as plain text of one line that is no markup, whatever stands in it.

    Signs of markup become others that look alike, so that people recognise the title; what is too
    long is cut at a word.

    >>> cleaned("M*A*S*H <|im_end|>")
    'M∗A∗S∗H ‹|imˍend|>'
    """
    text = plain(plain(title).translate(_TEMPLATE_SIGNS))
    if len(text) > _LONGEST_TITLE:
        text = (text[: _LONGEST_TITLE - 1].rpartition(" ")[0] or text[: _LONGEST_TITLE - 1]) + "…"
    return text or "Untitled"


def sentences(pieces: Iterable[str]) -> Iterator[str]:
    """A stream cut behind each sentence, white space kept."""
    held = ""
    for piece in pieces:
        held += piece
        while (cut := _cut(held)) is not None:
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def _cut(text: str) -> int | None:
    """Where the first sentence ends; None while nobody can tell."""
    for end in _SENTENCE_END.finditer(text):
        if end.end() == len(text) and "\n" not in end[0]:
            return None  # more white space may follow
        if "\n" in end[0] or not _NO_END.search(text[: end.end()]):
            return end.end()
    return _LONGEST_SENTENCE if len(text) > _LONGEST_SENTENCE else None


def _is_hidden(text: str) -> bool:
    return any(
        unicodedata.category(sign) in ("Cc", "Cf", "Co") and sign not in "\n\t" for sign in text
    )


def _read(text: str) -> list[Word]:
    """The words of a text, without the full stops of abbreviations."""
    words = words_of(text)
    short = (False, *(len(one.text) == 1 or one.form in _ABBREVIATIONS for one in words[:-1]))
    return [
        word for word, after in zip(words, short, strict=False) if not (word.text == "." and after)
    ]


def _is_capital(word: Word) -> bool:
    return word.text[:1].isupper() or word.text[:1].istitle()


def _sentence_starts(words: Sequence[Word]) -> frozenset[int]:
    """Where words begin that have a capital because a sentence begins."""
    starts = {words[0].start} if words else set()
    for one, other in pairwise(words):
        opens = one.is_sign and (one.start in starts or one.text in ".!?…" or "\n" in one.text)
        if opens or (one.start in starts and one.text.isdigit()):
            starts.add(other.start)
    return frozenset(starts)


def _runs(spoken: Sequence[Word], words: Sequence[Word]) -> Iterator[tuple[Word, ...]]:
    """Words with capitals in a row, small words between them included; signs part them."""
    ends = frozenset(word.start for word in words if word.is_sign)
    run: tuple[Word, ...] = ()
    for place, word in enumerate(spoken):
        gap = range(spoken[place - 1].end, word.start) if place else range(0)
        if run and any(at in ends for at in gap):
            yield run
            run = ()
        if _is_capital(word) or (run and word.form in _SMALL):
            run = (*run, word)
        elif run:
            yield run
            run = ()
    if run:
        yield run


def _phrase(form: Iterable[str]) -> str:
    return f" {' '.join(form)} "


def _phrases(forms: Iterable[Iterable[str]]) -> str:
    return "\n".join(map(_phrase, forms))


def _grams(form: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(form[place : place + _LEAK]) for place in range(len(form) - _LEAK + 1))
