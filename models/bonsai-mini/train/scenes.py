"""Draws scenes: (scene, seed, width, height) -> uint8 picture [height, width, 3], anti-aliased by cairo.

Lengths are in units of the shorter side, so a scene looks alike at every size; a wider picture shows more sky
and ground. Every random choice comes from the seed.
"""

import math
import random

import cairocffi as cairo
import numpy as np

LEAF = {"pine": (62, 138, 66), "maple": (206, 52, 40), "blossom": (244, 150, 190), "ginkgo": (242, 196, 48), "bare": (246, 250, 255)}
GLAZE = {"blue": (40, 92, 190), "brown": (150, 88, 48), "red": (190, 40, 44), "white": (240, 236, 226), "black": (48, 48, 56), "teal": (28, 158, 156)}
SKY = {
    "morning": ((178, 212, 232), (255, 232, 206)),
    "noon": ((72, 156, 232), (196, 232, 250)),
    "sunset": ((112, 62, 128), (255, 158, 84)),
    "night": ((12, 16, 54), (52, 66, 128)),
    "rain": ((104, 116, 130), (164, 176, 184)),
    "snowfall": ((176, 188, 206), (226, 232, 240)),
}
HILL = {"morning": (176, 196, 188), "noon": (140, 192, 160), "sunset": (134, 78, 110), "night": (30, 38, 84), "rain": (108, 124, 128), "snowfall": (206, 216, 228)}
GROUND = {"wood": (196, 138, 86), "moss": (112, 152, 74), "sand": (232, 214, 168)}
DIM = {"morning": 0.0, "noon": 0.0, "sunset": 0.10, "night": 0.24, "rain": 0.14, "snowfall": 0.04}
HORIZON = 0.80


def mix(a, b, t):
    return tuple(x + (y - x) * t for x, y in zip(a, b))


def bezier(p, n=24):
    """Points of a cubic curve."""
    t = np.linspace(0, 1, n)[:, None]
    p = np.asarray(p, float)
    return (1 - t) ** 3 * p[0] + 3 * t * (1 - t) ** 2 * p[1] + 3 * t * t * (1 - t) * p[2] + t**3 * p[3]


