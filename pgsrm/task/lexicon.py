"""The small polarity lexicon of SentimentInversion, and the words that carry no topic.

Written for short everyday first-person sentences. Inflected forms are matched by stem (checkers.stem), so
one form of a regular word is enough; irregular forms are listed.
"""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


POSITIVE = _set(
    """
    admire admired adore alive amazing amused appreciate awesome beautiful beloved best better blessed
    blessing bliss brave bright brilliant calm celebrate charming cheerful clever comfort comfortable
    confident content cozy cured daring delicious delight delightful eager ease easy ecstatic elegant
    encouraged energetic energy enjoy enjoyable enthusiastic excellent excited exciting fabulous
    fantastic favorite fearless fine fit found free freedom fresh friendly fun funny generous gentle
    glad glorious good gorgeous grand grateful gratitude great grin happily happiness happy healed
    healthy heaven hope hopeful incredible inspired inspiring jolly joy joyful kind kindness laugh
    laughing laughter lively love loved lovely loving loyal luck lucky magical marvelous merry miracle
    motivated nice optimistic peace peaceful perfect perfectly pleasant pleased pleasure plenty positive
    praise pride promoted proud ready recovered rejoice relaxed relief relieved respect rested rich safe
    satisfied secure smile smiling splendid strong succeed success successful sunny sure sunshine superb
    support supported supportive sweet tasty terrific thankful thanks thrilled thrive tidy triumph trust
    understood victory warm warmth welcome well win winner winning won wonderful worthy
    """
)

NEGATIVE = _set(
    """
    abandoned afraid agony alone anger angry anguish annoyed anxiety anxious apart ashamed awful bad
    badly bare betrayed bitter blame bored boring broke broken burden cancelled cold cried cruel crushed
    cry crying cursed danger dangerous dark dead death debt defeated denied depressed depressing
    depression despair desperate despise destroyed devastated die died dies disappoint disappointed
    disaster discouraged disgusted disgusting dislike distant doubt drained dread dreadful dreary dull
    dying embarrassed empty enemy envy exhausted fail failed failing failure fear fearful fight fired
    forget forgot forgotten frightened frustrated furious gloomy grief grieve grim guilty hate hated
    haunted heartache heartbroken heartless helpless homesick hopeless horrible horrified hostile hurt
    ignore ignored ill insecure insulted irritated isolated jealous lazy lonely lonesome lose loser
    losing loss lost melancholy mess miserable misery miss missed missing misunderstood mourn mourning
    negative neglected nervous nightmare numb overwhelmed pain painful panic pathetic pity pointless
    poor powerless problem punished quit regret reject rejected resent restless robbed rotten rude ruin
    ruined sad sadly sadness scared scary shaking shame sick sickness silent sorrow sorry starved stole
    stolen stranger stress stressed struggle stuck suffer suffering tear tears terrible terrified
    threatened tired torn tragedy tragic trapped trouble troubled ugly unable uncertain unhappy unloved
    unlucky unpleasant unsure unwanted unwelcome upset useless waste wasted weak weary weep weeping wept
    worn worried worry worse worst worthless wounded wrong
    """
)

# Two words that have a polarity only together.
NEGATIVE_PAIRS = frozenset(
    {
        ("broke", "down"),
        ("breaks", "down"),
        ("feel", "down"),
        ("felt", "down"),
        ("gave", "up"),
        ("give", "up"),
        ("given", "up"),
        ("is", "over"),
        ("laughs", "at"),
        ("laugh", "at"),
        ("left", "me"),
        ("leaves", "me"),
        ("me", "down"),
        ("ran", "away"),
    }
)
POSITIVE_PAIRS = frozenset({("cannot", "wait"), ("not", "wait"), ("look", "forward"), ("looking", "forward")})

NEGATIONS = _set(
    """
    no not cannot never nothing nobody none neither nor without hardly barely stop stopped stops
    """
)

FIRST_PERSON = _set("i me my mine myself we us our ours ourselves")

# Function words, and words too general to name what a sentence is about.
NO_TOPIC = (
    FIRST_PERSON
    | NEGATIONS
    | _set(
        """
    a about after again all almost along also always am an and any anymore anyone anything are around as
    at away be because been before being big but by came can come coming could did do does doing done
    down each ever every everyone everything feel feeling feels felt few for from full get gets getting
    give given go goes going gone got had has have having he her here him his how if in inside into is
    it its just keep last leave leaves left like little look looking looks lot made make makes making
    many more most much new next now of off old on once one only or other out over own people rather
    really she should since so some someone something soon still such take than that the their them then
    there these they thing things this those through to too under until up very want wants was way went
    were what when where which while who why will with would yet you your
    """
    )
)
