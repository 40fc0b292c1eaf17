"""What a scene can be: the attributes, the combinations kept out of training, and the sampler.

A scene is a plain dict of strings and one integer:

    trees   list of one or two {"foliage", "pot"}; where count > 2 all trees are alike and the list has one entry
    count   1 to 4
    shape   of every pot
    style   of every trunk
    sky     time of day or weather
    ground  what the pots stand on
    extra   something else in the picture, or "none"
    side    of the extra: "left" or "right" ("none" when there is no extra)
"""

FOLIAGE = ["pine", "maple", "blossom", "ginkgo", "bare"]
POT = ["blue", "brown", "red", "white", "black", "teal"]
SHAPE = ["round", "rectangular", "tall"]
COUNT = [1, 2, 3, 4]
STYLE = ["upright", "leaning", "cascading"]
SKY = ["morning", "noon", "sunset", "night", "rain", "snowfall"]
GROUND = ["wood", "moss", "sand"]
EXTRA = ["none", "sun", "moon", "mountain", "lantern", "stone"]
SIDE = ["none", "left", "right"]

# What the judge reads from a picture; the trees from left to right (of three or four, the outer two).
HEADS = {
    "count": COUNT,
    "left_foliage": FOLIAGE,
    "left_pot": POT,
    "right_foliage": FOLIAGE,
    "right_pot": POT,
    "shape": SHAPE,
    "style": STYLE,
    "sky": SKY,
    "ground": GROUND,
    "extra": EXTRA,
    "side": SIDE,
}

# No training scene has one of these, so a picture of one shows composition and not recall.
HELD_FOLIAGE_POT = {("blossom", "black"), ("maple", "teal"), ("ginkgo", "blue"), ("pine", "red"), ("bare", "brown")}
HELD_SKY_EXTRA = {("night", "mountain"), ("rain", "lantern"), ("sunset", "stone"), ("morning", "moon")}
HELD_STYLE_SHAPE = {("cascading", "rectangular")}
HELD_COUNT_FOLIAGE = {(3, "blossom"), (4, "pine")}


def held_out(scene):
    """Whether the scene has a combination that training never sees."""
    pairs = {(t["foliage"], t["pot"]) for t in scene["trees"]}
    counted = {(scene["count"], t["foliage"]) for t in scene["trees"]}
    return bool(
        pairs & HELD_FOLIAGE_POT
        or (scene["sky"], scene["extra"]) in HELD_SKY_EXTRA
        or (scene["style"], scene["shape"]) in HELD_STYLE_SHAPE
        or counted & HELD_COUNT_FOLIAGE
    )


def possible(scene):
    """Whether the sky lets the extra be seen."""
    sky, extra = scene["sky"], scene["extra"]
    if extra == "sun":
        return sky in ("morning", "noon", "sunset")
    if extra == "moon":
        return sky in ("morning", "sunset", "night")
    return True


def sample(rng, held=False):
    """A scene: any that training may see, or (held) any that it may not. `rng` is a random.Random."""
    while True:
        count = rng.choices(COUNT, (4, 4, 2, 2))[0]
        trees = [{"foliage": rng.choice(FOLIAGE), "pot": rng.choice(POT)}]
        if count == 2:
            other = {"foliage": rng.choice(FOLIAGE), "pot": rng.choice(POT)}
            trees.append(other if rng.random() < 0.7 else dict(trees[0]))
        scene = {
            "trees": trees,
            "count": count,
            "shape": rng.choice(SHAPE),
            "style": rng.choice(STYLE),
            "sky": rng.choice(SKY),
            "ground": rng.choice(GROUND),
            "extra": rng.choice(EXTRA),
        }
        scene["side"] = "none" if scene["extra"] == "none" else rng.choice(["left", "right"])
        if possible(scene) and held_out(scene) == held:
            return scene


def labels(scene):
    """Class index per judge head, in the order of HEADS."""
    left, right = scene["trees"][0], scene["trees"][-1]
    value = {
        **{k: scene[k] for k in ("count", "shape", "style", "sky", "ground", "extra", "side")},
        "left_foliage": left["foliage"],
        "left_pot": left["pot"],
        "right_foliage": right["foliage"],
        "right_pot": right["pot"],
    }
    return [classes.index(value[head]) for head, classes in HEADS.items()]
