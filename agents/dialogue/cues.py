"""Turns of phrase that say what the words around them are for.

A table of plain English; the longest phrase at a place counts. Contractions are listed once, as
"don't", and found as "dont" and "do not" too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Literal, get_args

__all__ = ["CUES", "CueKind", "cue_at"]

CueKind = Literal[
    "no", "not", "only", "widen", "similar", "liked", "hated", "seen", "about", "topic", "history",
    "reset", "why", "more", "small_talk", "fine", "drop", "every", "indifferent", "matters_not",
    "less", "than", "but", "and", "or", "with", "also", "please", "restart", "ask", "pronoun",
    "filler", "praise", "blame",
]  # fmt: skip
_CONTRACTED = {
    "don't": "do not", "didn't": "did not", "doesn't": "does not", "can't": "cannot",
    "isn't": "is not", "wasn't": "was not", "couldn't": "could not", "won't": "will not",
    "wouldn't": "would not", "aren't": "are not", "weren't": "were not", "i'd": "i would",
    "haven't": "have not", "shouldn't": "should not", "i'm": "i am", "i've": "i have",
    "what's": "what is", "let's": "let us", "who's": "who is",
}  # fmt: skip
# Kind → phrases, parted by |.
CUES: dict[CueKind, str] = {
    # The next demands must not hold; a list goes on with a comma.
    "no": """no|without|without any|except|except for|excepting|excluding|exclude|avoid|avoiding|
        skip|minus|apart from|other than|anything but|everything but|all but|besides|
        aside from|instead of|don't want|don't want any|don't need|don't recommend|
        don't recommend any|don't show|don't show me|don't give me|don't suggest|don't include|
        i'm tired of|tired of|sick of|bored of|bored with|bored by|had enough of|enough of|
        can't stand|can not stand|fed up with|not in the mood for|not interested in|not into|
        no more|no longer|none of|nothing|leave out|free of|not keen on|don't feel like|neither|
        wouldn't want|wouldn't like|don't want to watch|don't want to see|don't want to read|
        don't care for|not looking for|never|nor|won't watch|remove all|not any|not another|
        don't fancy|not up for|unlike|shouldn't be|don't want to watch any|
        not want|not in a mood for|must not be|can't be|should not have|doesn't have|
        don't have|has no|have no|no kind of|not want any|steer clear of|stay away from""",
    # The same, but a comma ends it: "not horror, comedy".
    "not": "not|isn't|aren't|non|not too|not so|not very|not that",
    # More of something is no demand that can be checked, nor is less of it.
    "less": "less|fewer|not as|not so much|a bit less|a little less|much less",
    "than": "than|rather than|better than",
    "only": """only|just|nothing but|nothing except|solely|exclusively|strictly|nothing other than|
        must be|has to be|have to be|needs to be|should be""",
    "widen": "not only|not just|don't only|don't just|not necessarily|more than just",
    "similar": """like|similar to|in the style of|in the vein of|in the spirit of|reminiscent of|
        along the lines of|resembling|resembles|comparable to|akin to|such as|much like|more like|
        reminds me of|as good as|kind of like|sort of like|same as|the same as|close to|
        in the manner of|that are like|that is like|if i liked|if i loved|if i enjoyed|
        because i liked|because i loved|fans of|based on my love of""",
    "liked": """i like|i liked|liked|i love|i loved|loved|enjoyed|i enjoy|i enjoyed|i adore|adored|
        i'm a fan of|i'm a big fan of|big fan of|fan of|my favorite is|my favourite is|
        my favorites are|my favourites are|i really like|i really liked|really liked|i do like|
        i also like|i also liked|i also loved|really enjoyed|i really loved|i really love|we like|
        we liked|we loved|absolutely loved|i prefer|i've enjoyed|i've loved|i'm fond of|fond of|
        i've always loved|i've always liked|i'm into|my favorite movie is|my favourite movie is|
        my favorite film is|my favourite film is|my favorite movies are|my favourite films are|
        i did like|i did enjoy|i quite liked|
        i quite like|i rather liked|i mostly like|i usually like|i usually enjoy|i already liked""",
    "hated": """i hate|i hated|hated|i dislike|i disliked|disliked|don't like|didn't like|
        didn't enjoy|don't enjoy|don't love|didn't love|couldn't stand|not a fan of|
        not a big fan of|i'm not a fan of|loathe|loathed|i loathed|despise|despised|
        i couldn't stand|i can't stand|wasn't a fan of|don't really like|didn't really like|
        i really hated|i really disliked|i don't like|i didn't like|hate|dislike|i really hate|
        i really dislike|i regret watching|didn't care for""",
    "seen": """watched|i watched|i've watched|i've seen|i saw|seen|i just watched|i just saw|
        i've read|i read|i just read|i've played|i played|i bought|i've bought|already seen|
        already watched|i've already seen|i've already watched|i recently watched|
        i recently saw|just watched|just saw|just read|i own""",
    "about": """tell me about|tell me more about|tell us about|what is|who directed|who made|
        who wrote|when was|describe|details of|details on|details about|information about|
        information on|info on|info about|more about|know about|do you know|
        is there anything to know about|explain|what can you tell me about|do you have|have you got|
        how good is|how long is|how old is|what do you know about|say more about|what year is|
        what genre is|what kind of film is|what kind of movie is|more details on|is it|
        more information on|summary of|plot of|synopsis of|who is in|who stars in|
        what happens in|how is|how was|what was""",
    # Demands named behind it say what an item is about, not what it is.
    "topic": """about|on the subject of|on the topic of|set in|set during|featuring|starring|
        involving|revolving around|dealing with|deals with|deal with|concerning|themed around|
        centred on|centered on|focusing on|focused on|based on|directed by|written by|
        takes place in|taking place in|that takes place in""",
    "history": """what did i|have i seen|have i watched|have i read|have i bought|have i played|
        have i rated|did i watch|did i see|did i read|did i like|did i buy|did i rate|did i love|
        did i play|did i enjoy|my history|my ratings|what have i|what i watched|what i have seen|
        what i've seen|what i've watched|which films did i|which movies did i|which books did i|
        which items did i|which ones did i|watch history|viewing history|watched before|
        what do you know about me|my profile|my taste|show my history|show me my history|
        my past|my likes|my favourites|my favorites|which films have i|which movies have i""",
    "reset": """start over|start again|start anew|start afresh|start fresh|reset|begin again|
        forget everything|forget all|forget all that|forget all of that|clear everything|
        new search|from scratch|start from scratch|forget what i said|new conversation|
        forget all i said|forget everything i said|scrap that|scrap everything|clean slate|
        begin anew|clear all|let's start over|let's start again|forget all about it""",
    "why": """why|how come|what makes you|for what reason|what is the reason|the reason for|
        what speaks for|what was the reason|why not|why did you|why do you|why would i like|
        why would i|why should i|why are you|what made you""",
    "more": """more|another|others|the others|something else|anything else|what else|next|
        more please|show more|keep going|different ones|other ones|some more|any more|any others|
        some others|a few more|another one|more like these|more like those|more like this|
        more like that|something different|show me more|give me more|more of these|more of those|
        more of the same|other suggestions|other recommendations|other options|more suggestions|
        more recommendations|more options|other films|other movies|other books|more of them|
        next page|the next ones|the next|go on|continue|like these|like those|like this one|
        more ideas|other ideas|other items|new ones|try again|a different one|anything more""",
    "small_talk": """hello|hi|hey|hi there|hello there|thanks|thank you|thank you very much|
        thanks a lot|many thanks|good morning|good evening|good afternoon|good night|bye|goodbye|
        ok|okay|cool|who are you|what are you|what can you do|how are you|cheers|great thanks|
        nice to meet you|how does this work|help|lol|haha|no thanks|no thank you|sorry|
        what is your name|see you|see you later|hey there|nice|wow|awesome|perfect|good job|
        well done|are you there|are you human|are you a bot|are you an ai|sure|alright|yo|
        how are you doing|how is it going|what is up|thx|ty""",
    "fine": """is fine|are fine|is ok|is okay|are ok|are okay|is all right|is alright|is allowed|
        are allowed|is welcome|are welcome|is fine again|is ok again|is okay again|are fine again|
        are ok again|are okay again|is allowed again|are allowed again|is welcome again|
        are welcome again|is fine too|is ok too|is okay too|are fine too|are ok too|
        are okay too|would be fine|would be ok|would be okay|would be fine too|is acceptable|
        are acceptable|is good again|again is fine|is also fine|is also ok|is also okay|
        are also fine|are also ok|are also okay|is no problem|are no problem|is fine now|
        is not a problem|is fine by me|is fine with me|are fine with me|may come back|
        can come back""",
    "drop": """forget|forget about|drop|never mind|nevermind|ignore|
        disregard|lift|i no longer want|i no longer need|no longer need|
        don't need it to be|doesn't have to be|don't have to be|needn't be|no need for|
        it doesn't have to be|it need not be|remove|they don't have to be|
        does not need to be|doesn't need to be|don't need to be|i don't need it to be|
        don't insist on|undo|cancel|
        never mind about""",
    "every": """any|whatever|whichever|every|all|of any|from any|no particular|no specific|
        an arbitrary""",
    "indifferent": """i don't care about|don't care about|regardless of|
        irrespective of|no matter|no matter which|no matter what|
        i don't mind|don't mind|don't mind which|i don't care|don't care|
        don't care which|don't care what|independent of|i don't mind about|don't worry about""",
    "matters_not": """doesn't matter|don't matter|does not matter|is not important|
        isn't important|is irrelevant|is unimportant|is up to you|doesn't matter to me|
        is not relevant|makes no difference|are not important|aren't important|
        doesn't matter anymore|doesn't matter any more|no longer matters|is not so important|
        is open|can be anything|could be anything|may be anything|is not an issue""",
    "but": "but|though|although|however|yet|still|whereas|while|ideally|otherwise|preferably|then",
    "and": """and|plus|&|as well as|together with|combined with|along with|/|mixed with|
        crossed with|meets""",
    "or": "or|and / or|and/or|or maybe|or perhaps|or else|or even|or some",
    "with": """with|with some|with a bit of|with a touch of|with a lot of|with lots of|
        with elements of""",
    "also": """also|too|as well|additionally|in addition|on top of that|on top|moreover|but also|
        and also""",
    "please": "please|pls|plz|instead|if possible|if you can|thanks|thank you",
    # Behind a comma or "and" a new wish begins here.
    "restart": """something|anything|some|give|give me|show|show me|find|find me|recommend|
        recommend me|suggest|suggest me|i want|i'd like|need|i need|i'd rather|make it|make them|
        rather|i would rather|want|let it be|i'd prefer|get me|i'm looking for|looking for|
        i'd love|how about|what about|i'd rather have|i'd rather watch|bring me|list|go for|
        it should be|they should be|i feel like|i'm in the mood for|in the mood for|
        in a mood for|i fancy|fancy|let's have|let's go with|let's do|let's try|do you know any|
        i would love|i'm after|can you find|could you find|can you recommend|could you recommend|
        would you recommend|do you have any|do you have some|have you got any|are there any|
        is there any|is there a|are there|is there|any good|got any|hit me with|surprise me with|
        make that|change it to|change that to|change to|switch to|actually|surprise me|
        i'd like to watch|i'd like to see|i'd like to read|i want to watch|i want to see|
        i want to read|i feel like watching|i'd love to watch|i'd love to see|help me find|
        what should i watch|what should i read|what should i play|what should i see|
        what can i watch|what to watch|what shall i watch|what do you recommend|
        what would you recommend|what do you suggest|what would you suggest|any ideas|
        any recommendations|any suggestions|feel like|more of a|would like|would love|
        would like to watch|would like to see|do you know of any|i like something|
        i love something""",
    "pronoun": """it|that|this|that one|this one|these|those|them|all of them|all of these|they|
        him|her""",
    "praise": """is great|was great|were great|is good|was good|is amazing|was amazing|
        is awesome|was awesome|is brilliant|was brilliant|is excellent|was excellent|
        is fantastic|was fantastic|is wonderful|was wonderful|is perfect|was perfect|was fun|
        was lovely|is lovely|sounds good|sounds great|looks good|looks great|sounds interesting|
        looks interesting|was really good|was really great|is really good|was very good|
        is very good|was so good|is so good|is my favorite|is my favourite|was a masterpiece|
        is a masterpiece|are great|are good|were good|sound good|sound great|look good|look great|
        is one of my favorites|is one of my favourites|was superb|is superb|blew me away|
        was enjoyable|was pretty good|was quite good|is right up my street|was terrific|
        are my favorites|are my favourites|were amazing|were fun|were fantastic|were excellent""",
    "blame": """is awful|was awful|were awful|is bad|was bad|were bad|is boring|was boring|
        were boring|is terrible|was terrible|is dull|was dull|is horrible|was horrible|
        was disappointing|is disappointing|is rubbish|was rubbish|wasn't good|is not good|
        wasn't great|isn't good|is not for me|isn't for me|was not for me|wasn't for me|
        is not my thing|isn't my thing|was so boring|was too long|was really bad|was very bad|
        was very boring|was really boring|is really bad|is so boring|sounds boring|looks boring|
        sounds awful|looks awful|bored me|sucks|sucked|was a disappointment|is overrated|
        was overrated|left me cold|are boring|are awful|are bad|are not for me|sound boring""",
    "ask": """any|which|which ones|what|where|could you|can you|would you|will you|do you|
        know any|recommendation|recommendations|suggestion|suggestions|idea|ideas|options|
        watch|read|play|see|tonight|today|now|who""",
    "filler": """a|an|the|of|for|to|in|on|at|by|from|is|are|be|been|was|were|am|as|so|it|its|it's|
        i|i'm|i'd|i've|i'll|me|my|mine|you|your|we|us|our|he|she|they|them|their|there|here|this|
        that|these|those|that's|there's|one|ones|film|films|movie|movies|book|books|item|items|
        thing|things|title|titles|product|products|flick|flicks|picture|pictures|stuff|show|shows|
        kind|kinds|type|types|sort|sorts|kind of|sort of|genre|genres|category|categories|
        good|great|nice|best|decent|really|very|quite|pretty|maybe|perhaps|possibly|
        would|could|should|can|will|shall|may|might|must|do|does|did|have|has|had|get|got|
        made|released|produced|published|filmed|shot|came|come|out|come out|came out|up|such|
        who|whom|whose|which|what|when|where|how|if|because|since|then|again|even|ever|
        yes|yeah|yep|well|oh|hmm|um|uh|eh|ah|right|mood|fan|lover|lovers|evening|night|
        this time|next time|some time|weekend|friend|friends|wife|husband|girlfriend|boyfriend|
        someone|everyone|anyone|myself|
        want|wants|wanted|like|liking|likes|love|loves|prefer|preferably|looking|search|searching|
        look|fancy|wish|hope|think|thinking|guess|believe|say|said|mean|ask|asking|asked|tell|go|
        going|take|took|try|trying|watching|reading|seeing|playing|let|let's|let us|lot|lots|bit|
        little|much|many|some|few|couple|several|lovely|cool|awesome|excellent|amazing|fantastic|
        super|wonderful|proper|real|nicely|into|over|per|via|about it|don't|not sure|know|either|
        both|style|part|bits|parts|demand|filter|condition|feel|feeling|all|every|fun|interesting|
        worth|worthwhile|worth watching|favorite|favourite|favorites|favourites|suitable|
        good for|perfect for|while|during|until|between|after|before|through|own|old fashioned|
        just in case|by the way|btw|definitely|absolutely|certainly|totally|especially|
        particularly|mostly|mainly|usually|generally|always|currently|at the moment|right now|
        at all|etc|e|g|eg|ie|vs|aka|same|only|s|t|d|m|ll|re|ve|im|ive|id|u|r|ur|hey|please|am i|
        anybody|somebody|nobody|whoever|else|answer|question|list|recommend|suggest|give|find|need|
        show me|recommended|suggested|must see|must watch|makes|make|making|made it|yet|
        however|possible|possibly|available|catalogue|catalog|collection|library|database|
        has been|had been|being|having|done|doing|put|set|keep|kept|needs|needed|used|use|
        enough|end|start|top|already|recently|yesterday|ago|as long as|long as|no idea|no clue|
        no preference|no preferences|no problem|no worries|do not know|not certain|
        everything|what's|mix|mixture|blend|combination|whats|nothing in particular|
        nothing specific|no particular preference|
        not sure what|i do not know|don't know|lately|once|just now|
        begin|first time|year|years|decade|decades""",
}  # fmt: skip


