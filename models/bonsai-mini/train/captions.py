"""Captions of scenes in varied English, and which judge heads a caption fixes.

A caption may leave things out; what it leaves out is free in the picture and is not judged.
At most MAX_WORDS words, so that it fits the model's text length.
"""

from world import HEADS

MAX_WORDS = 32

TREE = {
    "pine": (["pine", "green pine", "evergreen pine", "green"], ["bonsai", "bonsai tree", "tree"]),
    "maple": (["maple", "red maple", "autumn maple", "crimson maple"], ["bonsai", "bonsai tree", "tree"]),
    "blossom": (["cherry blossom", "pink blossom", "pink cherry", "blossoming pink"], ["bonsai", "bonsai tree", "tree"]),
    "ginkgo": (["ginkgo", "yellow ginkgo", "golden ginkgo", "yellow"], ["bonsai", "bonsai tree", "tree"]),
    "bare": (["bare", "snowy bare", "leafless", "bare winter"], ["bonsai", "bonsai tree", "tree"]),
}
POT = {
    "blue": ["blue"], "brown": ["brown", "clay"], "red": ["red"],
    "white": ["white"], "black": ["black"], "teal": ["teal", "turquoise"],
}
SHAPE = {"round": ["round", "bowl-shaped"], "rectangular": ["rectangular", "square"], "tall": ["tall", "high"]}
STYLE = {"upright": ["upright", "straight"], "leaning": ["leaning", "slanting"], "cascading": ["cascading", "hanging"]}
SKY = {
    "morning": ["in the morning", "at dawn", "on a soft morning", "in morning light"],
    "noon": ["at noon", "on a bright day", "under a blue sky", "in daylight"],
    "sunset": ["at sunset", "in the evening", "under an orange sky", "at dusk"],
    "night": ["at night", "under the stars", "on a dark night", "under a night sky"],
    "rain": ["in the rain", "on a rainy day", "in rainy weather", "while it rains"],
    "snowfall": ["in snowfall", "while it snows", "on a snowy day", "in falling snow"],
}
GROUND = {
    "wood": ["on a wooden table", "on wood", "on a table"],
    "moss": ["on moss", "on a mossy ground", "on grass"],
    "sand": ["on sand", "on pale sand", "on raked sand"],
}
EXTRA = {
    "sun": ["the sun", "a sun"], "moon": ["a moon", "the moon", "a full moon"],
    "mountain": ["a mountain", "a snowy mountain"], "lantern": ["a stone lantern", "a lantern"],
    "stone": ["a stone", "a rock", "a grey stone"],
}
SIDE = {"left": ["on the left", "to the left", "at the left"], "right": ["on the right", "to the right", "at the right"]}
NUMBER = {2: ["two", "a pair of", "2"], 3: ["three", "3"], 4: ["four", "4"]}
NONSENSE = ["dragon", "happy", "cat", "robot", "castle", "xq", "beautiful", "tiny", "old", "painting", "ocean", "car", "zen", "little"]


def _article(words):
    return ("an " if words[0] in "aeiou" else "a ") + words


def _tree(rng, tree, style, fixed):
    names, nouns = TREE[tree["foliage"]]
    words = f"{rng.choice(names)} {rng.choice(nouns)}"
    if style and rng.random() < 0.75:
        words = f"{rng.choice(STYLE[style])} {words}"
        fixed.add("style")
    return words


def _pot(rng, pot, shape, fixed):
    words = f"{rng.choice(POT[pot])} {rng.choice(['pot', 'pot', 'planter'])}"
    if shape and rng.random() < 0.75:
        words = f"{rng.choice(SHAPE[shape])} {words}"
        fixed.add("shape")
    return words


def _subject(rng, scene, fixed, keep):
    """The trees and their pots."""
    trees, count = scene["trees"], scene["count"]
    fixed.add("count")
    style, shape = scene["style"] if keep() else None, scene["shape"] if keep() else None
    if count == 2 and trees[0] != trees[1]:
        fixed.update(["left_foliage", "left_pot", "right_foliage", "right_pot"])
        parts = [
            f"{_article(_tree(rng, t, style if i == 0 else None, fixed))} in {_article(_pot(rng, t['pot'], shape if i == 0 else None, fixed))}"
            for i, t in enumerate(trees)
        ]
        form = rng.random()
        if form < 0.5:
            joint = rng.choice([" and ", " beside ", " next to "]) if form < 0.4 else ", "
            return parts[0] + joint + parts[1]
        parts = [f"{p} {rng.choice(SIDE[s])}" for p, s in zip(parts, ("left", "right"))]
        if rng.random() < 0.5:
            parts.reverse()
        return parts[0] + rng.choice([" and ", ", "]) + parts[1]
    with_pot = keep() or rng.random() < 0.6
    fixed.update(["left_foliage", "right_foliage"])
    tree = _tree(rng, trees[0], style, fixed)
    pot = ""
    if with_pot:
        fixed.update(["left_pot", "right_pot"])
        pot = _pot(rng, trees[0]["pot"], shape, fixed)
    if count == 1:
        if pot and rng.random() < 0.12:
            return f"{_article(pot)} with {_article(tree)}"
        return _article(tree) + (f" in {_article(pot)}" if pot else "")
    tree = tree if tree.endswith("tree") or rng.random() < 0.5 else tree + " tree"
    tree = tree + "s" if tree.endswith("tree") else tree
    return f"{rng.choice(NUMBER[count])} {tree}" + (f" in {pot}s" if pot else "")


def _extra(rng, scene, fixed):
    words = rng.choice(EXTRA[scene["extra"]])
    fixed.add("extra")
    if rng.random() < 0.85:
        fixed.add("side")
        words = f"{words} {rng.choice(SIDE[scene['side']])}"
    return words


def caption(rng, scene, full=False, nonsense=0.0):
    """(text, fixed heads). `full` leaves nothing out except by chance of wording; `nonsense` is the chance of a stray word."""
    while True:
        fixed = set()
        share = 1.0 if full else rng.choice([0.35, 0.7, 1.0])
        keep = lambda: rng.random() < share
        subject = _subject(rng, scene, fixed, keep)
        sky = rng.choice(SKY[scene["sky"]]) if keep() else ""
        ground = rng.choice(GROUND[scene["ground"]]) if keep() and rng.random() < 0.8 else ""
        extra = _extra(rng, scene, fixed) if scene["extra"] != "none" and keep() else ""
        fixed.update(h for h, words in (("sky", sky), ("ground", ground)) if words)
        form = rng.random()
        if form < 0.55:
            places = [p for p in (ground, sky) if p]
            if rng.random() < 0.5:
                places.reverse()
            text = " ".join([subject, *places])
            if extra:
                text += rng.choice([", ", " with ", ", with ", ", and "]) + extra
        elif form < 0.8:
            parts = [p for p in (ground, sky, extra) if p]
            rng.shuffle(parts)
            text = ", ".join([subject, *parts])
        else:
            front = [p for p in (sky, extra) if p]
            rng.shuffle(front)
            text = ", ".join([*front, subject + (" " + ground if ground else "")])
        if rng.random() < nonsense:
            words = text.split(" ")
            words.insert(rng.randrange(len(words) + 1), rng.choice(NONSENSE))
            text = " ".join(words)
        if rng.random() < 0.1:
            text = rng.choice(["a picture of ", "a drawing of ", "painting of "]) + text
        if rng.random() < 0.15:
            text = text[0].upper() + text[1:] + rng.choice(["", "."])
        if len(text.split()) <= MAX_WORDS:
            return text, [h in fixed for h in HEADS]