class Canvas:
    """A cairo surface whose unit is the shorter side; the origin is at the top left."""

    def __init__(self, width, height):
        self.surface = cairo.ImageSurface(cairo.FORMAT_RGB24, width, height)
        self.c = cairo.Context(self.surface)
        unit = min(width, height)
        self.c.scale(unit, unit)
        self.w, self.h, self.px = width / unit, height / unit, (width, height)
        self.c.set_line_cap(cairo.LINE_CAP_ROUND)
        self.c.set_line_join(cairo.LINE_JOIN_ROUND)

    def colour(self, rgb, alpha=1.0):
        self.c.set_source_rgba(*(min(255, max(0, v)) / 255 for v in rgb), alpha)

    def gradient(self, top, bottom, y0, y1):
        g = cairo.LinearGradient(0, y0, 0, y1)
        g.add_color_stop_rgb(0, *(v / 255 for v in top))
        g.add_color_stop_rgb(1, *(v / 255 for v in bottom))
        self.c.set_source(g)
        self.c.rectangle(0, y0, self.w, y1 - y0)
        self.c.fill()

    def ellipse(self, x, y, rx, ry, rgb, alpha=1.0):
        self.c.save()
        self.c.translate(x, y)
        self.c.scale(rx, ry)
        self.c.arc(0, 0, 1, 0, 2 * math.pi)
        self.c.restore()
        self.colour(rgb, alpha)
        self.c.fill()

    def polygon(self, points, rgb, alpha=1.0):
        self.c.move_to(*points[0])
        for p in points[1:]:
            self.c.line_to(*p)
        self.c.close_path()
        self.colour(rgb, alpha)
        self.c.fill()

    def rect(self, x, y, w, h, rgb, alpha=1.0):
        self.c.rectangle(x, y, w, h)
        self.colour(rgb, alpha)
        self.c.fill()

    def stroke(self, points, width, rgb, alpha=1.0):
        self.c.move_to(*points[0])
        for p in points[1:]:
            self.c.line_to(*p)
        self.c.set_line_width(width)
        self.colour(rgb, alpha)
        self.c.stroke()

    def limb(self, points, w0, w1, rgb):
        """A curve whose width runs from w0 to w1."""
        d = np.gradient(points, axis=0)
        n = np.stack([-d[:, 1], d[:, 0]], 1) / np.maximum(np.hypot(d[:, 0], d[:, 1]), 1e-9)[:, None]
        w = np.linspace(w0, w1, len(points))[:, None] / 2
        self.polygon(np.concatenate([points + n * w, (points - n * w)[::-1]]).tolist(), rgb)
        self.ellipse(*points[-1], w1 / 2, w1 / 2, rgb)

    def array(self):
        w, h = self.px
        a = np.ndarray((h, self.surface.get_stride() // 4, 4), np.uint8, self.surface.get_data())
        return np.ascontiguousarray(a[:, :w, 2::-1])


def cloud(cv, x, y, w, h, body, dark, light, rng):
    """A flat-bottomed pad of foliage: shade, body and light."""
    lobes = []
    for k in range(4):
        lift = 0.30 if k in (1, 2) else 0.0
        lobes.append((x + w * (k - 1.5) / 3.3 + rng.uniform(-0.02, 0.02) * w, y - h * lift, w * rng.uniform(0.27, 0.31), h * rng.uniform(0.50, 0.58)))
    for lx, ly, a, b in lobes:
        cv.ellipse(lx, ly + 0.20 * h, a, b * 0.9, dark)
    for lx, ly, a, b in lobes:
        cv.ellipse(lx, ly, a, b * 0.86, body)
    for lx, ly, a, b in lobes[:3]:
        cv.ellipse(lx - a * 0.10, ly - b * 0.34, a * 0.50, b * 0.36, light)


def foliage(cv, kind, x, y, w, h, dim, rng):
    """One pad in the manner of its kind, centred at (x, y)."""
    base = LEAF[kind]
    body = mix(base, (10, 10, 40), dim)
    dark, light = mix(body, (20, 20, 60), 0.34), mix(body, (255, 255, 225), 0.30)
    if kind == "pine":
        for k in range(2):
            yy, ww = y + h * (0.30 - 0.55 * k), w * (0.56 - 0.16 * k)
            cv.polygon([(x - ww, yy + h * 0.30), (x - ww * 0.42, yy - h * 0.38), (x, yy - h * 0.56), (x + ww * 0.42, yy - h * 0.38), (x + ww, yy + h * 0.30)], dark)
            cv.polygon([(x - ww * 0.90, yy + h * 0.14), (x - ww * 0.40, yy - h * 0.38), (x, yy - h * 0.56), (x + ww * 0.40, yy - h * 0.38), (x + ww * 0.90, yy + h * 0.14)], body)
        cv.polygon([(x - w * 0.26, y - h * 0.40), (x, y - h * 0.80), (x + w * 0.10, y - h * 0.42)], light)
    elif kind == "bare":
        for s in (-1, 0, 1):
            q = bezier([(x, y + h * 0.4), (x + s * w * 0.1, y), (x + s * w * 0.3, y), (x + s * w * 0.46, y - h * 0.42)], 10)
            cv.limb(q, w * 0.07, w * 0.035, mix((96, 70, 54), (10, 10, 40), dim))
        cv.ellipse(x, y - h * 0.46, w * 0.20, h * 0.16, dark)
        for s in (-1, 0, 1):
            cv.ellipse(x + s * w * 0.36, y - h * (0.46 if s else 0.58), w * 0.21, h * 0.17, body)
    else:
        cloud(cv, x, y, w, h, body, dark, light, rng)
        if kind == "blossom":
            for k in range(3):
                cv.ellipse(x + w * (k - 1) * 0.28, y - h * (0.1 if k != 1 else 0.42), w * 0.055, w * 0.055, mix((255, 250, 252), (10, 10, 40), dim))
        elif kind == "maple":
            for k in range(3):
                cv.ellipse(x + w * (k - 1) * 0.30, y + h * 0.22, w * 0.07, w * 0.05, mix((255, 128, 40), (10, 10, 40), dim))


def tree(cv, x, y, size, kind, style, turn, dim, rng):
    """A tree that grows from (x, y); `size` is its height, `turn` (-1 or 1) the way it leans."""
    bark = mix((112, 74, 48), (10, 10, 40), dim)
    lit = mix(bark, (230, 200, 160), 0.32)
    j = lambda a: rng.uniform(-a, a) * size
    if style == "upright":
        top = (x + j(0.02), y - size)
        trunk = bezier([(x, y), (x + turn * size * 0.10, y - size * 0.35), (x - turn * size * 0.10, y - size * 0.62), top])
        pads = [(0.46, 0.42, 0.66), (0.46, -0.42, 0.66), (0.76, 0.30, 0.56), (0.76, -0.30, 0.56)]
        crown = 0.62
    elif style == "leaning":
        top = (x + turn * size * 0.44 + j(0.02), y - size * 0.88)
        trunk = bezier([(x - turn * size * 0.12, y), (x + turn * size * 0.02, y - size * 0.28), (x + turn * size * 0.22, y - size * 0.52), top])
        pads = [(0.42, -turn * 0.42, 0.64), (0.62, turn * 0.46, 0.60), (0.82, -turn * 0.34, 0.56)]
        crown = 0.66
    else:
        top = (x + turn * size * 0.66 + j(0.02), y + size * 0.16)
        trunk = bezier([(x - turn * size * 0.08, y), (x - turn * size * 0.14, y - size * 0.78), (x + turn * size * 0.62, y - size * 0.74), top])
        pads = [(0.34, -turn * 0.26, 0.60), (0.52, turn * 0.02, 0.56), (0.80, turn * 0.10, 0.50)]
        crown = 0.50
    cv.limb(trunk, size * 0.17, size * 0.06, bark)
    cv.limb(trunk - [size * 0.03, 0], size * 0.05, size * 0.015, lit)
    for at, reach, w in pads:
        px, py = trunk[int(at * (len(trunk) - 1))]
        qx, qy = px + reach * size + j(0.02), py - size * 0.09 + j(0.015)
        cv.limb(bezier([(px, py), ((px + qx) / 2, py), ((px + qx) / 2, qy + size * 0.05), (qx, qy)], 12), size * 0.07, size * 0.04, bark)
        foliage(cv, kind, qx, qy, size * w * rng.uniform(0.95, 1.05), size * 0.24, dim, rng)
    foliage(cv, kind, top[0], top[1] - (0 if style == "cascading" else size * 0.02), size * crown * rng.uniform(0.95, 1.05), size * 0.27, dim, rng)


POT_SIZE = {"round": (0.74, 0.34), "rectangular": (0.96, 0.24), "tall": (0.50, 0.52)}


def pot(cv, x, y, size, colour, shape, dim):
    """A pot whose rim is centred at (x, y)."""
    col = mix(GLAZE[colour], (10, 10, 40), dim * 0.8)
    dark, light = mix(col, (0, 0, 20), 0.34), mix(col, (255, 255, 255), 0.34)
    w, h = (v * size for v in POT_SIZE[shape])
    c = cv.c
    if shape == "round":
        def bowl(a, b):
            c.move_to(x + a * w, y)
            c.curve_to(x + a * w, y + h * 0.75, x + a * w * 0.6, y + h, x + a * w * 0.44, y + h)
            c.line_to(x + b * w * 0.44, y + h)
            c.curve_to(x + b * w * 0.6, y + h, x + b * w, y + h * 0.75, x + b * w, y)
            c.close_path()
        bowl(-0.5, 0.5)
        cv.colour(col)
        c.fill()
        bowl(0.16, 0.5)
        cv.colour(dark)
        c.fill()
        cv.rect(x - w * 0.54, y - h * 0.10, w * 1.08, h * 0.20, col)
        cv.rect(x - w * 0.54, y - h * 0.10, w * 1.08, h * 0.09, light)
    else:
        b = 0.46 if shape == "rectangular" else 0.36
        cv.polygon([(x - w * 0.5, y), (x + w * 0.5, y), (x + w * b, y + h), (x - w * b, y + h)], col)
        cv.polygon([(x + w * 0.20, y), (x + w * 0.5, y), (x + w * b, y + h), (x + w * 0.17, y + h)], dark)
        rim = size * 0.07
        cv.rect(x - w * 0.54, y - rim * 0.6, w * 1.08, rim, col)
        cv.rect(x - w * 0.54, y - rim * 0.6, w * 1.08, rim * 0.45, light)
        if shape == "rectangular":
            for s in (-1, 1):
                cv.rect(x + s * w * 0.32 - w * 0.07, y + h, w * 0.14, h * 0.16, dark)
        else:
            cv.rect(x - w * 0.44, y + h * 0.30, w * 0.88, h * 0.10, light)


def backdrop(cv, sky, ground, rng):
    """Sky, stars or clouds, hills and ground."""
    top, bottom = SKY[sky]
    cv.gradient(top, bottom, 0, cv.h)
    if sky == "night":
        for k in range(int(12 * cv.w)):
            x, y = (k + rng.uniform(0.2, 0.8)) / 12, rng.uniform(0.03, 0.42)
            cv.ellipse(x, y, 0.0085, 0.0085, (250, 246, 224))
    if sky == "noon":
        for k in range(2):
            x, y = cv.w * (0.30 + 0.40 * k) + rng.uniform(-0.06, 0.06), rng.uniform(0.08, 0.14)
            for dx, r in ((-0.06, 0.035), (0, 0.05), (0.06, 0.035)):
                cv.ellipse(x + dx, y, r * 1.3, r * 0.7, (255, 255, 255), 0.85)
    line = cv.h - (1 - HORIZON)
    shift = rng.uniform(0, 6.28)
    xs = np.linspace(0, cv.w, 40)
    hills = [(v, line - 0.07 - 0.03 * math.sin(shift + 5 * v)) for v in xs]
    cv.polygon([(0, cv.h), *hills, (cv.w, cv.h)], HILL[sky])
    return line


def floor(cv, line, sky, ground):
    col = mix(GROUND[ground], (10, 10, 50), DIM[sky] * 1.3)
    if sky == "snowfall":
        col = mix(col, (255, 255, 255), 0.35)
    cv.rect(0, line, cv.w, cv.h - line, col)
    edge = mix(col, (255, 255, 255), 0.30)
    if ground == "wood":
        cv.rect(0, line, cv.w, 0.018, edge)
        for k in (0.075, 0.14):
            cv.rect(0, line + k, cv.w, 0.008, mix(col, (40, 16, 0), 0.35))
    elif ground == "moss":
        for k in range(int(cv.w * 10) + 1):
            cv.ellipse(k / 10, line + 0.004, 0.062, 0.022, col)
            cv.ellipse(k / 10 + 0.05, line + 0.10, 0.032, 0.010, edge, 0.6)
    else:
        for k in (0.05, 0.09, 0.13, 0.17):
            cv.stroke([(v, line + k + 0.008 * math.sin(12 * v)) for v in np.linspace(-0.1, cv.w + 0.1, 50)], 0.007, mix(col, (120, 90, 40), 0.30))
    return col


def behind(cv, scene, line, rng):
    """The extras behind the trees: sun, moon, mountain."""
    extra, sky = scene["extra"], scene["sky"]
    at = lambda d: d if scene["side"] == "left" else cv.w - d
    if extra == "sun":
        x, y, r = at(0.15 + rng.uniform(-0.02, 0.02)), 0.16 + rng.uniform(-0.03, 0.03), 0.085
        col = {"morning": (255, 214, 120), "noon": (255, 226, 70), "sunset": (255, 104, 52)}[sky]
        cv.ellipse(x, y, r * 1.45, r * 1.45, col, 0.30)
        cv.ellipse(x, y, r, r, col)
    elif extra == "moon":
        x, y, r = at(0.15 + rng.uniform(-0.02, 0.02)), 0.16 + rng.uniform(-0.03, 0.03), 0.080
        cv.ellipse(x, y, r, r, (250, 248, 228))
        cv.ellipse(x + 0.026, y - 0.020, r * 0.20, r * 0.20, (214, 212, 200))
        cv.ellipse(x - 0.030, y + 0.022, r * 0.27, r * 0.27, (214, 212, 200))
        cv.ellipse(x + 0.022, y + 0.036, r * 0.15, r * 0.15, (214, 212, 200))
    elif extra == "mountain":
        x, top, half = at(0.20 + rng.uniform(-0.02, 0.02)), line - 0.50 + rng.uniform(-0.03, 0.03), 0.30
        col = mix((104, 112, 150), SKY[sky][1], 0.22)
        col = mix(col, (10, 10, 40), DIM[sky])
        h = line - top
        cv.polygon([(x - half, line), (x, top), (x + half, line)], col)
        cv.polygon([(x, top), (x + half, line), (x + half * 0.25, line)], mix(col, (20, 20, 50), 0.25))
        s = 0.34
        cv.polygon([(x, top), (x + half * s, top + h * s), (x + half * s * 0.4, top + h * s * 0.8), (x, top + h * s * 1.05), (x - half * s * 0.45, top + h * s * 0.8), (x - half * s, top + h * s)], mix((255, 255, 255), (10, 10, 40), DIM[sky] * 0.6))


def beside(cv, scene, line, rng):
    """The extras on the ground: lantern, stone. They stand clear of the trees."""
    extra, dim = scene["extra"], DIM[scene["sky"]]
    x = 0.11 + rng.uniform(-0.01, 0.01)
    x = x if scene["side"] == "left" else cv.w - x
    y = line + 0.085
    shade = lambda c: mix(c, (10, 10, 40), dim)
    if extra == "lantern":
        grey, dark = shade((150, 152, 150)), shade((108, 110, 112))
        cv.ellipse(x, y, 0.085, 0.018, (20, 20, 30), 0.30)
        cv.rect(x - 0.055, y - 0.035, 0.11, 0.035, dark)
        cv.rect(x - 0.026, y - 0.15, 0.052, 0.12, grey)
        cv.rect(x - 0.055, y - 0.17, 0.11, 0.025, dark)
        cv.rect(x - 0.045, y - 0.245, 0.09, 0.08, grey)
        cv.rect(x - 0.022, y - 0.232, 0.044, 0.054, (255, 206, 92))
        cv.polygon([(x - 0.095, y - 0.24), (x - 0.03, y - 0.30), (x + 0.03, y - 0.30), (x + 0.095, y - 0.24)], dark)
        cv.ellipse(x, y - 0.31, 0.018, 0.022, grey)
    elif extra == "stone":
        grey = shade((138, 140, 146))
        cv.ellipse(x, y, 0.10, 0.018, (20, 20, 30), 0.30)
        pts = [(-0.095, 0), (-0.085, -0.07), (-0.035, -0.135), (0.03, -0.125), (0.08, -0.075), (0.095, 0)]
        cv.polygon([(x + a, y + b) for a, b in pts], grey)
        cv.polygon([(x + a, y + b) for a, b in [(0.03, -0.125), (0.08, -0.075), (0.095, 0), (0.02, 0)]], mix(grey, (20, 20, 40), 0.32))
        cv.polygon([(x + a, y + b) for a, b in [(-0.085, -0.07), (-0.035, -0.135), (0.03, -0.125), (-0.02, -0.085)]], mix(grey, (255, 255, 255), 0.35))


def weather(cv, sky, rng):
    """Rain or snow in front of everything: a jittered lattice of strokes or flakes."""
    if sky == "rain":
        for i in range(int(8 * cv.w)):
            for k in range(int(5 * cv.h)):
                x, y = (i + 0.5 * (k % 2) + rng.uniform(0, 0.3)) / 8, (k + rng.uniform(0, 0.3)) / 5
                cv.stroke([(x, y), (x - 0.022, y + 0.085)], 0.0085, (214, 228, 244), 0.75)
    elif sky == "snowfall":
        for i in range(int(7 * cv.w)):
            for k in range(int(6 * cv.h)):
                x, y = (i + 0.5 * (k % 2) + rng.uniform(0, 0.4)) / 7, (k + rng.uniform(0, 0.4)) / 6
                cv.ellipse(x, y, 0.0135, 0.0135, (255, 255, 255))


def render(scene, seed, width, height):
    """The picture of a scene, uint8 [height, width, 3]."""
    rng = random.Random(seed)
    cv = Canvas(width, height)
    sky, count = scene["sky"], scene["count"]
    dim = DIM[sky]
    line = backdrop(cv, sky, scene["ground"], rng)
    behind(cv, scene, line, rng)
    col = floor(cv, line, sky, scene["ground"])
    left, right = 0.0, cv.w
    if scene["extra"] in ("lantern", "stone"):
        beside(cv, scene, line, rng)
        if scene["side"] == "left":
            left += 0.19
        else:
            right -= 0.19
    room = (right - left) / count
    size = min(0.50, room * {1: 0.54, 2: 0.64, 3: 0.68, 4: 0.70}[count])
    turn = rng.choice([-1, 1])
    for i in range(count):
        kind = scene["trees"][min(i, len(scene["trees"]) - 1)]
        s = size * rng.uniform(0.96, 1.04)
        x = left + room * (i + 0.5) + rng.uniform(-0.02, 0.02) * room
        if scene["style"] == "cascading":
            x -= turn * s * 0.18
        foot = line + 0.075 + rng.uniform(-0.006, 0.006)
        w, h = (v * s for v in POT_SIZE[scene["shape"]])
        cv.ellipse(x + w * 0.05, foot + 0.004, w * 0.56, 0.017 + s * 0.02, mix(col, (0, 0, 20), 0.42))
        rim = foot - h
        tree(cv, x, rim, s, kind["foliage"], scene["style"], turn, dim, rng)
        pot(cv, x, rim, s, kind["pot"], scene["shape"], dim)
    weather(cv, sky, rng)
    return cv.array()
