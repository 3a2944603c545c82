"""Colours that colour-blind readers can tell apart, from Okabe and Ito (2008)."""

BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLORS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY)
BLACK, GREY = "#000000", "#666666"
PURPLE, WINE = "#332288", "#882255"
"""Two more such colours, from Tol (2021), for plots that need more than six."""
