"""The tabs where pictures are made: from words, from a picture, in a part of one. The only package of builtin with Gradio.

    models, presets   what can be chosen; no widgets
    common            the widgets that all tabs have, their request, and back
    sources           pictures and masks that a visitor gives
    results           pictures that were made
"""
