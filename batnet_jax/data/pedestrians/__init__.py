"""Draws the images of the embedded data set. `draw` has the public functions.

plan (the images to draw) -> identity, camera (fixed properties) -> scene, figure, texture -> raster
(filled shapes) -> camera (the exposed image). All random numbers come from `dice`. `style` sets the
difficulty.
"""
