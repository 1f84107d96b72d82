"""The demonstration: small scanned pages, and the real models that read and sort them.

Needs the extra ``tutorial`` (rapidocr, onnxruntime, Pillow, scikit-learn, pandas); nothing is downloaded. Imports
nothing else of mltrigger, so that the models here are what a user would bring: plain functions.
"""
