"""Whether an English word is likely a noun that names something to be seen.

A small rule in the place of a part-of-speech tagger: a word of three letters or more that is not in
the list below (function words, and the verbs, adjectives and adverbs that descriptions are full of)
and does not end like an adverb or a participle. It errs towards "noun".
"""

MARKS = ".,;:!?\"'()[]"

_NOT_NOUNS = frozenset(
    """
    about above across after against all along also although among and another any anything are
    around as aside at away back be because been before behind being below beneath beside
    besides between both but by can cannot could did do does down each either else enough etc
    even every everything few for from had has have he her here hers him his how however if in
    instead into is it its itself just least less like likely many may maybe might more most
    much must near nearby neither next no nobody none nor not nothing now of off often on once
    one only onto or other others our out outside over own per perhaps quite rather same several
    shall she should since so some someone something such than that the their theirs them then
    there these they thing this those though through throughout thus to together too toward
    towards two three four five six seven eight nine ten under until up upon us very was we well
    were what when where which while who whole whom whose why will with within without would yes
    yet you your first second third last main various different similar certain possible visible
    present available add adds allow allows appear appears ask asks become becomes begin begins
    bring brings capture captures carry carries catch catches come comes consist consists
    contain contains contribute contributes cover covers create creates depict depicts describe
    describes draw drawn eat eats enjoy enjoys feature features find finds fly flies follow
    follows found gather gathers get gets give gives given go goes hang hangs help helps hold
    holds include includes indicate indicates keep keeps know known lead leads lean leans lie
    lies located look looks made make makes move moves occupy occupies paint place placed play
    plays prepare prepares provide provides put reach reaches read reads ride rides rest rests
    run runs said say says see seem seems seen sees serve serves set share shares show shown
    shows sit sits sat stand stands stood stay stays suggest suggests surround surrounds swim
    swims take taken takes talk talks throw throws turn turns use used uses wait waits walk
    walks watch watches wear wears work works active big black blue bold bright broad brown busy
    calm casual central clean clear close closed cold colorful colourful comfortable cool cosy
    cozy cute dark deep delicious dry empty fluffy fresh full fun golden good gray great green
    grey happy hard heavy high hot huge inviting kind large little lively living long low modern
    multiple natural new nice numerous old open orderly outdoor indoor pink playful pleasant
    prominent proper purple quiet red relaxed rich round rural serene sharp short simple single
    slight small smooth soft square left right strong sunny sweet tall tan thick thin tiny
    typical urban vibrant warm wet white wide wild wooden yellow young ago ahead almost already
    always apart far forward never overall somewhat soon still
    """.split()
)
_NOUNS = frozenset(
    """
    building ceiling clothing painting drawing railing ring king string wing thing evening morning
    wedding bedding pudding dressing swing lightning pendulum bed seed shed sled weed speed
    belly bully butterfly family fly jelly lily lorry trolley
    """.split()
)


def is_noun(word: str) -> bool:
    """Whether a word is likely a noun; marks around it and a plural s do not matter."""
    bare = word.strip().strip(MARKS).lower()
    if not bare.isalpha() or len(bare) < 3:
        return False
    one = singular(bare)
    if bare in _NOT_NOUNS or one in _NOT_NOUNS:
        return False
    return one in _NOUNS or not one.endswith(("ing", "ly", "ed"))


def singular(word: str) -> str:
    """The word without marks around it and without a plural s, as HALC's release does it."""
    bare = word.strip().strip(MARKS).lower()
    return bare.removesuffix("s") if not bare.endswith("ss") else bare
