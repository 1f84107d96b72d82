"""The input of predictors: fitted objects with a method such as ``predict``."""