def cue_at(forms: Sequence[str], place: int) -> tuple[int, CueKind | None]:
    """The longest cue from a place on: how many words it has, and its kind."""
    table, longest = _table()
    for length in range(min(longest.get(forms[place], 0), len(forms) - place), 0, -1):
        kind = table.get(tuple(forms[place : place + length]))
        if kind is not None:
            return length, kind
    return 0, None


@cache
def _table() -> tuple[Mapping[tuple[str, ...], CueKind], Mapping[str, int]]:
    """Phrase → kind, and first word → words of the longest phrase that begins so."""
    found: dict[tuple[str, ...], CueKind] = {}
    for kind in get_args(CueKind):
        for phrase in CUES[kind].split("|"):
            for words in _spellings(phrase.split()):
                found.setdefault(words, kind)
    longest: dict[str, int] = {}
    for words in found:
        longest[words[0]] = max(longest.get(words[0], 0), len(words))
    return found, longest


def _spellings(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    yield tuple(words)
    if any(word in _CONTRACTED for word in words):
        yield tuple(word.replace("'", "") for word in words)
        whole = " ".join(_CONTRACTED.get(word, word) for word in words)
        yield tuple(whole.split())
        if "cannot" in whole:
            yield tuple(whole.replace("cannot", "can not").split())
