"""The demonstration: small scanned pages, and the real models that read and sort them.

Needs rapidocr, onnxruntime, Pillow, scikit-learn and pandas; nothing is downloaded. ``models``,
``render_pages`` and ``training_texts`` import nothing else of mltrigger: the models are what a user
would bring, plain functions.
"""
