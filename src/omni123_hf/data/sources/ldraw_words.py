"""Words of LDraw titles: which parts to pass over, and plain words for product lines and groups."""

from __future__ import annotations

import re


# Surface prints and stickers change no shape; the others are unfinished or not one rigid thing.
SKIPPED_TITLES = re.compile(
    r"\b(stickers?|pattern|patterned|patt|obsolete|template|sprue|needs work|needs bfc)\b", re.IGNORECASE
)

# Characters and worlds that belong to others: such parts are left out altogether.
FRANCHISES = re.compile(
    r"\b(sw|star wars|yoda|darth|vader|clone trooper|trooper|gungan|mandalorian|battle droid|droid|lightsaber|jedi|jar jar"
    r"|simpsons?|spongebob|batman|catwoman|joker|harry potter|hogwarts|basilisk|lord of the rings|hobbit|uruk-hai|rohan"
    r"|hungarian horntail|dementor|dobby|toy story|disney|mickey|minnie|avatar|turtles?, ninja|ninja turtle|hulk|thanos"
    r"|marvel|spider-man|venom|mario|luigi|pokemon|minecraft|creeper|enderman|ender dragon|trolls|scooby|scurrier|minions?"
    r"|bionicle|toa|rhotuka|thornax|barraki|elsa|olaf|sauron|gollum|gandalf|bugs bunny|looney|powerpuff|overwatch|angry birds?"
    r"|coca|shell|ferrari|porsche|lamborghini|mclaren|mercedes|audi|bmw)\b",
    re.IGNORECASE,
)

# Colours that a shortcut file gives to its own parts; two files that differ only by these have the same shape.
FIXED_COLORS = re.compile(
    r"\b(?:trans-?|very |light |dark |medium |bright |pearl |metallic |flat |chrome |milky |sand |neon )*"
    r"(?:trans(?:clear|black|lightblue|white|red|blue|green|yellow|orange)?|clear|black|white|red|blue|green|yellow|orange|brown"
    r"|grey|gray|bluish grey|tan|pink|purple|lime|azure|turquoise|silver|gold|nougat|magenta|lavender|reddish brown)\b"
)

# Product lines, abbreviations and library jargon, in plain words ("" drops the word).
PRODUCT_LINES = {
    "technic": "technical", "minifig": "toy figure", "maxifig": "large toy figure", "bigfig": "big toy figure",
    "duplo": "large", "duplo brick": "large building brick", "fabuland": "toy", "friends": "", "figure friends": "doll figure",
    "belville": "doll house", "scala": "doll house", "clikits": "jewellery", "znap": "snap-together", "mursten": "small-house",
    "minitalia": "", "modulex": "", "homemaker": "doll house", "constraction": "action figure", "primo": "toddler", "quatro": "extra large",
    "legoland": "", "lego": "", "mindstorms": "robot", "nxt": "", "ev3": "", "rcx": "", "spike prime": "robot", "boost": "robot",
    "power functions": "powered", "pf": "", "wedo": "", "flex-system": "flexible", "bygglek": "", "x-pod": "pod", "elves": "", "vidiyo": "",
    "nexo knights": "", "chima": "", "ninjago": "", "galidor": "", "jack stone": "", "4 juniors": "", "freestyle": "", "dots": "",
    "powered up": "powered", "control+": "powered", "micro-scout": "programmable", "light & sound": "light and sound", "lightbrick": "light brick",
    "centre": "center", "tyre": "tyre", "bl": "", "ldu": "units long", "w/o": "without", "w/": "with", "&": "and", "transclear": "clear",
    "trans-clear": "clear", "trans clear": "clear", "transblack": "transparent black", "translightblue": "transparent light blue",
    "transwhite": "transparent white", "trans": "transparent", "vert": "vertical", "horiz": "horizontal", "rc": "remote control",
    "patt": "", "type 1": "", "type 2": "", "type 3": "", "type 4": "", "type 5": "", "no": "number", "shortcut": "",
}  # fmt: skip

# Groups (first word of the title or !CATEGORY, lower case) in plain words; others keep their name.
GROUPS = {
    "technic": "technical part", "minifig": "toy figure", "minifig accessory": "toy figure accessory", "minifig headwear": "toy figure headwear",
    "minifig neckwear": "toy figure neckwear", "minifig hipwear": "toy figure hipwear", "minifig footwear": "toy figure footwear",
    "brick": "building brick", "plate": "building plate", "tile": "flat tile", "slope": "sloped brick", "baseplate": "building base plate",
    "constraction": "action figure", "constraction accessory": "action figure accessory", "znap": "snap-together beam", "duplo": "large brick",
    "scala": "doll house", "belville": "doll house", "homemaker": "doll house", "clikits": "jewellery", "electric": "electric part",
    "figure": "large toy figure", "figure accessory": "large toy figure accessory", "fabuland": "toy", "tyre": "tyre",
}  # fmt: skip
