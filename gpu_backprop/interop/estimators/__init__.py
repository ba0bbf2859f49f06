"""The estimators of interop/sklearn.py, which import scikit-learn."""
