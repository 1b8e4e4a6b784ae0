"""Some hundred tokens of plain English, so that a real model is confident in most of them."""

from __future__ import annotations

PROSE = """\
A terrazzo floor begins as rubble. The mason collects chips of marble, quartz and glass, washes
them, and sorts them by size and colour. Then he mixes cement with water and sand until the paste is
stiff enough to hold a stone on its surface, and pours it in one piece over the prepared bed. While
the mixture is still wet he scatters the chips by hand, heavy ones first, and presses them down with
a roller. The next days are for waiting. Cement does not dry, it hardens: water and lime join into
crystals that grow between the grains and lock them together. If the floor dries too quickly it
cracks, so the workers cover it with wet cloth and sprinkle it every morning and every evening.

After about a week the surface is hard enough to grind. At first the machine uses coarse stones that
cut away the top layer and open the chips, and the floor looks dull and grey. With every pass the
stones get finer. Small holes are filled with a thin paste of the same colour, and when that has
hardened, the grinding starts again. At the end the floor is polished until one can see the windows
in it. What was a heap of waste from a sculptor's workshop has become a single smooth plate that
will last longer than the house.

There is a lesson in this for people who build other things. None of the chips is worth much alone,
and no two are alike. What makes the floor strong is that nobody tries to place them one after the
other. They are thrown together, in the right proportions and at the right moment, and the work
that follows treats them all as one. The capital of Italy is Rome, but the best terrazzo was made
in Venice, where houses stand on wooden piles and move a little with the tide. A floor of large
tiles would break there. A floor of thousands of small stones can bend.
"""
