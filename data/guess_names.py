"""The words by which columns of foreign tables go: users, items, times, ratings, titles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tastemaker.data.guess_columns import Column

__all__ = [
    "CODES",
    "DOMAINS",
    "IDS",
    "RATINGS",
    "STEPS",
    "STRENGTHS",
    "TIMES",
    "TITLES",
    "Ranking",
]


@dataclass(frozen=True)
class Ranking:
    """Names by which a column goes, the most telling first.

    Attributes:
        exact: Whole names in small letters, without what is between words, parted by blanks.
        words: Words of which any other name must hold one.
        never: Words that speak against such a name.
    """

    exact: str
    words: str
    never: str = ""

    def order(self, columns: Iterable[Column]) -> list[Column]:
        """Columns that fit, the best first."""
        ranked = [(self._rank(column), column) for column in columns]
        fitting = [(rank, column) for rank, column in ranked if rank is not None]
        return [column for _, column in sorted(fitting, key=lambda entry: entry[0])]

    def _rank(self, column: Column) -> int | None:
        exact = self.exact.split()
        if column.plain in exact:
            return exact.index(column.plain)
        tokens = set(column.tokens)
        if not tokens.intersection(self.words.split()) or tokens.intersection(self.never.split()):
            return None
        return len(exact) + (0 if "id" in tokens else 1)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NO_ID = (
    "name title age gender sex rating time timestamp date agent email city country type category "
    "price count number genre genres text review reviews"
)
IDS = {
    "user": Ranking(
        exact="userid user uid reviewerid reviewer customerid customer memberid visitorid "
        "accountid clientid playerid personid sessionid",
        words="user reviewer customer member visitor account client player person listener viewer "
        "reader buyer session",
        never=_NO_ID,
    ),
    "item": Ranking(
        exact="itemid item iid parentasin asin productid product sku movieid movie filmid film "
        "bookid isbn businessid trackid songid artistid articleid newsid videoid gameid recipeid "
        "contentid listingid offerid",
        words="item product movie film book business track song artist article news video game "
        "recipe content listing offer sku asin isbn",
        never=_NO_ID,
    ),
}
TIMES = Ranking(
    exact="timestamp unixreviewtime time datetime eventtime date ts createdat reviewtime ratedat "
    "reviewdate eventdate",
    words="time timestamp date datetime ts created day at",
    never="release birth published duration spent elapsed zone updated joined",
)
STEPS = _words("step position order sequence rank timestamp time index")
RATINGS = Ranking(
    exact="rating stars overall score starrating ratingvalue bookrating userrating reviewrating "
    "grade rate label like liked click clicked isclick purchase purchased converted",
    words="rating stars score grade liked clicked",
    never="average avg mean count number total time date timestamp predicted",
)
STRENGTHS = _words(
    "plays play count counts playcount listencount weight quantity amount duration views dwell "
    "watch watchtime progress completion frequency clicks"
)
TITLES = Ranking(
    exact="title name itemname itemtitle productname producttitle movietitle moviename filmtitle "
    "booktitle songname songtitle trackname tracktitle artistname headline businessname "
    "recipename gamename",
    words="title name headline",
    never="user author brand genre file category first last nick maker store id",
)
DOMAINS = _words("domain category maincategory shop market marketplace store site")
CODES = _words("zip zipcode postal postcode phone id isbn asin sku ean upc index")
