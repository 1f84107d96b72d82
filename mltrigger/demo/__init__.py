"""The demonstration: small scanned pages, and real models that read and sort them.

It needs rapidocr, onnxruntime, Pillow, scikit-learn and pandas. Nothing is downloaded. ``models``
and ``training_texts`` import nothing else of mltrigger: a user would bring such plain functions.
"""
