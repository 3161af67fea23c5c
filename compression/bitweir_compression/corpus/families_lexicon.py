"""The words the tutor's problems are made of: names, things, short words, and words sorted by kind.

Rules:
1. All lower case except first names; ASCII; no word twice in a list.
2. A word of `CATEGORIES` belongs to one category only, also in common speech.
3. Adding or moving a word changes the frozen vectors in tests/vectors/tutor.json.
"""

from collections.abc import Mapping
from typing import Final


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES: Final = _words(
    "Ana Ben Cleo Dan Eva Finn Gia Hugo Ida Jon Kira Leo Mia Noah Olga Paul Quinn Rosa Sam Tara Uma Vic Wanda Yara Zoe "
    "Adam Bella Carl Dora Emil Fay Gus Hana Ivan Jane Kofi Lena Max Nina Omar Pia Ravi Sara Tom Ugo Vera Will Yusuf "
    "Zack Alma Boris Celia Dev Elsa Felix Greta Hassan Iris Jack Kate Liam Maya"
)

# Countable things, plural with a plain "s".
THINGS: Final = _words(
    "apples pears plums lemons figs melons onions carrots eggs cakes pies buns rolls nuts seeds beans stamps coins "
    "cards books pens pencils stickers marbles buttons beads shells stones ribbons candles lamps cups plates bowls "
    "spoons forks jars bottles tins bags hats scarves socks gloves shirts towels pillows ropes nails screws bricks "
    "tiles planks poles tickets posters maps photos letters parcels baskets crates tulips roses daisies ferns acorns "
    "leaves feathers balloons kites dolls puzzles rings keys badges medals flags bells"
)

# Short common words for lists and string exercises.
WORDS: Final = _words(
    "ant arm axe bag bat bed bell bird boat book bowl box cake card cat clay coat corn cow cup desk dish dog door "
    "drum duck egg farm fig fish flag fork fox frog game gate gift goat gold hat hill horn house ice iron jam jar key "
    "king kite knot lake lamp leaf lion map milk moon moss nail nest net nut oak oil owl page pan park pear pen pig "
    "pine plum pond rain ring road rock rope rose salt sand seed ship shoe snow soap sock star sun swan tent tile toad "
    "town tree tub vase wall wave well wind wolf wood wool yard zebra"
)

CONTAINERS: Final = _words(
    "boxes bags jars trays crates baskets packets shelves drawers sacks cartons tins buckets cases"
)

MACHINES: Final = _words("printer loom press oven robot pump mill drill mixer lathe packer cutter sorter kiln scanner")

WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# Months with their days, in a year that is not a leap year.
MONTHS: Final[Mapping[str, int]] = {
    "January": 31,
    "February": 28,
    "March": 31,
    "April": 30,
    "May": 31,
    "June": 30,
    "July": 31,
    "August": 31,
    "September": 30,
    "October": 31,
    "November": 30,
    "December": 31,
}

CATEGORIES: Final[Mapping[str, tuple[str, ...]]] = {
    "animal": _words(
        "ant bear bee camel cat cow crab deer dog duck eagle fox frog goat hen heron horse lion mole mouse otter owl "
        "pig rabbit seal sheep snake swan tiger toad whale wolf zebra"
    ),
    "plant": _words(
        "aspen birch cactus cedar clover daisy elm fern fir grass heather holly ivy lily maple moss nettle oak orchid "
        "palm pine poplar rose spruce thistle tulip willow yew"
    ),
    "tool": _words(
        "axe chisel drill file hammer hoe ladder mallet pliers rake ruler sander saw scissors screwdriver shovel "
        "sickle spade trowel wrench"
    ),
    "garment": _words(
        "apron belt blouse boot cap cardigan coat dress glove hat jacket mitten sandal scarf shirt shoe skirt sock "
        "sweater trousers vest"
    ),
    "vehicle": _words(
        "barge bicycle bus canoe car ferry helicopter lorry motorbike rocket scooter sledge taxi tractor train tram "
        "truck van yacht"
    ),
    "instrument": _words(
        "accordion banjo bassoon bugle cello clarinet cymbal drum fiddle flute guitar harp lute oboe organ piano "
        "trombone trumpet tuba viola violin"
    ),
    "food": _words(
        "bacon bagel biscuit bread broth butter cake cheese chutney custard ham jam noodle omelette pancake pasta pie "
        "pizza porridge pudding salad sausage soup stew toast yoghurt"
    ),
    "piece of furniture": _words(
        "armchair bench bookcase bunk cabinet chair couch cradle cupboard desk dresser footstool hammock sideboard "
        "sofa stool table wardrobe"
    ),
}

PLURAL: Final[Mapping[str, str]] = {
    "animal": "animals",
    "plant": "plants",
    "tool": "tools",
    "garment": "garments",
    "vehicle": "vehicles",
    "instrument": "instruments",
    "food": "foods",
    "piece of furniture": "pieces of furniture",
}

# Made-up words are built of these, so that a small vocabulary spells them in few tokens.
CONSONANTS: Final = "bdfgklmnprstvz"
VOWELS: Final = "aeiou"
